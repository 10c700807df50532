"""Channels: sends one message to one address, through the services that Apprise knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from apprise import NotifyBase


SEND_TIMEOUT_SECONDS = 20
"""How long one address may take for one message."""


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

    service = service_of(url)
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


def service_of(url: str) -> NotifyBase | None:
    """Returns the service behind a URL, or None where there is none."""
    import apprise

    return apprise.Apprise.instantiate(url)


def fingerprint(url: str) -> str:
    """Returns what stands for a URL where its secrets must not."""
    return sha256(url.encode()).hexdigest()[:12]


def shown_url(url: str) -> str:
    """Returns a URL for people: the service and the host, no secrets, and its fingerprint."""
    service = service_of(url)
    # Of a webhook the path is often the secret, which Apprise would show.
    known = re.match(
        r"\w+://[^/?]*" if service else r"\w+:/",
        service.url(privacy=True) if service else url,  # type: ignore[no-untyped-call]
    )
    shown = re.sub(r"//[^/@]*@", "//…@", known[0]) if known else "a text"
    return f"{shown}/… ({fingerprint(url)})"


def _without_secrets(url: str, text: str) -> str:
    """Returns a text without the parts of a URL that are not shown with it."""
    shown = shown_url(url)
    for part in re.split(r"[/:@?&=,]+", url):
        for secret in {part, unquote(part)}:
            if len(secret) >= 4 and secret not in shown:
                text = text.replace(secret, "…")
    return text
