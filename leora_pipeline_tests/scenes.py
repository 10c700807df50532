"""Scenes: what happens to a small CRM in many tests, and what they assert at the end.

What does not belong here: making single rows, which is `crm_builder`'s.
"""

from __future__ import annotations

import re
from concurrent.futures import Future
from datetime import datetime
from threading import Event
from time import monotonic
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline import AccountTypeUpdateResult, update_account_types
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.run.refresh import actionable_tenants
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored

DEADLINE = 20.0
"""Seconds after which what a test waits for has failed to come."""

WRITER = Writer("the test", "test")
"""What writes where a test goes step by step."""


def refuse_rows(build: CrmBuilder, table: str, column: str, value: object) -> None:
    """Makes every write to some rows of a table fail, as a trigger of the CRM may."""
    build.run(
        "CREATE FUNCTION public.refuse_rows() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the disk is made of cheese'; END $$"
    )
    build.run(
        f"CREATE TRIGGER refuse_rows BEFORE INSERT OR UPDATE ON {table} "
        f"FOR EACH ROW WHEN (NEW.{column} = '{value}') EXECUTE FUNCTION public.refuse_rows()"
    )


def add_customers(
    build: CrmBuilder, tenant: UUID, count: int, *, ordered: datetime, account_type: str = "ACTIVE"
) -> list[UUID]:
    """Adds customers of a type and date that one order each of that date bears out."""
    return [
        row.id
        for row in build.run(
            'WITH c AS (INSERT INTO "Customer" (id, "tenantId", name, "accountType", '
            '"lastOrderDate", "updatedAt") SELECT gen_random_uuid(), :tenant, \'Shop \' || n, '
            'CAST(:type AS "AccountType"), :ordered, :ordered FROM generate_series(1, :count) AS n '
            'RETURNING id) INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", '
            "\"updatedAt\") SELECT gen_random_uuid(), :tenant, id, 'FULFILLED', :ordered, :ordered "
            'FROM c RETURNING "customerId" AS id',
            tenant=tenant,
            count=count,
            type=account_type,
            ordered=stored(ordered),
        )
    ]


def lose_orders(build: CrmBuilder, customers: list[UUID]) -> None:
    """Hides all orders of some customers, the way a failed import or a bad restore does."""
    build.run('CREATE TABLE IF NOT EXISTS lost AS SELECT * FROM "Order" WHERE false')
    build.run(
        'WITH gone AS (DELETE FROM "Order" WHERE "customerId" = ANY (:ids) RETURNING *) '
        "INSERT INTO lost SELECT * FROM gone",
        ids=customers,
    )


def bring_orders_back(build: CrmBuilder, customers: list[UUID]) -> None:
    build.run(
        'WITH back AS (DELETE FROM lost WHERE "customerId" = ANY (:ids) RETURNING *) '
        'INSERT INTO "Order" SELECT * FROM back',
        ids=customers,
    )


def counts(build: CrmBuilder, tenant: UUID) -> dict[str | None, int]:
    """Returns how many customers the CRM has of each type."""
    return {
        row.type: row.count
        for row in build.run(
            'SELECT "accountType"::text AS type, count(*) FROM "Customer" '
            'WHERE "tenantId" = :tenant GROUP BY 1',
            tenant=tenant,
        )
    }


def holds(build: CrmBuilder, tenant: UUID) -> list[Any]:
    """Returns a tenant's holds, past and in force, oldest first."""
    return build.run(
        "SELECT order_loss_customers, classified_customers, released_by "
        "FROM leora_pipeline.tenant_hold WHERE tenant_id = :tenant ORDER BY held_at",
        tenant=tenant,
    )


def is_held(build: CrmBuilder, tenant: UUID) -> bool:
    return any(hold.released_by is None for hold in holds(build, tenant))


def make_held(
    engine: sa.Engine, build: CrmBuilder, slug: str = "cellar"
) -> tuple[UUID, list[UUID]]:
    """Returns a held tenant and its 20 customers, all of whose orders are lost."""
    tenant = build.tenant(slug)
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    update_account_types([slug], engine=engine)
    lose_orders(build, customers)
    update_account_types([slug], engine=engine)
    assert is_held(build, tenant)
    return tenant, customers


def write_unsynced(engine: sa.Engine, tenant: UUID) -> int:
    """Writes what is unsynced of a tenant, in one transaction; returns the types changed."""
    with transaction(engine) as connection:
        locked = lock_customers(connection, tenant)
        return apply_customers(connection, resolve_run(engine).writer, tenant, locked).moved


def wait_for_row(build: CrmBuilder, condition: str, future: Future[Any] | None = None) -> None:
    """Returns once a query has a row; a future that ends meanwhile did not wait as it should."""
    give_up = monotonic() + DEADLINE
    between_looks = Event()
    while not build.run(condition):
        assert future is None or not future.done(), f"did not wait: {future.result()}"
        assert monotonic() < give_up, f"never came true: {condition}"
        between_looks.wait(0.005)


WAITS_FOR_LOCK = (
    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


def everything(build: CrmBuilder) -> list[Any]:
    """Returns all rows that a run writes for customers."""
    return [
        build.run('SELECT * FROM "Customer" ORDER BY id'),
        build.run("SELECT * FROM leora_pipeline.customer_state ORDER BY customer_id"),
        build.run("SELECT * FROM leora_pipeline.account_type_transition ORDER BY transition_id"),
    ]


def settle(engine: sa.Engine, build: CrmBuilder) -> None:
    """Runs once more, and asserts that one run was enough."""
    update_account_types(engine=engine)
    settled = everything(build)
    update_account_types(engine=engine)
    assert everything(build) == settled


def insert_order(
    connection: sa.Connection, tenant: UUID, customer: UUID, ordered: datetime
) -> None:
    connection.execute(
        sa.text(
            'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
            "VALUES (gen_random_uuid(), :tenant, :customer, 'FULFILLED', :ordered, now())"
        ),
        {"tenant": tenant, "customer": customer, "ordered": stored(ordered)},
    )


def incremental(engine: sa.Engine) -> list[AccountTypeUpdateResult]:
    """Runs for what changed, as of now."""
    return run_all_steps(engine, resolve_run(engine, mode="incremental"))


def waiting(engine: sa.Engine) -> list[UUID]:
    """Returns the tenants for whom an incremental run would find something to do now."""
    return actionable_tenants(engine, resolve_run(engine, mode="incremental"))


def assert_settled(engine: sa.Engine, build: CrmBuilder) -> None:
    """Asserts that nothing is left, neither for an incremental run nor for a full one."""
    assert build.pending() == set()
    assert waiting(engine) == []
    assert incremental(engine) == []
    settled = everything(build)
    update_account_types(engine=engine)
    assert everything(build) == settled


def full(engine: sa.Engine, as_of: datetime | None = None) -> None:
    """Runs for everybody, so that only what a test does afterwards is news."""
    update_account_types(as_of=as_of, engine=engine)


LARGE_SCAN = re.compile('Seq Scan on ("Order"|"Customer"|customer_state)')
