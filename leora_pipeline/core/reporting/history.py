"""History: the story of one customer, and why it has the type that it has today. Reads alone.

What is said of today is derived from the CRM as it stands, by the same SQL functions as everything
else. What does not belong here: how it looks on a screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.crm.requirements import readable_columns
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.reporting.explanations import (
    EXCLUSIONS,
    explain_transition,
    explain_type,
    outlook,
)

SQL = statements(__name__)


@dataclass(frozen=True)
class AccountTypeToday:
    """The type of a customer today: the CRM's, the rule's, and what becomes of a difference.

    Attributes:
        crm_type: The type in the CRM, or None for none yet.
        account_type: The type that the rule gives.
        is_pinned: Whether the CRM's type is one that the pipeline never changes.
        last_order_at: The last order date (UTC) that the rule judges by, or None.
        is_imported: Whether that is the date that the CRM had, since no order counts.
        crm_order_at: The last order date in the CRM (UTC); None where it has none that can be read.
        next_order_at: When the next date in the future comes due, or None.
        explanation: Why the customer has this type, or is to have another one, in one sentence.
        cause: Why the CRM's type is not the rule's, as a transition would log it; None where it is,
            or where nothing explains it but that no run has been there yet.
        held_since: Since when the gate stops what there is to write, or None.
        pending_since: Since when a change of the customer waits to be looked at, or None.
        outlook: Why the CRM differs and what will happen next, a sentence each; empty where nothing
            is to happen.
    """

    crm_type: str | None
    account_type: str
    is_pinned: bool
    last_order_at: datetime | None
    is_imported: bool
    crm_order_at: datetime | None
    next_order_at: datetime | None
    explanation: str
    cause: str | None
    held_since: datetime | None
    pending_since: datetime | None
    outlook: tuple[str, ...]


@dataclass(frozen=True)
class LoggedTransition:
    """A change of the customer's type that the pipeline wrote to the CRM.

    Attributes:
        recorded_at: When it was written (UTC).
        tenant_id: The tenant that the customer belonged to.
        tenant_slug: That tenant's slug, or None where the tenant is gone.
        from_type: The type that the CRM had, whatever had set it; None for none yet.
        to_type: The type that was written.
        last_order_at: The last order date (UTC) that the rule judged by, or None.
        as_of: The instant that it judged by.
        cause: The cause, as it is logged.
        is_set_by_hand: Whether anything but the pipeline had set `from_type`.
        explanation: The cause, for people.
        run_id: The run that wrote it.
    """

    recorded_at: datetime
    tenant_id: UUID
    tenant_slug: str | None
    from_type: str | None
    to_type: str
    last_order_at: datetime | None
    as_of: datetime
    cause: str
    is_set_by_hand: bool
    explanation: str
    run_id: str


@dataclass(frozen=True)
class CustomerOrder:
    """An order of the customer.

    Attributes:
        order_id: ``"Order".id``.
        order_number: Its number, or None where it, or the CRM, has none.
        ordered_at: Its date (UTC); None where it has none that can be read.
        status: Its status.
        total: Its total, as text, or None where it, or the CRM, has none.
        counts: Whether it counts today.
        exclusion: Why it does not, for people; None where it does.
        makes_last_order_date: Whether today's last order date is this order's.
    """

    order_id: UUID
    order_number: str | None
    ordered_at: datetime | None
    status: str
    total: str | None
    counts: bool
    exclusion: str | None
    makes_last_order_date: bool


@dataclass(frozen=True)
class CustomerHistory:
    """The story of one customer.

    Attributes:
        as_of: The instant that it was read at (UTC).
        customer_id: ``"Customer".id``.
        name: The customer's name; None where the CRM has no such customer any more.
        tenant_id: The customer's tenant, or the one that it was last known in.
        tenant_slug: That tenant's slug, or None where the tenant is gone.
        today: Its type today; None where the CRM has no such customer any more.
        transitions: Every logged change of its type, oldest first.
        orders: Its newest orders, and those that make the last order date, newest first.
        orders_total: How many orders it has in all.
    """

    as_of: datetime
    customer_id: UUID
    name: str | None
    tenant_id: UUID
    tenant_slug: str | None
    today: AccountTypeToday | None
    transitions: tuple[LoggedTransition, ...]
    orders: tuple[CustomerOrder, ...]
    orders_total: int


def read_history(
    engine: sa.Engine, customer_id: UUID | str, *, limit: int = 20, write_dates: bool = True
) -> CustomerHistory:
    """Reads, at one instant, the story of one customer; writes nothing.

    Args:
        engine: The CRM's database.
        customer_id: ``"Customer".id``, of a customer that may have been deleted since.
        limit: How many of its orders to read, at least 1.
        write_dates: Whether the pipeline writes ``"lastOrderDate"`` too.

    Raises:
        WrongUsageError: Nothing is known of such a customer, or the id is none.
    """
    try:
        customer_id = UUID(str(customer_id))
    except ValueError:
        raise WrongUsageError(f"{customer_id!r} is no customer's id, which is a UUID") from None
    with transaction(engine, snapshot=True) as connection:

        def rows(name: str, **parameters: object) -> list[sa.Row[Any]]:
            query = SQL[name]
            return list(connection.execute(query, {"customer_id": customer_id, **parameters}))

        as_of = now(connection)
        transitions = tuple(_transition(row) for row in rows("transitions"))
        found = rows("find_customer")
        if not found:
            known: list[Any] = [*transitions[-1:], *rows("find_deleted_customer")]
            if not known:
                raise WrongUsageError(f"no customer has, or had, the id {customer_id}")
            tenant_id, tenant_slug = known[0].tenant_id, known[0].tenant_slug
            return CustomerHistory(
                as_of, customer_id, None, tenant_id, tenant_slug, None, transitions, (), 0
            )
        [customer] = found
        scope = {"tenant_id": customer.tenant_id, "as_of": as_of}
        [today] = rows("today", **scope, write_dates=write_dates)
        orders = connection.execute(
            SQL.with_columns("orders", readable_columns(connection, "Order")),
            {
                "customer_id": customer_id,
                **scope,
                "last_order_at": today.last_order_at,
                "limit": limit,
            },
        ).all()
    is_imported = today.last_order_at is not None and not any(
        order.makes_last_order_date for order in orders
    )
    return CustomerHistory(
        as_of=as_of,
        customer_id=customer_id,
        name=customer.name,
        tenant_id=customer.tenant_id,
        tenant_slug=customer.tenant_slug,
        today=AccountTypeToday(
            crm_type=today.crm_type,
            account_type=today.account_type,
            is_pinned=today.is_pinned,
            last_order_at=today.last_order_at,
            is_imported=is_imported,
            crm_order_at=today.crm_order_at,
            next_order_at=today.next_order_at,
            explanation=explain_type(today, is_imported),
            cause=today.cause,
            held_since=today.held_since,
            pending_since=today.pending_since,
            outlook=tuple(outlook(today, customer.tenant_slug)),
        ),
        transitions=transitions,
        orders=tuple(_order(row) for row in orders),
        orders_total=orders[0].orders_total if orders else 0,
    )


def _transition(row: sa.Row[Any]) -> LoggedTransition:
    return LoggedTransition(**row._mapping, explanation=explain_transition(row))


def _order(row: sa.Row[Any]) -> CustomerOrder:
    return CustomerOrder(
        order_id=row.order_id,
        order_number=row.order_number,
        ordered_at=row.ordered_at,
        status=row.status,
        total=row.total,
        counts=row.exclusion is None,
        exclusion=row.exclusion and EXCLUSIONS[row.exclusion].format_map(row._mapping),
        makes_last_order_date=row.makes_last_order_date,
    )
