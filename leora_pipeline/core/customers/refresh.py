"""Refresh: brings ``customer_state`` to what the orders say. Nothing else writes that derivation.

What is written is derived in a statement of its own, once the customers' state rows are locked. So
whatever commits in between is seen, and of two refreshes of a customer the later one sees the
earlier. What is pending for a customer is deleted with the same certainty. Nobody is waited for: a
customer whose state another session holds stays pending for the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)


def refresh_customers(
    connection: sa.Connection, writer: Writer, tenant_id: UUID, customer_ids: Sequence[UUID]
) -> list[UUID]:
    """Derives the state of some customers of one tenant anew, under lock.

    Args:
        connection: Within a READ COMMITTED transaction, which holds the locks until it ends.
        writer: Says by which instant to derive, and whether a last order date that differs needs
            to be synced.
        tenant_id: The customers' tenant.
        customer_ids: The customers. Those that the CRM no longer has are passed over, and so are
            those whose state another session holds: what is pending for these stays pending.

    Returns:
        The ids of the customers whose state was locked, ascending.
    """
    locked: list[UUID] = connection.execute(
        SQL.refresh_customers,
        {
            "tenant_id": tenant_id,
            "customer_ids": list(customer_ids),
            "as_of": writer.as_of,
            "write_dates": writer.write_dates,
        },
    ).scalar_one()
    return locked


def ensure_customer_state(
    connection: sa.Connection, tenant_id: UUID, customer_ids: Sequence[UUID]
) -> None:
    """Creates a state, which a refresh can lock, for customers that have none.

    Only in a short transaction: other sessions that create it too wait for this one to end.
    """
    connection.execute(
        SQL.ensure_customer_state,
        {"tenant_id": tenant_id, "customer_ids": list(customer_ids)},
    )


def enqueue_customers(
    connection: sa.Connection, tenant_id: UUID, customer_ids: Sequence[UUID]
) -> None:
    """Makes customers pending, as if a change of them had just been captured."""
    if customer_ids:
        connection.execute(
            SQL.enqueue_customers,
            {"tenant_id": tenant_id, "customer_ids": list(customer_ids)},
        )
