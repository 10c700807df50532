"""The gate: stops the downward moves of a tenant whose orders seem to have gone missing.

A demotion because a last order date went back or vanished is the mark of a truncated or unreadable
order table; a demotion by age is not. Where too many of the former would come together within a
day, over all paths, the tenant is held: a row in ``tenant_hold`` that every path obeys. What does
not belong here: writing customers, which is `apply`'s.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import lock, now
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)

logger = logging.getLogger(__name__)

FULL_RUN = "full run"
"""What has released a hold that nobody released by hand; people are recorded with their reason."""


@dataclass(frozen=True)
class GateMeasurement:
    """What the gate decides by, for one tenant.

    Attributes:
        order_loss: Customers whose demotion by order loss is unsynced, and those demoted so within
            the last 24 hours that still are; each counts once.
        classified: The tenant's customers that have a type and are not pinned; counted to the end
            only where that makes a difference, as it does in excess.
        is_excess: Whether `order_loss` exceeds both limits of the tenant's policy.
    """

    order_loss: int
    classified: int
    is_excess: bool


def judge(connection: sa.Connection, tenant_id: UUID, order_loss: int) -> GateMeasurement:
    """Judges demotions by order loss by a tenant's limits.

    Args:
        connection: Within a transaction.
        tenant_id: The tenant.
        order_loss: How many customers would be demoted so, or have been within the last 24 hours.
    """
    row = connection.execute(SQL.judge, {"tenant_id": tenant_id, "order_loss": order_loss}).one()
    return GateMeasurement(row.order_loss, row.classified, row.is_excess)


def is_held(connection: sa.Connection, tenant_id: UUID) -> bool:
    """Returns whether a hold of the tenant is in force."""
    held: bool = connection.execute(SQL.is_held, {"tenant_id": tenant_id}).scalar_one()
    return held


def read_tenant_holds(connection: sa.Connection) -> list[dict[str, Any]]:
    """Returns a row for each tenant: its id and slug, and of a hold in force since when and why."""
    return [dict(row) for row in connection.execute(SQL.tenant_holds).mappings()]


def describe_order_loss(customers: int | None = None, classified: int | None = None) -> str:
    """Says why a tenant is held, or would be.

    Args:
        customers: How many customers would be demoted; None where that is not known.
        classified: Of how many.
    """
    counted = "too many" if customers is None else f"{customers} of {classified}"
    return f"{counted} customers would be demoted because orders are gone"


def describe_release(tenant_slug: str) -> str:
    """Says how a hold ends."""
    allow = describe_mass_change(f"--tenant-slug {shlex.quote(tenant_slug)}")
    return f"restore them, or say why they are meant to be gone: {allow}"


def describe_mass_change(scope: str) -> str:
    """Returns the command that ends a hold; a person has to put the reason in.

    Args:
        scope: The options that say what is updated.
    """
    return f"`leora update {scope} --allow-mass-change --reason '…'`"


def describe_released(released_by: str) -> str:
    """Says how a hold has ended.

    Args:
        released_by: As it is recorded on the hold.
    """
    if released_by == FULL_RUN:
        return "A full run found the orders back and released the hold."
    return f"The hold was released by hand, by {released_by}"


def evaluate_gate(
    connection: sa.Connection, writer: Writer, tenant_id: UUID, *, may_release: bool
) -> bool:
    """Holds or releases a tenant by what would be written now.

    Args:
        connection: Within a transaction.
        writer: What would write; it may name the tenant as one whose mass change is meant.
        tenant_id: The tenant.
        may_release: Whether this may end a hold: only a full run has seen all of the tenant.

    Returns:
        Whether the tenant is held afterwards.
    """
    # Two writers that each stay below the limit could exceed it together: one decides at a time.
    lock(connection, "gate", tenant_id)
    was_held = is_held(connection, tenant_id)
    allowed = tenant_id in writer.allow_mass_change
    if allowed and was_held:
        _release(connection, tenant_id, writer.released_by)
        return False
    scope = {
        "tenant_id": tenant_id,
        "tenant_ids": [tenant_id],
        "as_of": writer.as_of or now(connection),
    }
    measured = None
    if connection.execute(SQL.has_unsynced_order_loss, scope).scalar_one():
        order_loss: int = connection.execute(SQL.count_order_loss, scope).scalar_one()
        measured = judge(connection, tenant_id, order_loss)
    if measured is None or not measured.is_excess:
        if was_held and may_release:
            _release(connection, tenant_id, FULL_RUN)
            return False
        return was_held
    hold = {
        "tenant_id": tenant_id,
        "run_id": writer.run_id,
        "order_loss": measured.order_loss,
        "classified": measured.classified,
    }
    if allowed:
        # It would have been held: who let it pass, and why, is recorded all the same.
        connection.execute(SQL.record_passage, {**hold, "released_by": writer.released_by})
        return False
    if not was_held:
        logger.warning(
            "Tenant %s is held: %s",
            tenant_id,
            describe_order_loss(measured.order_loss, measured.classified),
        )
        connection.execute(SQL.hold, hold)
    return True


def _release(connection: sa.Connection, tenant_id: UUID, released_by: str) -> None:
    connection.execute(
        SQL.release,
        {"tenant_id": tenant_id, "released_by": released_by},
    )
