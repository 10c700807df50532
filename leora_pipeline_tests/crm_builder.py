"""Builds small CRMs for tests, row by row and readable, and reads back what a test asserts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction


def ago(*, days: float = 0, **parts: float) -> datetime:
    """Returns an instant before now, UTC, to the millisecond."""
    instant = datetime.now(UTC) - timedelta(days=days, **parts)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def stored(instant: datetime | None) -> datetime | None:
    """Returns an instant as the CRM stores it: naive, in UTC."""
    return instant.astimezone(UTC).replace(tzinfo=None) if instant else None


def _hold_for_long(connection: sa.Connection) -> None:
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '2min'")


class CrmBuilder:
    """Writes to a CRM the way its application does, one committed statement at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        # A test holds the CRM's locks for as long as it waits for what the pipeline makes of them.
        if not sa.event.contains(engine, "begin", _hold_for_long):
            sa.event.listen(engine, "begin", _hold_for_long)

    def run(self, sql: str, **parameters: Any) -> list[Any]:
        """Runs one statement in a transaction of its own and returns its rows."""
        with transaction(self.engine) as connection:
            result = connection.execute(sa.text(sql), parameters)
            return list(result.all()) if result.returns_rows else []

    def without_capture(self) -> None:
        """Removes the triggers, as `leora migrate --no-triggers` never sets them."""
        for table, events in (
            ("Order", ("insert", "update", "delete")),
            ("Customer", ("insert", "update")),
        ):
            for event in events:
                self.run(f'DROP TRIGGER leora_pipeline_{event} ON "{table}"')

    def pending(self) -> set[UUID]:
        """Returns the customers that are pending."""
        rows = self.run("SELECT customer_id FROM leora_pipeline.pending_customer")
        return {row.customer_id for row in rows}

    def tenant(self, slug: str = "cellar", timezone: str = "UTC") -> UUID:
        """Adds a tenant."""
        tenant_id = uuid4()
        self.run(
            'INSERT INTO "Tenant" (id, slug, name, timezone, "updatedAt") '
            "VALUES (:id, :slug, :slug, :timezone, now())",
            id=tenant_id,
            slug=slug,
            timezone=timezone,
        )
        return tenant_id

    def customer(
        self,
        tenant_id: UUID,
        account_type: str | None = None,
        *,
        last_order: datetime | None = None,
        orders: tuple[datetime | None, ...] = (),
        name: str = "Corner Bottle Shop",
        updated: datetime | None = None,
    ) -> UUID:
        """Adds a customer, with an order of status FULFILLED at each of `orders`."""
        customer_id = uuid4()
        self.run(
            'INSERT INTO "Customer" '
            '(id, "tenantId", name, "accountType", "lastOrderDate", "updatedAt") VALUES '
            '(:id, :tenant, :name, CAST(:type AS "AccountType"), :last_order, :updated)',
            id=customer_id,
            tenant=tenant_id,
            name=name,
            type=account_type,
            last_order=stored(last_order),
            updated=stored(updated or ago(days=1000)),
        )
        for ordered in orders:
            self.order(tenant_id, customer_id, ordered)
        return customer_id

    def order(
        self,
        tenant_id: UUID,
        customer_id: UUID,
        ordered: datetime | None,
        status: str = "FULFILLED",
    ) -> UUID:
        """Adds an order."""
        order_id = uuid4()
        self.run(
            'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
            'VALUES (:id, :tenant, :customer, CAST(:status AS "OrderStatus"), :ordered, now())',
            id=order_id,
            tenant=tenant_id,
            customer=customer_id,
            status=status,
            ordered=stored(ordered),
        )
        return order_id

    def cancel(self, order_id: UUID) -> None:
        """Cancels an order."""
        self.run("UPDATE \"Order\" SET status = 'CANCELLED' WHERE id = :id", id=order_id)

    def set_type(self, customer_id: UUID, account_type: str | None) -> None:
        """Sets a type by hand, as a person does in the CRM."""
        self.run(
            'UPDATE "Customer" SET "accountType" = CAST(:type AS "AccountType"), '
            '"updatedAt" = now() WHERE id = :id',
            id=customer_id,
            type=account_type,
        )

    def read(self, customer_id: UUID) -> Any:
        """Returns a customer's type (`type`), last order date (`date`, UTC) and `updated`."""
        return self.run(
            'SELECT "accountType"::text AS type, "lastOrderDate" AT TIME ZONE \'UTC\' AS date, '
            '"updatedAt" AT TIME ZONE \'UTC\' AS updated FROM "Customer" WHERE id = :id',
            id=customer_id,
        )[0]

    def type_of(self, customer_id: UUID) -> str | None:
        """Returns a customer's type."""
        sql = 'SELECT "accountType"::text FROM "Customer" WHERE id = :id'
        found: str | None = self.run(sql, id=customer_id)[0][0]
        return found

    def log(self, customer_id: UUID | None = None) -> list[tuple[str | None, str, str]]:
        """Returns the logged transitions as (from, to, cause), oldest first."""
        rows = self.run(
            "SELECT from_type, to_type, cause FROM leora_pipeline.account_type_transition "
            "WHERE CAST(:id AS uuid) IS NULL OR customer_id = :id ORDER BY transition_id",
            id=customer_id,
        )
        return [tuple(row) for row in rows]
