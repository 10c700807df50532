"""Calls of the hook, from Python and in SQL, and what tests assert after them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import sqlalchemy as sa

from leora_pipeline import (
    HookResult,
    OrderCreated,
    after_order_create_batch,
    update_account_types,
)
from leora_pipeline.core.run.refresh import actionable_tenants
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline_tests.at_rest import wrong_customers
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.scenes import (
    add_customers,
    everything,
)

DEADLINE = 10
"""Seconds after which the server ends what waits."""


PATIENCE = 5
"""Seconds after which what does not wait for others must have ended."""


def hook(
    *customers: UUID | str, engine: sa.Engine | None = None, connection: sa.Connection | None = None
) -> HookResult:
    """Calls the hook for an order of each of these customers."""
    events = [OrderCreated(uuid4(), customer) for customer in customers]
    return after_order_create_batch(events, engine=engine, connection=connection)


def call(connection: sa.Connection, *customers: UUID) -> dict[UUID, str]:
    """Calls the SQL function, and returns what became of each customer."""
    rows = connection.execute(
        sa.text("SELECT * FROM leora_pipeline.after_order_create(CAST(:ids AS uuid[]))"),
        {"ids": list(customers)},
    ).all()
    assert len(rows) == len({row.customer_id for row in rows})
    return {row.customer_id: row.outcome for row in rows}


def assert_at_rest(engine: sa.Engine, build: CrmBuilder) -> None:
    """Asserts that all are as the oracle says, and that nothing is left for any run."""
    assert wrong_customers(engine) == {}
    assert build.pending() == set()
    assert actionable_tenants(engine, resolve_run(engine, mode="incremental")) == []
    settled = everything(build)
    update_account_types(engine=engine)
    assert everything(build) == settled


def ordered_again(build: CrmBuilder, tenant: UUID, count: int = 1) -> list[UUID]:
    """Returns customers, ascending, that were TARGET and have a new order."""
    customers = add_customers(build, tenant, count, ordered=ago(days=200), account_type="TARGET")
    update_account_types(engine=build.engine)
    for customer in customers:
        build.order(tenant, customer, ago(days=1))
    return sorted(customers)


def assert_left(
    result: HookResult, error: str, reported: Callable[[], str], count: int = 1
) -> None:
    """Asserts that all customers were left, and that the result and the log say why."""
    assert (result.updated, result.unchanged, result.deferred) == (0, 0, count)
    assert result.unknown == ()
    assert error in (result.error or "")
    assert "\n" not in (result.error or "")
    assert error in reported()


def grant_crm(build: CrmBuilder, role: str) -> None:
    """Grants what the CRM's application needs: its own tables, and the hook."""
    build.run(f'GRANT ALL ON "Tenant", "Customer", "Order" TO {role}')
    build.run(f"GRANT leora_hook TO {role}")


def filter_orders(build: CrmBuilder) -> None:
    """Switches row level security on, with a policy that hides all orders."""
    build.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    build.run('ALTER TABLE "Order" FORCE ROW LEVEL SECURITY')
    build.run(
        'CREATE POLICY own ON "Order" '
        "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
    )


def lock_our_tables(connection: sa.Connection) -> None:
    """Locks all of the pipeline's tables, as a migration may."""
    tables = connection.exec_driver_sql(
        "SELECT string_agg('leora_pipeline.' || quote_ident(tablename), ', ') FROM pg_tables "
        "WHERE schemaname = 'leora_pipeline'"
    ).scalar_one()
    connection.exec_driver_sql(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
