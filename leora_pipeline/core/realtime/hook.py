"""The hook: for services that want a customer's type to be right as soon as an order is there.

Nobody has to call it: capture sees every order anyway. It never raises and waits for no lock, as it
is called while an order is placed; what it cannot do at once is deferred to the listener, or the
next run. The work is done by one SQL function, which services in any language may call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.refresh import ensure_customer_state
from leora_pipeline.core.customers.write_back import WRITE_BATCH
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import configured_engine
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import one_line
from leora_pipeline.core.settings import Settings

SQL = statements(__name__)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OrderCreated:
    """An order that was created.

    It only says whose customer to look at: whether the order counts, and when it was placed, is
    read from ``"Order"``. One that was cancelled since, or is not there, does no harm.

    Attributes:
        order_id: ``"Order".id``.
        customer_id: ``"Customer".id``.
        ordered_at: ``"Order"."orderedAt"``.
        total: ``"Order".total``.
    """

    order_id: UUID | str
    customer_id: UUID | str
    ordered_at: datetime | None = None
    total: Decimal | float | None = None


@dataclass(frozen=True)
class HookResult:
    """What became of the customers of some orders, each counted once.

    Attributes:
        updated: Customers whose row in the CRM was changed.
        unchanged: Customers that were right already.
        deferred: Customers left to the listener or the next run: another session holds them, they
            would be demoted, which the hook does not do, or the database failed.
        unknown: The ids that no customer has.
        error: What went wrong, in one line; None where nothing did.
    """

    updated: int = 0
    unchanged: int = 0
    deferred: int = 0
    unknown: tuple[str, ...] = ()
    error: str | None = None

    def __add__(self, other: HookResult) -> HookResult:
        return HookResult(
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.deferred + other.deferred,
            self.unknown + other.unknown,
            self.error or other.error,
        )


def after_order_create(
    event: OrderCreated, *, engine: sa.Engine | None = None, connection: sa.Connection | None = None
) -> HookResult:
    """Brings the customer of a new order up to date; see `after_order_create_batch`."""
    return after_order_create_batch([event], engine=engine, connection=connection)


def after_order_create_batch(
    events: Iterable[OrderCreated],
    *,
    engine: sa.Engine | None = None,
    connection: sa.Connection | None = None,
) -> HookResult:
    """Brings the customers of new orders up to date, set at a time.

    Never raises: what goes wrong is logged and is in the result, and those customers are deferred
    to the listener or the next run.

    Args:
        events: The orders.
        engine: The CRM's database; by default the one that ``LEORA_DATABASE_URL`` names. The
            orders have to be committed.
        connection: The caller's own connection, instead, in whose transaction it is done, so that
            an order that is not yet committed counts. Call it last: the customers stay locked
            until that transaction ends. Customers that have no state yet are deferred.

    Returns:
        What became of the customers.
    """
    total = HookResult()
    waiting: list[str] = []
    try:
        waiting, unreadable = _customer_ids(events)
        total += HookResult(unknown=unreadable)
        write_dates = Settings.from_environment().write_last_order_date
        if connection is not None:
            with connection.begin_nested():
                return total + _call(connection, waiting, write_dates)
        while waiting:
            with transaction(engine or configured_engine()) as own:
                own.execute(SQL.wait_briefly)
                for tenant in own.execute(SQL.tenants_of, {"customer_ids": waiting[:WRITE_BATCH]}):
                    ensure_customer_state(own, tenant.tenant_id, tenant.customer_ids)
                done = _call(own, waiting[:WRITE_BATCH], write_dates)
            total += done
            waiting = waiting[WRITE_BATCH:]
        return total
    except Exception as error:
        logger.exception("Account types after new orders: %s", one_line(error))
        return total + HookResult(deferred=len(waiting), error=one_line(error))


def _customer_ids(events: Iterable[OrderCreated]) -> tuple[list[str], tuple[str, ...]]:
    """Returns the customers' ids, each once, in order, and what is no id at all."""
    known: dict[str, None] = {}
    unreadable: dict[str, None] = {}
    for event in events:
        try:
            known[str(UUID(str(event.customer_id)))] = None
        except ValueError:
            unreadable[str(event.customer_id)] = None
    return sorted(known), tuple(unreadable)


def _call(connection: sa.Connection, customer_ids: list[str], write_dates: bool) -> HookResult:
    """Calls the SQL function."""
    row = connection.execute(
        SQL.after_order_create,
        {"customer_ids": customer_ids, "write_dates": write_dates},
    ).one()
    if row.error is not None:
        logger.error("Account types after new orders: %s", row.error)
    return HookResult(
        row.updated,
        row.unchanged,
        row.deferred,
        tuple(map(str, row.unknown)),
        row.error,
    )
