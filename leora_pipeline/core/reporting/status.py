"""Status: how the pipeline stands. Only reads, and outside Dagster.

Dagster's daemon can die while its web server stays up, so that this must not ask either. What does
not belong here: what of it is wrong, which the table of `problems` decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.crm.requirements import missing_triggers, open_doors, schema_revision
from leora_pipeline.core.customers.gate import read_tenant_holds
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.quality.catalog import CHECKS, read_freshness
from leora_pipeline.core.quality.verdicts import STALE_AFTER_HOURS, Severity, Verdict

SQL = statements(__name__)

STUCK_AFTER_HOURS = 2
"""The maximum run time of dagster.yaml: what is running for longer is not."""


@dataclass(frozen=True)
class TenantStatus:
    """How a tenant's runs stand.

    Of a kind of runs the last one that has ended speaks, so that what went wrong is not forgotten
    for as long as the next run takes to go wrong as well.

    Attributes:
        tenant_id: The tenant's id.
        tenant_slug: The tenant.
        last_full_success: When its last successful full run ended (UTC), or None.
        is_stale: Whether that is longer ago than two days; of a new tenant, whether its first
            night has been missed.
        last_status: The status of its last full run: running, succeeded or failed; None before any.
        last_error: What went wrong in the last full run that has ended, if it failed.
        last_incremental_error: What went wrong in the last incremental run that has ended, if it
            failed and no full run has succeeded since.
        is_stuck: Whether the last full run has been running for longer than any may: it was
            killed; another that has begun since does not change that until it ends.
    """

    tenant_id: UUID
    tenant_slug: str
    last_full_success: datetime | None
    is_stale: bool
    last_status: str | None
    last_error: str | None
    last_incremental_error: str | None
    is_stuck: bool


@dataclass(frozen=True)
class Hold:
    """A hold in force: how many of the tenant's customers were about to be demoted, since when."""

    tenant_id: UUID
    tenant_slug: str
    held_at: datetime
    order_loss_customers: int
    classified_customers: int


@dataclass(frozen=True)
class Queue:
    """A tenant's changes that no run has looked at yet, and the age of the oldest.

    The tenant may be one that the CRM no longer has: then it has no slug, and the next full run
    clears the queue.
    """

    tenant_id: UUID
    tenant_slug: str | None
    pending: int
    oldest_seconds: float


@dataclass(frozen=True)
class Quarantined:
    """A tenant's customers that the CRM's database refuses to have written.

    Attributes:
        tenant_id: The tenant's id.
        tenant_slug: The tenant.
        customers: How many there are.
        since: When the first of them was quarantined (UTC).
        customer_id: One of them, the last to be tried.
        error: What the database said of that one.
    """

    tenant_id: UUID
    tenant_slug: str
    customers: int
    since: datetime
    customer_id: UUID
    error: str


@dataclass(frozen=True)
class ListenerStatus:
    """A real-time worker that runs."""

    listener_id: str
    started_at: datetime
    wants_notify: bool


@dataclass(frozen=True)
class Incident:
    """A problem that people were notified of, open until `resolved_at` (UTC)."""

    tenant_slug: str
    kind: str
    severity: Severity
    message: str
    opened_at: datetime
    resolved_at: datetime | None


@dataclass(frozen=True)
class Status:
    """How the pipeline stands.

    Attributes:
        schema_revision: The revision of the pipeline's schema.
        tenants: Each tenant's runs, in the order of slugs.
        holds: The holds in force.
        failing: The latest verdicts that are failures.
        missing_triggers: Triggers of the CRM's tables that are not there: changes that they would
            capture are seen by full runs alone.
        open_doors: Privileges that are granted and not needed, each with what revokes it.
        queues: The tenants that have changes pending.
        quarantined: The tenants that have quarantined customers.
        listeners: The real-time workers that run.
        unsynced: Customers of tenants that are not held whose row in the CRM still has to be
            written.
        oldest_transaction_seconds: The age of the oldest open transaction on the server, which
            keeps dead rows alive; None where the role sees none.
        sees_transactions: Whether the role sees those of others.
        incidents: What people were notified of: the open, and those resolved within a day.
        unsent_messages: Messages of alerts and digests that wait to be delivered.
        delivery_error: Why the latest of them that was tried could not be; None where none was.
    """

    schema_revision: str | None
    tenants: list[TenantStatus]
    holds: list[Hold]
    failing: list[Verdict]
    missing_triggers: list[str]
    open_doors: list[str]
    queues: list[Queue]
    quarantined: list[Quarantined]
    listeners: list[ListenerStatus]
    unsynced: int
    oldest_transaction_seconds: float | None
    sees_transactions: bool
    incidents: list[Incident]
    unsent_messages: int
    delivery_error: str | None

    @property
    def pending(self) -> int:
        """Changes of customers that no run has looked at yet."""
        return sum(queue.pending for queue in self.queues)

    @property
    def oldest_pending_seconds(self) -> float | None:
        """The age of the oldest of them; None where there is none."""
        return max((queue.oldest_seconds for queue in self.queues), default=None)


def read_status(engine: sa.Engine) -> Status:
    """Reads how the pipeline stands."""
    with transaction(engine) as connection:
        return status_of(connection)


def status_of(connection: sa.Connection) -> Status:
    """Reads how the pipeline stands, within a transaction."""

    def read(name: str, **parameters: object) -> list[dict[str, Any]]:
        rows = connection.execute(SQL[name], parameters)
        return [dict(row) for row in rows.mappings()]

    (outbox,) = read("outbox")
    (oldest_transaction,) = read("oldest_transaction")
    stale = {
        row["tenant_id"]
        for row in read_freshness(connection)
        if row["unjudged"] is None and row["hours_since"] > STALE_AFTER_HOURS
    }
    return Status(
        schema_revision=schema_revision(connection),
        tenants=[
            TenantStatus(**row, is_stale=row["tenant_id"] in stale)
            for row in read("tenants", stuck_after=STUCK_AFTER_HOURS)
        ],
        holds=[Hold(**row) for row in read_tenant_holds(connection) if row["held_at"] is not None],
        failing=[
            Verdict(**row) for row in read("failing_now", checks=[check.name for check in CHECKS])
        ],
        missing_triggers=missing_triggers(connection),
        open_doors=open_doors(connection),
        queues=[Queue(**row) for row in read("queues")],
        quarantined=[Quarantined(**row) for row in read("quarantined")],
        listeners=[ListenerStatus(**row) for row in read("listeners")],
        unsynced=read("unsynced")[0]["unsynced"],
        incidents=[Incident(**row) for row in read("incidents")],
        **oldest_transaction,
        **outbox,
    )
