"""Channels: sends one message to one address, through the services that Apprise knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import unquote

from leora_pipeline.core.text import markdown, without_mentions

if TYPE_CHECKING:
    from apprise import NotifyBase


_DRAW_MARKDOWN = {
    *("discord", "guilded", "fluxer", "fluxers", "mmost", "mmosts", "nctalk", "nctalks"),
    *("revolt", "ryver", "zulip"),
}
"""Services, by their URL's scheme, that draw Markdown in what they are sent as plain text."""

_DRAW_TITLE = {"workflow", "workflows"}
"""Services that draw it in a title, too, which Apprise leaves as it is."""


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

    It takes as long as the receiver does: `sending` sets a limit.

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
    title, body = _as_written(service, message)
    result = services.notify(
        title=title,
        body=body,
        notify_type=message.type,
        body_format=apprise.NotifyFormat.TEXT,
    )
    if result:
        return None
    causes = " ".join(entry.message for entry in result.logs()) or "the service refused it"
    return f"{shown_url(url)}: {_without_secrets(url, ' '.join(causes.split()))}"


def _as_written(service: NotifyBase, message: Message) -> tuple[str, str]:
    """Returns title and body such that the service shows them as they are written.

    Apprise escapes plain text for the services that it knows to take Markdown, but not the title of
    a Teams card, and not at all for those that draw Markdown whatever they are sent.
    """
    names = _protocols(service)
    if names & _DRAW_MARKDOWN:
        return markdown(message.title), markdown(message.body)
    formats = service.notify_format
    if (formats[0] if isinstance(formats, tuple) else formats) == "markdown":
        title = markdown(message.title) if names & _DRAW_TITLE else message.title
        return without_mentions(title), without_mentions(message.body)
    return message.title, message.body


def _protocols(service: NotifyBase) -> set[str]:
    found: set[str] = set()
    for names in (service.protocol, service.secure_protocol):
        found |= {names} if isinstance(names, str) else set(names or ())
    return found


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
