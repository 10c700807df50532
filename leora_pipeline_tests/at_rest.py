"""A database at rest: what the oracle says every customer has to be, and who is otherwise.

What belongs here: the comparison that tests of several folders end with. It goes by the default
policy, and takes it that no customer was imported with a date.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline_tests.oracle import Memory, Policy, judge


def wrong_customers(engine: sa.Engine) -> dict[UUID, str]:
    """Returns the customers whose type or date is not the oracle's, and what is wrong."""
    with transaction(engine, snapshot=True) as connection:
        as_of = now(connection)
        customers = connection.exec_driver_sql(
            'SELECT id, "tenantId" AS tenant, "accountType"::text AS type, '
            '"lastOrderDate" AS date FROM "Customer"'
        ).all()
        orders: dict[tuple[UUID, UUID], list[tuple[str, datetime | None]]] = defaultdict(list)
        for order in connection.exec_driver_sql(
            'SELECT "tenantId" AS tenant, "customerId" AS customer, status::text, '
            '"orderedAt" AS ordered FROM "Order"'
        ):
            orders[order.tenant, order.customer].append((order.status, _aware(order.ordered)))
    wrong = {}
    for customer in customers:
        date = _aware(customer.date)
        # What a run may have seen of orders that are gone makes no difference without an import.
        verdict = judge(
            Policy(),
            as_of,
            crm_type=customer.type,
            crm_date=date,
            orders=orders[customer.tenant, customer.id],
            memory=Memory(ever_ordered=True),
        )
        if (customer.type, date) != (verdict.type, verdict.date):
            wrong[customer.id] = f"{customer.type}, {date}, not {verdict.type}, {verdict.date}"
    return wrong


def _aware(instant: datetime | None) -> datetime | None:
    return instant.replace(tzinfo=UTC) if instant else None
