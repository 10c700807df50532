"""Delivery: brings the messages of the outbox to people, through the services that Apprise knows.

A message is marked only after it was delivered, address by address: a sender that is killed in
between repeats at most that one. What does not belong here: deciding what people are notified of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.alerting.addresses import tenant_urls
from leora_pipeline.core.alerting.channels import Message, fingerprint
from leora_pipeline.core.alerting.sending import Sender
from leora_pipeline.core.backoff import Backoff
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)

PAUSES = Backoff(first=60, longest=900)
"""What fails is tried again after growing pauses; a receiver that is back hears within this."""

EXPIRE_AFTER_DAYS = 7
"""What could not be delivered for so long is no news: a digest counts from its making on, a message
about an incident from the incident's end on. That of an open incident never expires."""

_TYPES = {"error": "failure", "warn": "warning", "info": "info"}


@dataclass(frozen=True)
class Delivery:
    """What became of the messages that waited.

    Attributes:
        sent: Messages that all of their addresses have now.
        failed: Messages that some address could not be given.
        unaddressed: Messages that no address is configured for.
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
        connection.execute(SQL.expire, {"expire_after": EXPIRE_AFTER_DAYS})
        due = connection.execute(SQL.due, {"at_once": at_once}).all()
        own_urls = tenant_urls(connection)
    sent = failed = unaddressed = 0
    errors: dict[str, None] = {}
    with Sender() as sender:
        for message in due:
            urls = {
                fingerprint(url): url for url in [*alert_urls, *own_urls.get(message.tenant_id, [])]
            }
            if not urls:
                unaddressed += 1
                continue
            failures, is_sent = _deliver(
                engine, sender, message.tenant_id, message.message_id, urls, deadline=deadline
            )
            sent += is_sent
            failed += bool(failures)
            errors |= dict.fromkeys(failures)
            if time.monotonic() > deadline:
                break
    return Delivery(sent, failed, unaddressed, tuple(errors))


def _deliver(
    engine: sa.Engine,
    sender: Sender,
    tenant_id: UUID,
    message_id: int,
    urls: Mapping[str, str],
    *,
    deadline: float,
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
            connection.execute(SQL.allow_sending)
            # Locked until this address is recorded, so that no other sender sends it there as well.
            message = connection.execute(SQL.claim, scope).one_or_none()
            if message is None:
                return failures, False  # Another sender is at it, or is done with it.
            lacking = [name for name in urls if name not in message.delivered_to]
            if not lacking:
                connection.execute(SQL.mark_sent, scope)
                return [], True
            earlier = connection.execute(SQL.earlier, scope).scalars()
            # An address hears of an incident in order: its end not before its beginning.
            ready = set(lacking).difference(tried).intersection(*earlier.all())
            chosen = next((name for name in lacking if name in ready), None)
            if chosen is None or time.monotonic() > deadline:
                if failures:
                    _record_failure(connection, scope, message.attempts + 1, failures)
                return failures, False
            tried.add(chosen)
            type_ = "success" if message.event == "resolved" else _TYPES[message.severity]
            error = sender.send(
                urls[chosen],
                Message(message.title, message.body, type_, f"{tenant_id}/{message.kind}"),
            )
            if error is None:
                connection.execute(SQL.record_delivery, {**scope, "fingerprint": chosen})
            else:
                failures.append(error)


def _record_failure(
    connection: sa.Connection,
    scope: Mapping[str, object],
    attempts: int,
    failures: Sequence[str],
) -> None:
    connection.execute(
        SQL.record_failure,
        {
            **scope,
            "attempts": attempts,
            "pause": PAUSES.after(attempts),
            "error": "; ".join(failures),
        },
    )
