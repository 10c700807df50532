"""The outbox: messages that wait to be delivered, written in the transaction of what they report.

What does not belong here: what is reported (`incidents`, `digest`), and how it gets there
(`delivery`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.quality.verdicts import Severity
from leora_pipeline.core.text import terminal_line, visible

SQL = statements(__name__)

Event = Literal["opened", "reminder", "resolved", "win_back"]


def write_message(
    connection: sa.Connection,
    event: Event,
    *,
    tenant_id: UUID,
    tenant_slug: str,
    kind: str,
    severity: Severity | Literal["info"],
    what: str,
    body: str,
    instant: datetime,
    incident_id: int | None = None,
) -> None:
    """Puts a message into the outbox.

    Args:
        connection: Within the transaction of what the message reports.
        event: What has happened.
        tenant_id: The tenant that it is about.
        tenant_slug: That tenant's name.
        kind: The incident's kind, or ``win_back``.
        severity: How grave it is.
        what: The title, but for the tenant.
        body: Plain text.
        instant: Now.
        incident_id: The incident; a digest has none.
    """
    connection.execute(
        SQL.write_message,
        {
            "tenant_id": tenant_id,
            "incident_id": incident_id,
            "kind": kind,
            "event": event,
            "severity": severity,
            "title": visible(f"[Leora] {tenant_slug}: {what}"),
            "body": "\n".join(map(terminal_line, body.split("\n"))),
            "now": instant,
        },
    )


def shown_time(instant: datetime) -> str:
    """Returns an instant for people."""
    return f"{instant:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True)
class Unsent:
    """A message that waits to be delivered: how often that failed, and why the last time."""

    title: str
    event: str
    created_at: datetime
    attempts: int
    retry_at: datetime
    last_error: str | None


def read_unsent(engine: sa.Engine) -> list[Unsent]:
    """Returns the messages that wait, the oldest first."""
    with transaction(engine) as connection:
        rows = connection.execute(SQL.unsent)
        return [Unsent(**row._mapping) for row in rows]
