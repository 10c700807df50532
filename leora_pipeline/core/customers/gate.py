"""The gate: stops the downward moves of a tenant whose orders seem to have gone missing.

A demotion because a last order date went back or vanished is the mark of a truncated or unreadable
order table; a demotion by age is not. Where too many of the former would come together within a
day, over all paths, the tenant is held: a row in ``tenant_hold`` that every path obeys. What does
not belong here: writing customers, which is `apply`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.database.connection import now
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.run.run import Run

SQL = statements(__name__)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateMeasurement:
    """What the gate judges by, for one tenant.

    Attributes:
        lost: Customers whose demotion by a lost order waits to be told, and those demoted so within
            the last 24 hours.
        classified: The tenant's customers that have a type and are not pinned; counted to the end
            only where that makes a difference, as it does in excess.
        is_excess: Whether `lost` exceeds both limits of the tenant's policy.
    """

    lost: int
    classified: int
    is_excess: bool


def measure(connection: sa.Connection, tenant_id: UUID, waiting: int) -> GateMeasurement:
    """Weighs demotions by lost orders that wait to be told against a tenant's limits.

    Args:
        connection: Within a transaction.
        tenant_id: The tenant.
        waiting: How many of its customers wait for such a demotion.
    """
    row = connection.execute(SQL.measure, {"tenant_id": tenant_id, "waiting": waiting}).one()
    return GateMeasurement(row.lost, row.classified, row.is_excess)


def is_held(connection: sa.Connection, tenant_id: UUID) -> bool:
    """Returns whether a hold of the tenant is in force."""
    held: bool = connection.execute(SQL.is_held, {"tenant_id": tenant_id}).scalar_one()
    return held


def evaluate_gate(
    connection: sa.Connection, run: Run, tenant_id: UUID, *, may_release: bool
) -> bool:
    """Holds or releases a tenant by what would be written now.

    Args:
        connection: Within a transaction.
        run: The run that asks; it may name the tenant as one whose mass change is meant.
        tenant_id: The tenant.
        may_release: Whether this may end a hold: only a full run has seen all of the tenant.

    Returns:
        Whether the tenant is held afterwards.
    """
    # Two writers that each stay below the limit could exceed it together: one decides at a time.
    connection.execute(SQL.lock_gate, {"tenant_id": tenant_id})
    was_held = is_held(connection, tenant_id)
    if tenant_id in run.allow_mass_change:
        if was_held:
            _release(connection, tenant_id, "allow_mass_change")
        return False
    waiting: int = connection.execute(
        SQL.count_order_loss,
        {"tenant_id": tenant_id, "as_of": run.as_of or now(connection)},
    ).scalar_one()
    reading = measure(connection, tenant_id, waiting) if waiting else None
    if reading is None or not reading.is_excess:
        if was_held and may_release:
            _release(connection, tenant_id, "full run")
            return False
        return was_held
    if not was_held:
        logger.warning(
            "Tenant %s is held: %d of %d customers would be demoted because orders are missing",
            tenant_id,
            reading.lost,
            reading.classified,
        )
        connection.execute(
            SQL.hold,
            {
                "tenant_id": tenant_id,
                "run_id": run.run_id,
                "lost": reading.lost,
                "classified": reading.classified,
            },
        )
    return True


def _release(connection: sa.Connection, tenant_id: UUID, released_by: str) -> None:
    connection.execute(
        SQL.release,
        {"tenant_id": tenant_id, "released_by": released_by},
    )
