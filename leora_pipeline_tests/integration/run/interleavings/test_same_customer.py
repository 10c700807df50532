"""Refresh and apply of the same customer by several sessions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    update_account_types,
)
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.run.refresh import refresh
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.interleaving import DEADLINE, add_customers, make_batches, state
from leora_pipeline_tests.scenes import (
    WAITS_FOR_LOCK,
    WRITER,
    settle,
    wait_for_row,
    write_unsynced,
)


def refreshed(connection: sa.Connection, tenant: UUID, customer: UUID) -> list[UUID]:
    """Refreshes a customer; returns it where nobody else held it."""
    return refresh_customers(connection, WRITER, tenant, [customer])


def test_a_refresh_passes_over_a_customer_of_another_and_the_next_sees_the_truth_of_both(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    imported = ago(days=300)
    customer = build.customer(tenant, "TARGET", last_order=imported)
    update_account_types(engine=engine)
    order = build.order(tenant, customer, ago(days=1))

    with transaction(engine) as first, transaction(engine) as second:
        assert refreshed(first, tenant, customer) == [customer]
        build.cancel(order)
        assert refreshed(second, tenant, customer) == []
    assert build.pending() == {customer}, "the cancelling, which the first has not seen"
    assert state(build, customer).account_type == "ACTIVE"

    with transaction(engine) as third:
        assert refreshed(third, tenant, customer) == [customer]
    found = state(build, customer)
    assert (found.account_type, found.last_order_at) == ("TARGET", imported)
    assert found.ever_ordered, "the first one's memory of the order is not lost"
    assert found.imported_order_at == imported
    settle(engine, build)
    assert build.read(customer)[:2] == ("TARGET", imported)


def test_whom_a_full_run_passes_over_is_enqueued_for_the_next_round(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer, other = (build.customer(tenant, "PROSPECT") for _ in range(2))
    update_account_types(engine=engine)
    for one in (customer, other):
        build.order(tenant, one, ago(days=1))
    build.run("DELETE FROM leora_pipeline.pending_customer")  # As if there were no triggers.

    with transaction(build.engine) as somebody:
        somebody.execute(
            sa.text("SELECT FROM leora_pipeline.customer_state WHERE customer_id = :id FOR UPDATE"),
            {"id": customer},
        )
        update_account_types(engine=engine)
    assert (build.type_of(customer), build.type_of(other)) == ("PROSPECT", "ACTIVE")
    assert build.pending() == {customer}

    run_all_steps(engine, resolve_run(engine, mode="incremental"))
    assert build.type_of(customer) == "ACTIVE"
    settle(engine, build)


def test_two_refreshes_that_first_see_a_customer_at_once_make_one_state(
    engine: sa.Engine, build: CrmBuilder, background: ThreadPoolExecutor
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "PROSPECT")

    def refresh_second() -> None:
        with transaction(engine) as connection:
            refresh_customers(connection, WRITER, tenant, [customer])

    with transaction(engine) as first:
        refresh_customers(first, WRITER, tenant, [customer])
        second = background.submit(refresh_second)
        wait_for_row(build, WAITS_FOR_LOCK, second)
        build.order(tenant, customer, ago(days=1))
    second.result(DEADLINE)

    assert (state(build, customer).account_type, state(build, customer).needs_sync) == (
        "ACTIVE",
        True,
    )
    settle(engine, build)
    assert build.type_of(customer) == "ACTIVE"


def test_a_refresh_never_overwrites_a_state_that_it_could_not_lock(
    engine: sa.Engine, build: CrmBuilder, background: ThreadPoolExecutor
) -> None:
    # A customer comes to a tenant right after a first refresh there looked for customers to meet,
    # and a second refresh, which sees an order that the first one does not, is the one to meet it.
    here, there = build.tenant("cellar"), build.tenant("dry-goods")
    customer = build.customer(there)
    build.run("ALTER FUNCTION leora_pipeline.ensure_customer_state RENAME TO create_and_go_on")
    build.run(
        "CREATE FUNCTION leora_pipeline.ensure_customer_state(uuid, uuid[], timestamptz) "
        "RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM leora_pipeline.create_and_go_on($1, $2, $3); "
        "IF current_setting('test.stands', true) = 'on' THEN PERFORM pg_advisory_xact_lock(1); "
        "END IF; END $$"
    )

    def refresh_first() -> list[UUID]:
        with transaction(engine) as connection:
            connection.exec_driver_sql("SET LOCAL test.stands = 'on'")
            return refreshed(connection, here, customer)

    with transaction(engine) as second:
        with transaction(build.engine) as somebody:
            somebody.exec_driver_sql("SELECT pg_advisory_xact_lock(1)")
            first = background.submit(refresh_first)
            wait_for_row(build, WAITS_FOR_LOCK, first)
            build.run('UPDATE "Customer" SET "tenantId" = :here', here=here)
            build.order(here, customer, ago(days=1))
            assert refreshed(second, here, customer) == [customer]
        assert first.result(DEADLINE) == []

    assert state(build, customer).account_type == "ACTIVE"


def test_a_refresh_beside_an_apply_leaves_its_news_to_the_next_round(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=200),))
    run = resolve_run(engine)
    refresh(engine, run)

    with transaction(engine) as first, transaction(engine) as second:
        locked = lock_customers(first, tenant)
        build.order(tenant, customer, ago(days=1))
        assert refreshed(second, tenant, customer) == []
        apply_customers(first, run.writer, tenant, locked)
    assert build.type_of(customer) == "TARGET"
    assert build.pending() == {customer}, "not lost by the apply that it met"

    run_all_steps(engine, resolve_run(engine, mode="incremental"))
    assert build.type_of(customer) == "ACTIVE"
    settle(engine, build)


def test_an_apply_passes_over_a_customer_being_refreshed_and_syncs_it_later(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer, other = (build.customer(tenant, orders=(ago(days=200),)) for _ in range(2))
    refresh(engine, resolve_run(engine))
    build.order(tenant, customer, ago(days=1))

    with transaction(engine) as first:
        refresh_customers(first, WRITER, tenant, [customer])
        assert write_unsynced(engine, tenant) == 1
        assert (build.type_of(customer), build.type_of(other)) == (None, "TARGET")

    assert write_unsynced(engine, tenant) == 1
    assert build.type_of(customer) == "ACTIVE"
    assert [entry[:2] for entry in build.log(customer)] == [(None, "ACTIVE")]
    settle(engine, build)


def test_two_applies_at_once_share_the_customers_and_log_each_once(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=1),))
    run = resolve_run(engine)
    refresh(engine, run)

    with transaction(engine) as first:
        locked = lock_customers(first, tenant)
        apply_customers(first, run.writer, tenant, locked)
        assert write_unsynced(engine, tenant) == 0

    assert write_unsynced(engine, tenant) == 0
    assert len(build.log(customer)) == 1


def test_full_runs_at_once_log_each_transition_once(
    engine: sa.Engine,
    build: CrmBuilder,
    background: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_batches(monkeypatch, 40)
    tenants = [build.tenant(slug) for slug in ("cellar", "dry-goods")]
    for tenant in tenants:
        add_customers(build, tenant, 300)
    meet = Barrier(3)

    def one_run() -> None:
        def together(step: str, customers: int) -> None:
            if step == "plan":  # Each run says so once a tenant, right before it applies.
                meet.wait(DEADLINE)

        meet.wait(DEADLINE)
        run = resolve_run(
            engine,
            allow_mass_change=["cellar", "dry-goods"],
            reason="archived",
            on_progress=together,
        )
        run_all_steps(engine, run)

    logged = 0
    for days in (200, 1, 400, 10):
        build.run('UPDATE "Order" SET "orderedAt" = :ordered', ordered=stored(ago(days=days)))
        runs = [background.submit(one_run) for _ in range(3)]
        for future in runs:
            future.result(DEADLINE)
        logged += 600
        assert len(build.log()) == logged
        assert build.run('SELECT count(DISTINCT "accountType") FROM "Customer"') == [(1,)]
    chains = build.run(
        "SELECT array_agg(to_type ORDER BY transition_id) AS chain, count(*) "
        "FROM (SELECT customer_id, transition_id, to_type "
        "FROM leora_pipeline.account_type_transition) AS t GROUP BY customer_id"
    )
    assert len(chains) == 600
    assert {tuple(row.chain) for row in chains} == {("TARGET", "ACTIVE", "PROSPECT", "ACTIVE")}
    settle(engine, build)
    assert len(build.log()) == logged


def test_orders_come_and_go_while_runs_follow_each_other(
    engine: sa.Engine, build: CrmBuilder, background: ThreadPoolExecutor
) -> None:
    tenant = build.tenant()
    add_customers(build, tenant, 60)
    done = Event()

    def crm() -> int:
        changes = 0
        while not done.is_set():
            build.run(
                'UPDATE "Order" SET "orderedAt" = now() - :days * interval \'1 day\' '
                'WHERE "customerId" IN (SELECT id FROM "Customer" ORDER BY random() LIMIT 10)',
                days=(1, 200, 400)[changes % 3],
            )
            changes += 1
        return changes

    def runs() -> None:
        for _ in range(6):
            update_account_types(allow_mass_change=["cellar"], reason="archived", engine=engine)

    writer = background.submit(crm)
    try:
        for future in [background.submit(runs) for _ in range(2)]:
            future.result(DEADLINE)
    finally:
        done.set()
    assert writer.result(DEADLINE) > 0
    update_account_types(allow_mass_change=["cellar"], reason="archived", engine=engine)

    assert (
        build.run(
            'SELECT c.id, c."accountType", o."orderedAt" FROM "Customer" AS c '
            'JOIN "Order" AS o ON o."customerId" = c.id WHERE c."accountType"::text <> CASE '
            "WHEN o.\"orderedAt\" > now() - interval '100 days' THEN 'ACTIVE' "
            "WHEN o.\"orderedAt\" > now() - interval '300 days' THEN 'TARGET' ELSE 'PROSPECT' END "
            'OR c."lastOrderDate" <> o."orderedAt"'
        )
        == []
    )
    broken = build.run(
        "SELECT * FROM (SELECT customer_id, from_type, lag(to_type) OVER (PARTITION BY customer_id "
        "ORDER BY transition_id) AS previous FROM leora_pipeline.account_type_transition) AS t "
        "WHERE from_type IS DISTINCT FROM previous"
    )
    assert broken == [], "each transition begins where the one before it ended"
