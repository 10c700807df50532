"""A batch: some customers of one tenant, refreshed and written to the CRM in one transaction.

The listener's unit of work: customers with captured changes (`take_pending`), and those that are
due, unsynced, or to be retried (`take_actionable`). A customer that the CRM's database refuses to
have written is quarantined, so that the others are done. What does not belong here: when to look,
which is the listener's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.realtime.quarantine import is_about_a_row, quarantine

SQL = statements(__name__)


logger = logging.getLogger(__name__)


LISTENER_BATCH = 500
"""Customers a transaction. Other tenants, and the CRM where it wants these customers, wait for no
more than that."""


_FIRST = UUID(int=0)


@dataclass(frozen=True)
class Batch:
    """What a batch did.

    Attributes:
        customers: How many customers it looked at.
        moved: How many types it changed.
        skipped: How many of them it skipped, since another session holds their state.
    """

    customers: int = 0
    moved: int = 0
    skipped: int = 0

    def __add__(self, other: Batch) -> Batch:
        return Batch(
            self.customers + other.customers, self.moved + other.moved, self.skipped + other.skipped
        )


@dataclass(frozen=True)
class PendingBatch(Batch):
    """What a batch of pending customers did.

    Attributes:
        last: The last pending row that it claimed; None where there was none to claim.
        is_full: Whether there may be more behind it.
    """

    last: int | None = None
    is_full: bool = False


def take_pending(
    engine: sa.Engine, writer: Writer, tenant_id: UUID, *, after: int = 0
) -> PendingBatch:
    """Takes the next pending customers of a tenant.

    Where more are pending than a batch takes, demotions by order loss wait until all are refreshed,
    so that the gate sees them as the one event that they may be.

    Args:
        engine: The CRM's database.
        writer: What writes.
        tenant_id: The tenant.
        after: Pending rows up to this one are passed over.
    """
    claimed: list[UUID] = []
    is_full = exceeds_batch = False
    try:
        with transaction(engine) as connection:
            rows = connection.execute(
                SQL.claim_pending,
                {"tenant_id": tenant_id, "after": after, "batch": LISTENER_BATCH},
            ).all()
            spared = [row.pending_id for row in rows if row.is_quarantined]
            if spared:
                connection.execute(
                    SQL.delete_claimed,
                    {"tenant_id": tenant_id, "pending_ids": spared},
                )
            claimed = sorted({row.customer_id for row in rows if not row.is_quarantined})
            is_full = len(rows) == LISTENER_BATCH
            exceeds_batch = any(row.exceeds_batch for row in rows)  # Others' claims among it.
            done = bring_up_to_date(
                connection, writer, tenant_id, claimed, include_order_loss=not exceeds_batch
            )
    except sa.exc.DBAPIError as error:
        if not (claimed and is_about_a_row(error)):
            raise
        done = _bisect(
            engine, writer, tenant_id, claimed, error, include_order_loss=not exceeds_batch
        )
    last = rows[-1].pending_id if rows else None
    return PendingBatch(done.customers, done.moved, done.skipped, last, is_full)


@dataclass(frozen=True)
class ActionableBatch(Batch):
    """What a batch of actionable customers did.

    Attributes:
        last: The last customer of it, where there may be more behind; else None.
    """

    last: UUID | None = None


def take_actionable(
    engine: sa.Engine, writer: Writer, tenant_id: UUID, *, after: UUID = _FIRST
) -> ActionableBatch:
    """Takes the next actionable customers of a tenant: the due, the unsynced, and those to retry.

    Args:
        engine: The CRM's database.
        writer: What writes.
        tenant_id: The tenant.
        after: Where the batch before this one ended.
    """
    with transaction(engine) as connection:
        parameters = {
            "tenant_id": tenant_id,
            "as_of": writer.as_of or now(connection),
            "after": after,
            "batch": LISTENER_BATCH,
        }
        customer_ids = list(connection.execute(SQL.actionable_customers, parameters).scalars())
        # While more than a batch is pending, the gate has not seen all of it.
        exceeds_batch = connection.execute(SQL.exceeds_batch, parameters).scalar_one()
    if not customer_ids:
        return ActionableBatch()
    done = _take(engine, writer, tenant_id, customer_ids, include_order_loss=not exceeds_batch)
    last = customer_ids[-1] if len(customer_ids) == LISTENER_BATCH else None
    return ActionableBatch(done.customers, done.moved, done.skipped, last)


def bring_up_to_date(
    connection: sa.Connection,
    writer: Writer,
    tenant_id: UUID,
    customer_ids: list[UUID],
    *,
    include_order_loss: bool = True,
) -> Batch:
    """Refreshes customers of one tenant and writes them to the CRM, within a transaction.

    Args:
        connection: Within a READ COMMITTED transaction, which holds the locks until it ends.
        writer: What writes.
        tenant_id: The tenant.
        customer_ids: The customers.
        include_order_loss: Whether demotions by order loss are written too.
    """
    if not customer_ids:
        return Batch()
    refreshed = refresh_customers(connection, writer, tenant_id, customer_ids)
    locked = lock_customers(connection, tenant_id, only=refreshed)
    applied = apply_customers(
        connection, writer, tenant_id, locked, include_order_loss=include_order_loss
    )
    return Batch(len(customer_ids), applied.moved, len(customer_ids) - len(refreshed))


def _take(
    engine: sa.Engine,
    writer: Writer,
    tenant_id: UUID,
    customer_ids: list[UUID],
    *,
    include_order_loss: bool,
) -> Batch:
    """Brings customers up to date in one transaction, or, where one cannot be, the others."""
    try:
        with transaction(engine) as connection:
            return bring_up_to_date(
                connection, writer, tenant_id, customer_ids, include_order_loss=include_order_loss
            )
    except sa.exc.DBAPIError as error:
        if not is_about_a_row(error):
            raise
        return _bisect(
            engine, writer, tenant_id, customer_ids, error, include_order_loss=include_order_loss
        )


def _bisect(
    engine: sa.Engine,
    writer: Writer,
    tenant_id: UUID,
    customer_ids: list[UUID],
    error: sa.exc.DBAPIError,
    *,
    include_order_loss: bool,
) -> Batch:
    """Finds the customers that made a batch fail, quarantines them, and takes the others."""
    if len(customer_ids) == 1:
        quarantine(engine, tenant_id, customer_ids[0], error)
        return Batch(customers=1)
    middle = len(customer_ids) // 2
    halves = (customer_ids[:middle], customer_ids[middle:])
    first, second = (
        _take(engine, writer, tenant_id, half, include_order_loss=include_order_loss)
        for half in halves
    )
    return first + second
