"""Write-back: brings the CRM to what the states say. Nothing else writes the CRM.

The customers and their states are locked together; those that another session holds are passed
over, since a run never waits for the CRM, and stay for the next round. Only then, in later
statements of the same transaction, is it read what there is to write, so that it is the truth of
that moment; the log is written with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.gate import evaluate_gate
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)


WRITE_BATCH = 5_000
"""Customers a transaction: their rows are locked against other writers until it commits."""


@dataclass(frozen=True)
class Applied:
    """What became of unsynced customers.

    Attributes:
        written: Customers whose row in the CRM was changed.
        moved: Those of them whose type was.
        withheld: Customers left as they are because their tenant is held.
    """

    written: int = 0
    moved: int = 0
    withheld: int = 0

    def __add__(self, other: Applied) -> Applied:
        return Applied(
            self.written + other.written, self.moved + other.moved, self.withheld + other.withheld
        )


def lock_customers(
    connection: sa.Connection,
    tenant_id: UUID,
    *,
    after: UUID | None = None,
    only: list[UUID] | None = None,
) -> list[UUID]:
    """Locks the next unsynced customers, and their states, without waiting for any.

    Args:
        connection: Within a READ COMMITTED transaction, which holds the locks until it ends.
        tenant_id: The tenant.
        after: Where the batch before this one ended.
        only: The customers to consider; None for all of the tenant.

    Returns:
        The ids of the locked customers, ascending, `WRITE_BATCH` at most.
    """
    return list(
        connection.execute(
            SQL.lock_customers,
            {"tenant_id": tenant_id, "after": after, "only": only, "batch": WRITE_BATCH},
        ).scalars()
    )


def apply_customers(
    connection: sa.Connection,
    writer: Writer,
    tenant_id: UUID,
    customer_ids: list[UUID],
    *,
    include_order_loss: bool = True,
) -> Applied:
    """Writes customers that this transaction has locked to the CRM, where it differs.

    Args:
        connection: Within the transaction of `lock_customers`.
        writer: What writes.
        tenant_id: The customers' tenant.
        customer_ids: The locked customers.
        include_order_loss: Whether demotions by order loss are written too. Otherwise they stay
            unsynced until the gate can see all that belong together.
    """
    if not customer_ids:
        return Applied()
    parameters: dict[str, object] = {
        "tenant_id": tenant_id,
        "customer_ids": customer_ids,
        "as_of": writer.as_of,
        "write_dates": writer.write_dates,
        "run_id": writer.run_id,
        "fallback_cause": writer.fallback_cause,
    }
    found = connection.execute(SQL.inspect, parameters).one()
    held = found.is_held
    if found.order_loss and include_order_loss:
        held = evaluate_gate(connection, writer, tenant_id, may_release=False)
    elif found.order_loss:
        excluded = set(found.order_loss)
        parameters["customer_ids"] = [one for one in customer_ids if one not in excluded]
    parameters |= {"as_of": found.as_of, "held": held}
    row = connection.execute(SQL.write_customers, parameters).one()
    return Applied(row.written, row.moved, row.withheld)
