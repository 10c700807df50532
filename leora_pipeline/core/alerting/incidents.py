"""Incidents: what people are notified of. Opened once, reminded at most daily, resolved once.

Compares what is wrong now (`find_problems`, which alone decides that) with the incidents that are
open, and writes a message for each difference in the same transaction. What does not belong here:
delivering the messages, which is `delivery`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.alerting.outbox import shown_time, write_message
from leora_pipeline.core.customers.gate import describe_released
from leora_pipeline.core.database.connection import lock, now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.reporting.problems import KINDS, Problem, find_problems, title_of
from leora_pipeline.core.reporting.status import status_of
from leora_pipeline.core.text import visible

SQL = statements(__name__)

REMIND_AFTER_HOURS = 24


@dataclass(frozen=True)
class Changes:
    """How many incidents were opened, reminded of and resolved."""

    opened: int = 0
    reminded: int = 0
    resolved: int = 0


def sync_incidents(engine: sa.Engine) -> Changes:
    """Brings the incidents to what is wrong now, and writes the messages about it.

    One at a time: another one waits, and then sees what this one has done.
    """
    with transaction(engine) as connection:
        lock(connection, "incidents")
        instant = now(connection)
        problems = {
            (problem.tenant_id, problem.kind): problem
            for problem in find_problems(status_of(connection))
        }
        incidents = {
            (row.tenant_id, row.kind): row
            for row in connection.execute(
                SQL.open_incidents,
                {"remind_after": REMIND_AFTER_HOURS},
            )
        }
        gone = [incidents[key] for key in incidents.keys() - problems.keys()]
        notified = {
            key: problem for key, problem in problems.items() if not _explained(key, problems)
        }
        new = [problem for key, problem in notified.items() if key not in incidents]
        old = [(incidents[key], notified[key]) for key in notified.keys() & incidents.keys()]
        due = [(incident, problem) for incident, problem in old if incident.is_reminder_due]
        # The old before the new: what follows from something graver may take its place.
        for incident in sorted(gone, key=lambda row: row.incident_id):
            _resolve(connection, incident, instant)
        for incident, problem in due:
            _remind(connection, incident, problem, instant)
        for problem in new:
            _open(connection, problem, instant)
    return Changes(opened=len(new), reminded=len(due), resolved=len(gone))


def _explained(key: tuple[UUID, str], problems: Mapping[tuple[UUID, str], Problem]) -> bool:
    """Returns whether a problem follows from a graver one of the same tenant."""
    tenant_id, kind = key
    return any((tenant_id, graver) in problems for graver in KINDS[kind].explained_by)


def _open(connection: sa.Connection, problem: Problem, instant: datetime) -> None:
    incident_id: int = connection.execute(
        SQL.open_incident,
        {
            "tenant_id": problem.tenant_id,
            "tenant_slug": problem.tenant_slug,
            "kind": problem.kind,
            "severity": problem.severity,
            "message": visible(problem.message),
            "now": instant,
        },
    ).scalar_one()
    write_message(
        connection,
        "opened",
        tenant_id=problem.tenant_id,
        tenant_slug=problem.tenant_slug,
        incident_id=incident_id,
        kind=problem.kind,
        severity=problem.severity,
        what=title_of(problem.kind),
        body=f"{visible(problem.message)}\n\nSince {shown_time(instant)}.",
        instant=instant,
    )


def _remind(
    connection: sa.Connection, incident: sa.Row[Any], problem: Problem, instant: datetime
) -> None:
    scope = {"tenant_id": incident.tenant_id, "incident_id": incident.incident_id}
    connection.execute(SQL.drop_reminders, scope)
    connection.execute(SQL.update_incident, {**scope, "message": visible(problem.message)})
    write_message(
        connection,
        "reminder",
        tenant_slug=problem.tenant_slug,
        **scope,
        kind=problem.kind,
        severity=problem.severity,
        what=f"{title_of(problem.kind)} (reminder)",
        body=f"{visible(problem.message)}\n\nSince {shown_time(incident.opened_at)}, "
        f"{shown_duration(instant - incident.opened_at)} ago.",
        instant=instant,
    )


def _resolve(connection: sa.Connection, incident: sa.Row[Any], instant: datetime) -> None:
    scope = {"tenant_id": incident.tenant_id, "incident_id": incident.incident_id}
    connection.execute(SQL.drop_reminders, scope)
    connection.execute(SQL.resolve_incident, {**scope, "now": instant})
    how = ""
    if incident.kind == "tenant_held":
        released_by = connection.execute(
            SQL.last_release, {"tenant_id": incident.tenant_id}
        ).scalar_one_or_none()
        how = f"\n{describe_released(released_by)}" if released_by else ""
    write_message(
        connection,
        "resolved",
        tenant_slug=incident.tenant_slug,
        **scope,
        kind=incident.kind,
        severity="info",
        what=f"{title_of(incident.kind)} (resolved)",
        body=f"Resolved {shown_time(instant)}, after "
        f"{shown_duration(instant - incident.opened_at)}.{how}\n\n"
        f"It was: {visible(incident.message)}",
        instant=instant,
    )


def shown_duration(duration: timedelta) -> str:
    """Returns a duration for people, in its two largest units."""
    minutes = int(duration.total_seconds()) // 60
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"
