"""Delivery: brings the messages of the outbox to people, through the services that Apprise knows.

A message is marked only after it was delivered, address by address: whoever is killed in between
repeats at most that one. What does not belong here: deciding what people are told.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.database import SQL, transaction
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.statements import statement

if TYPE_CHECKING:
    from apprise import NotifyBase

FIRST_PAUSE_SECONDS = 60
LONGEST_PAUSE_SECONDS = 900
"""What fails is tried again after growing pauses; a receiver that is back hears within this."""

SEND_TIMEOUT_SECONDS = 20
"""How long one address may take for one message."""

EXPIRE_AFTER_DAYS = 7
"""What nobody could be told for so long is no news: digests from their making on, and what was
said of an incident from its end on. That of an open incident never expires."""

_TYPES = {"error": "failure", "warn": "warning", "info": "info"}


@dataclass(frozen=True)
class Delivery:
    """What became of the messages that waited.

    Attributes:
        sent: Messages that all of their addresses have now.
        failed: Messages that some address could not be given.
        unaddressed: Messages for whom no address is configured.
        errors: Why deliveries failed, each cause once; no secrets in it.
    """

    sent: int
    failed: int
    unaddressed: int
    errors: tuple[str, ...]


def deliver_messages(
    engine: sa.Engine,
    alert_urls: Sequence[str],
    *,
    at_once: bool = False,
    seconds: float = float("inf"),
) -> Delivery:
    """Delivers the messages that are due; a delivery that fails is no error.

    Args:
        engine: The CRM's database.
        alert_urls: Where all messages go (``LEORA_ALERT_URLS``); a tenant's go to its own, too.
        at_once: Whether to try all that wait, whatever pause they are in.
        seconds: When to stop beginning; the rest is due the next time.
    """
    deadline = time.monotonic() + seconds
    with transaction(engine) as connection:
        connection.execute(
            statement(SQL, "delivery.sql", "expire"), {"expire_after": EXPIRE_AFTER_DAYS}
        )
        due = connection.execute(statement(SQL, "delivery.sql", "due"), {"at_once": at_once}).all()
        own_urls = tenant_urls(connection)
    sent = failed = unaddressed = 0
    errors: dict[str, None] = {}
    for message in due:
        urls = {digest(url): url for url in [*alert_urls, *own_urls.get(message.tenant_id, [])]}
        if not urls:
            unaddressed += 1
            continue
        failures, is_sent = _deliver(engine, message.tenant_id, message.message_id, urls, deadline)
        sent += is_sent
        failed += bool(failures)
        errors |= dict.fromkeys(failures)
        if time.monotonic() > deadline:
            break
    return Delivery(sent, failed, unaddressed, tuple(errors))


def _deliver(
    engine: sa.Engine, tenant_id: UUID, message_id: int, urls: Mapping[str, str], deadline: float
) -> tuple[list[str], bool]:
    """Delivers one message to those of its addresses that lack it, in a transaction for each.

    Returns:
        Why addresses could not be given it, and whether all of them have it now.
    """
    scope = {"tenant_id": tenant_id, "message_id": message_id}
    tried: set[str] = set()
    failures: list[str] = []
    while True:
        with transaction(engine) as connection:
            # Locked until this address is noted, so that nobody else sends it there as well.
            message = connection.execute(
                statement(SQL, "delivery.sql", "claim"), scope
            ).one_or_none()
            if message is None:
                return failures, False  # Somebody else is at it, or is done with it.
            lacking = [name for name in urls if name not in message.delivered_to]
            if not lacking:
                connection.execute(statement(SQL, "delivery.sql", "mark_sent"), scope)
                return [], True
            earlier = connection.execute(statement(SQL, "delivery.sql", "earlier"), scope).scalars()
            # An address hears of an incident in order: its end not before its beginning.
            ready = set(lacking).difference(tried).intersection(*earlier.all())
            chosen = next((name for name in lacking if name in ready), None)
            if chosen is None or time.monotonic() > deadline:
                if failures:
                    _record_failure(connection, scope, message.attempts + 1, failures)
                return failures, False
            tried.add(chosen)
            type_ = "success" if message.event == "resolved" else _TYPES[message.severity]
            error = send(
                urls[chosen],
                Message(message.title, message.body, type_, f"{tenant_id}/{message.kind}"),
            )
            if error is None:
                connection.execute(
                    statement(SQL, "delivery.sql", "note_delivery"), {**scope, "digest": chosen}
                )
            else:
                failures.append(error)


def _record_failure(
    connection: sa.Connection,
    scope: Mapping[str, object],
    attempts: int,
    failures: Sequence[str],
) -> None:
    connection.execute(
        statement(SQL, "delivery.sql", "note_failure"),
        {
            **scope,
            "attempts": attempts,
            "pause": pause_after(attempts),
            "error": "; ".join(failures),
        },
    )


def tenant_urls(connection: sa.Connection) -> dict[UUID, list[str]]:
    """Returns the tenants' own addresses."""
    urls: dict[UUID, list[str]] = {}
    for row in connection.execute(statement(SQL, "delivery.sql", "tenant_urls")):
        urls.setdefault(row.tenant_id, []).append(row.url)
    return urls


