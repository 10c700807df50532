"""Status: is the pipeline healthy, and if not, what is wrong. Reads alone, and outside Dagster.

Dagster's daemon can die while its web server stays up, so that this must not ask either.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from leora_pipeline.core.database import SQL, schema_revision, transaction
from leora_pipeline.core.quality.checks import STALE_AFTER_HOURS, Verdict
from leora_pipeline.core.statements import statement

PENDING_TOO_LONG_SECONDS = 600
"""The sensor looks every few seconds; what it has left for so long, nobody takes up."""

STUCK_AFTER_HOURS = 2
"""The maximum run time of dagster.yaml: what is running for longer is not."""


@dataclass(frozen=True)
class TenantStatus:
    """How a tenant's runs stand.

    Attributes:
        tenant_slug: The tenant.
        last_full_success: When its last successful full run ended (UTC), or None.
        is_stale: Whether that is longer ago than two days; of a new tenant, whether its first
            night has been missed.
        last_status: The status of its last full run: running, succeeded or failed; None before any.
        last_error: What went wrong in that run, if it failed.
        is_stuck: Whether that run has been running for longer than any may: it was killed.
    """

    tenant_slug: str
    last_full_success: datetime | None
    is_stale: bool
    last_status: str | None
    last_error: str | None
    is_stuck: bool


@dataclass(frozen=True)
class Hold:
    """A hold in force: how many of the tenant's customers were about to be demoted, since when."""

    tenant_slug: str
    held_at: datetime
    lost_customers: int
    classified_customers: int


@dataclass(frozen=True)
class Status:
    """How the pipeline stands.

    Attributes:
        schema_revision: The revision of the pipeline's schema.
        tenants: Each tenant's runs, in the order of slugs.
        holds: The holds in force.
        failing: The latest verdicts of severity error that are failures.
        missing_triggers: Triggers of the CRM's tables that are not there: changes that they would
            capture are seen by full runs alone.
        pending: Changes of customers that no run has looked at yet.
        oldest_pending_seconds: The age of the oldest of them; None where there is none.
        untold: Customers that the CRM still has to be told about, of tenants that are not held.
        oldest_transaction_seconds: The age of the oldest open transaction on the server, which
            keeps dead rows alive; None where there is none, or the role may not see others'.
    """

    schema_revision: str | None
    tenants: list[TenantStatus]
    holds: list[Hold]
    failing: list[Verdict]
    missing_triggers: list[str]
    pending: int
    oldest_pending_seconds: float | None
    untold: int
    oldest_transaction_seconds: float | None

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each, with the way out; empty where nothing is."""
        lines = [
            f"{tenant.tenant_slug}: no full run has succeeded for {STALE_AFTER_HOURS} hours "
            "(is the Dagster daemon running? `leora update` runs it now)"
            for tenant in self.tenants
            if tenant.is_stale
        ]
        lines += [
            f"{tenant.tenant_slug}: the last full run failed: {tenant.last_error}"
            for tenant in self.tenants
            if tenant.last_status == "failed"
        ]
        lines += [
            f"{tenant.tenant_slug}: the last full run never ended, it was killed or hangs "
            "(`leora update` does its work)"
            for tenant in self.tenants
            if tenant.is_stuck
        ]
        lines += [
            f"{hold.tenant_slug}: held, {hold.lost_customers} of {hold.classified_customers} "
            "customers would be demoted because orders are gone; restore them, or run "
            f"`leora update --tenant-slug {shlex.quote(hold.tenant_slug)} --allow-mass-change`"
            for hold in self.holds
        ]
        if (self.oldest_pending_seconds or 0) > PENDING_TOO_LONG_SECONDS:
            lines.append(
                f"{self.pending} changes have been pending for up to "
                f"{self.oldest_pending_seconds:.0f} s (is the sensor new_orders on, and "
                "the Dagster daemon running? `leora update --incremental` takes them up now)"
            )
        told = {"fresh", "no_tenant_held"}  # Said above, and as of now.
        lines += [
            f"{verdict.tenant_slug}: {verdict.check_name}: {verdict.message}"
            for verdict in self.failing
            if verdict.check_name not in told
        ]
        return lines


def read_status(engine: sa.Engine) -> Status:
    """Reads how the pipeline stands."""
    with transaction(engine) as connection:
        tenants = [
            TenantStatus(**row._mapping)
            for row in connection.execute(
                statement(SQL, "status.sql", "tenants"),
                {"stale_after": STALE_AFTER_HOURS, "stuck_after": STUCK_AFTER_HOURS},
            )
        ]
        queue = connection.execute(statement(SQL, "status.sql", "queue")).one()
        return Status(
            schema_revision=schema_revision(connection),
            tenants=tenants,
            holds=[
                Hold(**row._mapping)
                for row in connection.execute(statement(SQL, "gate.sql", "holds"))
            ],
            failing=[
                Verdict(**row._mapping)
                for row in connection.execute(statement(SQL, "quality.sql", "failing_now"))
            ],
            missing_triggers=list(
                connection.execute(statement(SQL, "status.sql", "missing_triggers")).scalars()
            ),
            pending=queue.pending,
            oldest_pending_seconds=queue.oldest_seconds,
            untold=connection.execute(statement(SQL, "status.sql", "untold")).scalar_one(),
            oldest_transaction_seconds=connection.execute(
                statement(SQL, "status.sql", "oldest_transaction")
            ).scalar_one(),
        )
