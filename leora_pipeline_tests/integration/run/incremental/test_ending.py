"""The incremental run ends, costs what changed, and misses nothing that commits meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.database.connection import now, transaction, tune_for_whole_tables
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.run.refresh import actionable_tenants, customers_to_refresh
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.incremental_runs import catch_up, states
from leora_pipeline_tests.scenes import (
    LARGE_SCAN,
    WRITER,
    full,
    incremental,
    insert_order,
    waiting,
)


def test_a_customer_whom_somebody_held_is_taken_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    full(engine)
    build.order(tenant, customer, ago(days=1))

    with transaction(build.engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name'))
        incremental(engine)
        assert build.type_of(customer) == "PROSPECT"
        assert build.pending() == set()
        assert waiting(engine) == [tenant]

    catch_up(engine, build)
    assert build.type_of(customer) == "ACTIVE"


def test_a_customer_who_is_deleted_before_being_synced_keeps_no_run_going(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    with transaction(build.engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name'))
        incremental(engine)
    assert waiting(engine) == [tenant], "it is still unsynced"
    # Without an order, no trigger sees it go.
    build.run('DELETE FROM "Customer" WHERE id = :id', id=customer)

    incremental(engine)

    assert waiting(engine) == []
    assert incremental(engine) == []


def test_pinned_customers_and_orphans_keep_no_run_going(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    pinned = build.customer(tenant, "HOLD", orders=(ago(days=185),))
    silent = build.customer(tenant, last_order=ago(days=185))
    build.order(other, pinned, ago(days=3))  # Of another tenant than its customer's.
    full(engine, as_of=ago(days=10))
    build.run('DELETE FROM "Customer" WHERE id = :id', id=silent)
    build.set_type(pinned, None)
    build.set_type(pinned, "HOLD")

    catch_up(engine, build)

    assert build.type_of(pinned) == "HOLD"
    assert states(build, silent) == []


def test_a_deleted_tenant_keeps_no_run_going(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    build.customer(tenant, orders=(ago(days=185),))
    full(engine, as_of=ago(days=10))
    build.run('DELETE FROM "Tenant"')

    assert waiting(engine) == []
    assert incremental(engine) == []
    full(engine)
    assert build.pending() == set()


def test_only_the_tenants_that_changed_are_run_and_published(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    build.customer(build.tenant("market"))
    full(engine)
    build.run("DELETE FROM leora_pipeline.tenant_run")
    build.run("DELETE FROM leora_pipeline.account_type_distribution")
    build.order(tenant, customer, ago(days=1))

    results = incremental(engine)

    assert [(result.tenant_slug, result.active) for result in results] == [("cellar", 1)]
    assert build.run("SELECT tenant_id, mode, status FROM leora_pipeline.tenant_run") == [
        (tenant, "incremental", "succeeded")
    ]
    assert build.run("SELECT tenant_id, active FROM leora_pipeline.account_type_distribution") == [
        (tenant, 1)
    ]


def test_a_run_for_one_tenant_leaves_what_is_pending_for_the_others(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ours, theirs = build.customer(tenant), build.customer(build.tenant("market"))

    run_all_steps(engine, resolve_run(engine, mode="incremental", tenant_slugs=["cellar"]))

    assert (build.type_of(ours), build.type_of(theirs)) == ("PROSPECT", None)
    assert build.pending() == {theirs}
    catch_up(engine, build)
    assert build.type_of(theirs) == "PROSPECT"


def test_an_order_that_commits_late_is_the_next_runs(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    full(engine)

    with transaction(build.engine) as late:
        insert_order(late, tenant, customer, ago(days=2))
        # Others are captured and done after it, and before it commits.
        build.order(tenant, customer, ago(days=150))
        other = build.customer(tenant)
        incremental(engine)
        assert (build.type_of(customer), build.type_of(other)) == ("ACTIVE", "PROSPECT")
        assert build.pending() == set()

    assert build.pending() == {customer}
    catch_up(engine, build)
    assert build.read(customer).date > ago(days=3)


def test_an_order_that_commits_between_the_look_and_the_refresh_is_seen_and_done(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    run = resolve_run(engine, mode="incremental")
    candidates = list(customers_to_refresh(engine, run))
    assert candidates == [(tenant, [customer])]
    ordered = ago(days=1)
    build.order(tenant, customer, ordered)

    with transaction(engine) as connection:
        refresh_customers(connection, WRITER, tenant, [customer])

    assert build.pending() == set()
    catch_up(engine, build)
    assert build.read(customer)[:2] == ("ACTIVE", ordered)


def test_what_a_refresh_did_not_see_pending_stays_pending(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    full(engine)
    build.order(tenant, customer, ago(days=200))
    # The clock is read when what was pending is deleted, and the orders are not yet read: there the
    # refresh stands still until somebody lets go of a lock.
    build.run(
        """
        CREATE OR REPLACE FUNCTION leora_pipeline.clock() RETURNS timestamptz LANGUAGE sql AS
        'SELECT pg_advisory_xact_lock(1); SELECT clock_timestamp()'
        """
    )

    def refresh() -> None:
        with transaction(engine) as connection:
            refresh_customers(connection, WRITER, tenant, [customer])

    with ThreadPoolExecutor(1) as background:
        with transaction(build.engine) as somebody:
            somebody.exec_driver_sql("SELECT pg_advisory_xact_lock(1)")
            refreshing = background.submit(refresh)
            while not build.run(
                "SELECT FROM pg_stat_activity WHERE wait_event = 'advisory' "
                "AND query LIKE '%refresh_customers%' AND datname = current_database()"
            ):
                assert not refreshing.done(), refreshing.result()
            build.order(tenant, customer, ago(days=1))
        refreshing.result()

    assert build.pending() == {customer}
    catch_up(engine, build)
    assert build.type_of(customer) == "ACTIVE"


def test_a_refresh_that_is_rolled_back_leaves_everything_pending(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))

    with transaction(engine) as connection:
        refresh_customers(connection, WRITER, tenant, [customer])
        connection.rollback()

    assert build.pending() == {customer}
    catch_up(engine, build)
    assert build.type_of(customer) == "ACTIVE"


def test_a_pending_row_that_somebody_has_claimed_is_left_to_them(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    rows = "SELECT pending_id FROM leora_pipeline.pending_customer ORDER BY pending_id"
    (claimed, _) = build.run(rows)

    with transaction(engine) as listener:
        listener.exec_driver_sql(f"{rows} LIMIT 1 FOR UPDATE")
        incremental(engine)
        assert build.type_of(customer) == "ACTIVE"
        assert build.run(rows) == [claimed]

    catch_up(engine, build)


def test_what_there_is_to_do_is_found_without_a_scan(large: sa.Engine, build: CrmBuilder) -> None:
    run = resolve_run(large, mode="incremental")
    build.run('UPDATE "Order" SET status = \'CANCELLED\' WHERE id IN '
              '(SELECT id FROM "Order" LIMIT 5)')  # fmt: skip
    parameters: dict[str, Any] = {"tenant_ids": run.tenant_ids, "or_pending": True}
    with transaction(large) as connection:
        parameters["as_of"] = now(connection)
        plans = [
            connection.execute(
                sa.text(
                    "EXPLAIN "
                    + statements("leora_pipeline.core.customers.actionable").text(
                        "actionable_tenants"
                    )
                ),
                parameters,
            ).all(),
        ]
        tune_for_whole_tables(connection)
        plans += [
            connection.exec_driver_sql(f"EXPLAIN {query}", parameters).all()
            for query in (
                statements("leora_pipeline.core.run.refresh").for_driver("changed_customers"),
            )
        ]
    for plan in plans:
        lines = [line for (line,) in plan]
        assert [line for line in lines if LARGE_SCAN.search(line)] == [], "\n".join(lines)
        assert any("customer_state_by_date" in line for line in lines), "\n".join(lines)
        assert any("customer_state_next_order" in line for line in lines), "\n".join(lines)


@pytest.mark.parametrize("which", [0, -1])
def test_a_few_changes_are_refreshed_and_synced_without_a_scan(
    large: sa.Engine, build: CrmBuilder, which: int
) -> None:
    run = resolve_run(large, mode="incremental")
    build.run(
        'UPDATE "Order" SET status = \'CANCELLED\' WHERE "customerId" IN '
        '(SELECT id FROM "Customer" WHERE "accountType" = \'ACTIVE\' LIMIT 5)'
    )
    changed = build.pending()
    assert len(changed) == 5

    for tenant_id, customer_ids in list(customers_to_refresh(large, run)):
        with transaction(large) as connection, no_scans(connection):
            refresh_customers(connection, WRITER, tenant_id, customer_ids)
        with transaction(large) as connection, no_scans(connection):
            locked = lock_customers(connection, tenant_id)
            apply_customers(connection, run.writer, tenant_id, locked)

    assert {build.type_of(customer) for customer in changed} == {"PROSPECT"}
    assert actionable_tenants(large, run) == []


@contextmanager
def no_scans(connection: sa.Connection) -> Iterator[None]:
    """Asserts that none of the large tables is read from end to end."""

    def scanned() -> dict[str, int]:
        # What the session did before may be part of it.
        rows = connection.exec_driver_sql(
            "SELECT relname, seq_tup_read FROM pg_stat_xact_user_tables "
            "WHERE relname IN ('Order', 'Customer', 'customer_state')"
        )
        return {row.relname: row.seq_tup_read for row in rows}

    before = scanned()
    yield
    after = scanned()
    # Counting the classified customers for the gate may read the first few, and stops there.
    read = {table: after[table] - before.get(table, 0) for table in after}
    assert {table: rows for table, rows in read.items() if rows > 1_000} == {}