def add_tenant_url(connection: sa.Connection, tenant_id: UUID, url: str) -> None:
    """Gives a tenant an address of its own.

    Raises:
        WrongUsageError: There is no service behind it.
    """
    if _service(url) is None:
        raise WrongUsageError(
            f"{shown_url(url)} is no URL that Apprise knows; see docs/alerts.md for some that are"
        )
    connection.execute(
        statement(SQL, "delivery.sql", "add_tenant_url"), {"tenant_id": tenant_id, "url": url}
    )


def remove_tenant_url(connection: sa.Connection, tenant_id: UUID, url: str) -> None:
    """Takes an address from a tenant.

    Args:
        connection: Within a transaction.
        tenant_id: The tenant.
        url: The address, or its digest.

    Raises:
        WrongUsageError: The tenant has no such address.
    """
    found = [own for own in tenant_urls(connection).get(tenant_id, []) if url in (own, digest(own))]
    if not found:
        raise WrongUsageError(
            f"the tenant has no address {shown_url(url)}; `leora alerts urls` lists those it has, "
            "each with a digest that names it as well"
        )
    connection.execute(
        statement(SQL, "delivery.sql", "remove_tenant_url"),
        {"tenant_id": tenant_id, "url": found[0]},
    )


def pause_after(attempts: int) -> int:
    """Returns how many seconds to wait after so many failed attempts: twice as long each time."""
    return min(FIRST_PAUSE_SECONDS << min(attempts - 1, 20), LONGEST_PAUSE_SECONDS)


@dataclass(frozen=True)
class Message:
    """What an address is sent.

    Attributes:
        title: On one line.
        body: Plain text.
        type: ``failure``, ``warning``, ``success`` or ``info``, as Apprise calls them.
        key: What the messages about one problem have in common.
    """

    title: str
    body: str
    type: str
    key: str


def send(url: str, message: Message) -> str | None:
    """Sends a message to one address, an Apprise URL.

    Returns:
        None, or why that failed, on one line, without secrets.
    """
    import apprise

    service = _service(url)
    if service is None:
        return (
            f"{shown_url(url)}: this is no URL that Apprise knows; correct it in LEORA_ALERT_URLS, "
            "or with `leora alerts urls`"
        )
    if "overflow=" not in url:
        # Services of short messages get a long one in parts, instead of refusing it.
        service.overflow_mode = apprise.OverflowMode.SPLIT
    if getattr(service, "dedup", "") is None:
        # PagerDuty and its like keep incidents of their own, and know them by this.
        service.dedup = message.key  # type: ignore[attr-defined]
    services = apprise.Apprise()
    services.add(service)
    result = services.notify(
        title=message.title,
        body=message.body,
        notify_type=message.type,
        body_format=apprise.NotifyFormat.TEXT,
        timeout=SEND_TIMEOUT_SECONDS,
    )
    if result:
        return None
    causes = " ".join(entry.message for entry in result.logs()) or "the service refused it"
    return f"{shown_url(url)}: {_without_secrets(url, ' '.join(causes.split()))}"


def _service(url: str) -> NotifyBase | None:
    """Returns the service behind a URL, or None where there is none."""
    import apprise

    return apprise.Apprise.instantiate(url)


def digest(url: str) -> str:
    """Returns what stands for a URL where its secrets must not."""
    return sha256(url.encode()).hexdigest()[:12]


def shown_url(url: str) -> str:
    """Returns a URL for people: the service and the host, no secrets, and its digest."""
    service = _service(url)
    # Of a webhook the path is often the secret, which Apprise would show.
    known = re.match(
        r"\w+://[^/?]*" if service else r"\w+:/",
        service.url(privacy=True) if service else url,  # type: ignore[no-untyped-call]
    )
    shown = re.sub(r"//[^/@]*@", "//…@", known[0]) if known else "a text"
    return f"{shown}/… ({digest(url)})"


def _without_secrets(url: str, text: str) -> str:
    """Returns a text without the parts of a URL that are not shown with it."""
    shown = shown_url(url)
    for part in re.split(r"[/:@?&=,]+", url):
        for secret in {part, unquote(part)}:
            if len(secret) >= 4 and secret not in shown:
                text = text.replace(secret, "…")
    return text
