"""What happens at the worst moment: forced interleavings of runs, the CRM's writers, and failures.

The steps of a run are driven by hand, so that something else happens exactly between two of them;
where something has to wait for a lock, the test goes on once PostgreSQL shows it waiting. A
statement that waits for ever is ended by the server, and fails its test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from threading import Barrier, Event
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    LeoraError,
    TenantsFailedError,
    update_account_types,
    update_customer_account_type,
)
from leora_pipeline.core.customers import write_back
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.database.connection import stream_rows, transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.run import apply as apply_step
from leora_pipeline.core.run import refresh as refresh_step
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.ledger import step
from leora_pipeline.core.run.plan import plan
from leora_pipeline.core.run.publish import publish
from leora_pipeline.core.run.refresh import customers_to_refresh, refresh
from leora_pipeline.core.run.run import Run, resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.scenes import (
    WAITS_FOR_LOCK,
    WRITER,
    everything,
    insert_order,
    refuse_rows,
    settle,
    wait_for_row,
    write_unsynced,
)

DEADLINE = 20.0


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever(engine: sa.Engine, build: CrmBuilder) -> None:
    """Ends what waits beyond the deadline."""
    database = build.run("SELECT current_database() AS name")[0].name
    build.run(f"ALTER DATABASE {database} SET statement_timeout = '{DEADLINE:.0f}s'")
    engine.dispose()


def nothing() -> None:
    """Happens where nothing does."""


def drive(
    engine: sa.Engine,
    *,
    before_refresh: Callable[[], object] = nothing,
    before_apply: Callable[[], object] = nothing,
) -> Run:
    """Takes a full run through its steps, with something happening between two of them."""
    run = resolve_run(engine)
    with step(engine, run):
        candidates = list(customers_to_refresh(engine, run))
        before_refresh()
        for tenant_id, customer_ids in candidates:
            with transaction(engine) as connection:
                refresh_customers(connection, run.writer, tenant_id, customer_ids)
    plan(engine, run)
    before_apply()
    apply(engine, run)
    publish(engine, run)
    return run


def state(build: CrmBuilder, customer: UUID) -> Any:
    return build.run(
        "SELECT * FROM leora_pipeline.customer_state WHERE customer_id = :id", id=customer
    )[0]


def refreshed(connection: sa.Connection, tenant: UUID, customer: UUID) -> list[UUID]:
    """Refreshes a customer; returns it where nobody else held it."""
    return refresh_customers(connection, WRITER, tenant, [customer])


# Between the steps of a run.


def test_an_order_that_commits_before_the_refresh_is_seen(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=400),))
    ordered = ago(days=1)

    drive(engine, before_refresh=lambda: build.order(tenant, customer, ordered))

    assert build.read(customer)[:2] == ("ACTIVE", ordered)
    assert [entry[:2] for entry in build.log(customer)] == [(None, "ACTIVE")]
    settle(engine, build)


def test_an_order_that_commits_before_the_apply_is_the_next_runs(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=400),))
    ordered = ago(days=1)

    drive(engine, before_apply=lambda: build.order(tenant, customer, ordered))
    assert build.type_of(customer) == "PROSPECT"

    settle(engine, build)
    assert build.read(customer)[:2] == ("ACTIVE", ordered)
    assert [entry[:2] for entry in build.log(customer)] == [
        (None, "PROSPECT"),
        ("PROSPECT", "ACTIVE"),
    ]


@pytest.mark.parametrize("place", ["before_refresh", "before_apply"])
def test_an_order_for_somebody_who_was_right_is_the_next_runs(
    engine: sa.Engine, build: CrmBuilder, place: str
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)

    drive(engine, **{place: lambda: build.order(tenant, customer, ago(days=1))})
    settle(engine, build)

    assert build.type_of(customer) == "ACTIVE"


def test_an_order_cancelled_before_the_refresh_no_longer_counts(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=400),))
    order = build.order(tenant, customer, ago(days=1))

    drive(engine, before_refresh=lambda: build.cancel(order))

    assert [entry[:2] for entry in build.log(customer)] == [(None, "PROSPECT")]
    settle(engine, build)
    assert build.type_of(customer) == "PROSPECT"


def test_an_order_cancelled_before_the_apply_is_the_next_runs(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    older = ago(days=200)
    customer = build.customer(tenant, orders=(older,))
    order = build.order(tenant, customer, ago(days=1))

    drive(engine, before_apply=lambda: build.cancel(order))
    settle(engine, build)

    assert build.read(customer)[:2] == ("TARGET", older)
    assert build.log(customer)[-1] == ("ACTIVE", "TARGET", "order removed")


@pytest.mark.parametrize("before", ["TARGET", None])
@pytest.mark.parametrize("place", ["before_refresh", "before_apply"])
def test_a_hold_that_a_person_sets_survives_the_run(
    engine: sa.Engine, build: CrmBuilder, place: str, before: str | None
) -> None:
    tenant = build.tenant()
    ordered = ago(days=1)
    customer = build.customer(tenant, before, orders=(ordered,))

    drive(engine, **{place: lambda: build.set_type(customer, "HOLD")})
    settle(engine, build)

    assert build.read(customer)[:2] == ("HOLD", ordered)
    assert build.log(customer) == []


@pytest.mark.parametrize("place", ["before_refresh", "before_apply"])
def test_a_hold_that_a_person_lifts_ends_in_the_rules_type(
    engine: sa.Engine, build: CrmBuilder, place: str
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "HOLD", orders=(ago(days=1),))

    drive(engine, **{place: lambda: build.set_type(customer, "PROSPECT")})
    settle(engine, build)

    assert build.type_of(customer) == "ACTIVE"
    assert [entry[:2] for entry in build.log(customer)] == [("PROSPECT", "ACTIVE")]


@pytest.mark.parametrize("place", ["before_refresh", "before_apply"])
def test_a_type_set_right_by_hand_meanwhile_is_not_logged_as_the_pipelines(
    engine: sa.Engine, build: CrmBuilder, place: str
) -> None:
    tenant = build.tenant()
    ordered = ago(days=1)
    customer = build.customer(tenant, "TARGET", last_order=ordered, orders=(ordered,))

    by_hand = []

    def set_right() -> None:
        build.set_type(customer, "ACTIVE")
        by_hand.append(build.read(customer))

    drive(engine, **{place: set_right})
    settle(engine, build)

    assert build.log(customer) == []
    assert [build.read(customer)] == by_hand, "nor is the row touched"


@pytest.mark.parametrize("place", ["before_refresh", "before_apply"])
def test_a_customer_deleted_meanwhile_leaves_nothing_behind(
    engine: sa.Engine, build: CrmBuilder, place: str
) -> None:
    tenant = build.tenant()
    gone, stays = (build.customer(tenant, orders=(ago(days=1),)) for _ in range(2))

    run = drive(
        engine, **{place: lambda: build.run('DELETE FROM "Customer" WHERE id = :id', id=gone)}
    )
    assert build.type_of(stays) == "ACTIVE"
    settle(engine, build)

    assert build.log(gone) == []
    assert build.run(
        "SELECT status FROM leora_pipeline.tenant_run WHERE run_id = :run", run=run.run_id
    ) == [("succeeded",)]
    assert build.run("SELECT customer_id FROM leora_pipeline.customer_state") == [(stays,)]


@pytest.mark.parametrize("with_orders", [True, False])
@pytest.mark.parametrize("place", ["before_refresh", "before_apply"])
def test_a_customer_moved_to_another_tenant_is_told_there(
    engine: sa.Engine, build: CrmBuilder, place: str, with_orders: bool
) -> None:
    here, there = build.tenant("cellar"), build.tenant("dry-goods")
    customer = build.customer(here, orders=(ago(days=1),))

    def move() -> None:
        for table, column in (("Customer", "id"), ("Order", "customerId")):
            if with_orders or table == "Customer":
                build.run(
                    f'UPDATE "{table}" SET "tenantId" = :there WHERE "{column}" = :customer',
                    there=there,
                    customer=customer,
                )

    drive(engine, **{place: move})
    settle(engine, build)

    # An order of another tenant's is no order of the customer's.
    assert build.type_of(customer) == ("ACTIVE" if with_orders else "PROSPECT")
    assert state(build, customer).tenant_id == there
    assert {row.tenant_id for row in everything(build)[2]} == {there}


def test_a_tenant_deleted_meanwhile_fails_no_other(engine: sa.Engine, build: CrmBuilder) -> None:
    gone, stays = build.tenant("cellar"), build.tenant("dry-goods")
    customers = [build.customer(tenant, orders=(ago(days=1),)) for tenant in (gone, stays)]

    drive(engine, before_apply=lambda: build.run('DELETE FROM "Tenant" WHERE id = :id', id=gone))
    settle(engine, build)

    assert build.type_of(customers[1]) == "ACTIVE"
    assert {row.tenant_id for row in everything(build)[1]} == {stays}


# Beside the CRM's transactions.


def test_a_run_does_not_wait_for_a_customer_that_the_crm_holds(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    held, free = (build.customer(tenant, orders=(ago(days=1),)) for _ in range(2))

    with transaction(engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name WHERE id = :id'), {"id": held})
        update_account_types(engine=engine)
        assert (build.type_of(held), build.type_of(free)) == (None, "ACTIVE")
        assert state(build, held).needs_sync
        assert not update_customer_account_type(held, engine=engine).is_changed

    settle(engine, build)
    assert build.type_of(held) == "ACTIVE"
    assert [entry[:2] for entry in build.log(held)] == [(None, "ACTIVE")]


@pytest.mark.parametrize(
    ("by_hand", "afterwards", "log"),
    [
        ("HOLD", "HOLD", []),
        ("ACTIVE", "ACTIVE", []),
        ("TARGET", "ACTIVE", [("TARGET", "ACTIVE", "by hand")]),
    ],
)
def test_what_the_crm_sets_while_it_holds_a_customer_is_what_the_next_run_finds(
    engine: sa.Engine, build: CrmBuilder, by_hand: str, afterwards: str, log: list[object]
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=1),))

    with transaction(engine) as crm:
        crm.execute(
            sa.text('UPDATE "Customer" SET "accountType" = CAST(:type AS "AccountType")'),
            {"type": by_hand},
        )
        update_account_types(engine=engine)
    assert build.type_of(customer) == by_hand

    settle(engine, build)
    assert build.type_of(customer) == afterwards
    assert build.log(customer) == log


def test_an_order_in_the_making_holds_up_no_run(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=200),))
    ordered = ago(days=1)

    with transaction(engine) as crm:
        insert_order(crm, tenant, customer, ordered)
        update_account_types(engine=engine)
        assert build.type_of(customer) == "TARGET", "told despite the foreign key's lock"

    settle(engine, build)
    assert build.read(customer)[:2] == ("ACTIVE", ordered)


def test_a_run_holds_up_no_order(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=200),))
    run = resolve_run(engine)
    refresh(engine, run)

    with transaction(engine) as pipeline:
        locked = lock_customers(pipeline, tenant)
        assert apply_customers(pipeline, run.writer, tenant, locked).moved == 1
        with transaction(engine) as crm:
            crm.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            insert_order(crm, tenant, customer, ago(days=1))

    settle(engine, build)
    assert build.type_of(customer) == "ACTIVE"


def test_a_migration_of_the_crm_in_the_middle_of_a_run_does_not_hang_both(
    engine: sa.Engine,
    build: CrmBuilder,
    background: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # ALTER TABLE waits for whoever reads the orders, and whoever wants to read them next queues
    # behind it. Would the run keep its read of candidates open while it refreshes them on another
    # connection, neither could ever get on, and nor could the CRM.
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=1),))
    migrations: list[Future[None]] = []

    def alter() -> None:
        with transaction(engine) as crm:
            crm.exec_driver_sql("SET LOCAL statement_timeout = 0")
            crm.exec_driver_sql('ALTER TABLE "Order" ADD COLUMN "note" text')

    def alter_first(*args: Any, **options: Any) -> list[UUID]:
        if not migrations:
            migrations.append(background.submit(alter))
            give_up = monotonic() + DEADLINE
            while not migrations[0].done() and not build.run(WAITS_FOR_LOCK):
                assert monotonic() < give_up
        return refresh_customers(*args, **options)

    monkeypatch.setattr(refresh_step, "refresh_customers", alter_first)
    build.run(f"ALTER DATABASE {engine.url.database} SET statement_timeout = '5s'")
    engine.dispose()
    run = resolve_run(engine)
    with suppress(TenantsFailedError):  # It may give up on a tenant, rather than wait.
        run_all_steps(engine, run)
    migrations[0].result(DEADLINE)

    ((_, error),) = failed_run(build, run)
    assert "statement timeout" not in (error or ""), "they would have waited for ever"
    settle(engine, build)
    assert build.type_of(customer) == "ACTIVE"


# Refresh and apply of the same customer.


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


def test_whom_a_full_run_passes_over_is_noted_for_the_next_round(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer, other = (build.customer(tenant, "PROSPECT") for _ in range(2))
    update_account_types(engine=engine)
    for one in (customer, other):
        build.order(tenant, one, ago(days=1))
    build.run("DELETE FROM leora_pipeline.pending_customer")  # As if there were no triggers.

    with transaction(engine) as somebody:
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


def test_two_refreshes_that_meet_a_customer_at_once_make_one_state(
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
    build.run("ALTER FUNCTION leora_pipeline.ensure_customer_state RENAME TO meet_and_go_on")
    build.run(
        "CREATE FUNCTION leora_pipeline.ensure_customer_state(uuid, uuid[], timestamptz) "
        "RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM leora_pipeline.meet_and_go_on($1, $2, $3); "
        "IF current_setting('test.stands', true) = 'on' THEN PERFORM pg_advisory_xact_lock(1); "
        "END IF; END $$"
    )

    def refresh_first() -> list[UUID]:
        with transaction(engine) as connection:
            connection.exec_driver_sql("SET LOCAL test.stands = 'on'")
            return refreshed(connection, here, customer)

    with transaction(engine) as second:
        with transaction(engine) as somebody:
            somebody.exec_driver_sql("SELECT pg_advisory_xact_lock(1)")
            first = background.submit(refresh_first)
            wait_for_row(build, WAITS_FOR_LOCK, first)
            build.run('UPDATE "Customer" SET "tenantId" = :here', here=here)
            build.order(here, customer, ago(days=1))
            assert refreshed(second, here, customer) == [customer]
        assert first.result(DEADLINE) == []

    assert state(build, customer).account_type == "ACTIVE"


def test_a_refresh_that_meets_an_apply_leaves_its_news_to_the_next_round(
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


def test_an_apply_passes_over_a_customer_being_refreshed_and_tells_it_later(
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


def make_batches(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Lets a run refresh and write so many customers a transaction."""
    monkeypatch.setattr(refresh_step, "REFRESH_BATCH", size)
    for module in (apply_step, write_back):
        monkeypatch.setattr(module, "WRITE_BATCH", size)


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
        run = resolve_run(engine, allow_mass_change=["cellar", "dry-goods"], on_progress=together)
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
            update_account_types(allow_mass_change=["cellar"], engine=engine)

    writer = background.submit(crm)
    try:
        for future in [background.submit(runs) for _ in range(2)]:
            future.result(DEADLINE)
    finally:
        done.set()
    assert writer.result(DEADLINE) > 0
    update_account_types(allow_mass_change=["cellar"], engine=engine)

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


# Failures.


def add_customers(build: CrmBuilder, tenant: UUID, count: int) -> None:
    """Adds customers without a type, each with an order of today."""
    build.run(
        'WITH c AS (INSERT INTO "Customer" (id, "tenantId", name, "updatedAt") '
        "SELECT gen_random_uuid(), :tenant, 'Shop ' || n, now() - interval '1 year' "
        "FROM generate_series(1, :count) AS n RETURNING id) "
        'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
        "SELECT gen_random_uuid(), :tenant, id, 'FULFILLED', now() - interval '1 day', now() "
        "FROM c",
        tenant=tenant,
        count=count,
    )


@pytest.mark.parametrize(
    "table",
    [
        '"Customer"',
        "leora_pipeline.customer_state",
        "leora_pipeline.account_type_change",
        "leora_pipeline.account_type_transition",
        "leora_pipeline.account_type_distribution",
    ],
)
def test_a_tenant_that_fails_at_any_step_leaves_the_others_done(
    engine: sa.Engine, build: CrmBuilder, table: str
) -> None:
    slugs = ("cellar", "dry-goods", "market")
    tenants = [build.tenant(slug) for slug in slugs]
    customers = [build.customer(tenant, orders=(ago(days=1),)) for tenant in tenants]
    column = "tenant_id" if table.startswith("leora_pipeline") else '"tenantId"'
    refuse_rows(build, table, column, tenants[1])

    with pytest.raises(TenantsFailedError) as failure:
        update_account_types(engine=engine)

    assert failure.value.errors == {"dry-goods": "the disk is made of cheese"}
    assert "dry-goods" in str(failure.value)
    assert [result.tenant_slug for result in failure.value.results] == ["cellar", "market"]
    assert [build.type_of(customers[i]) for i in (0, 2)] == ["ACTIVE", "ACTIVE"]
    told = table == "leora_pipeline.account_type_distribution"
    assert build.type_of(customers[1]) == ("ACTIVE" if told else None)
    assert len(build.log(customers[1])) == (1 if told else 0)
    assert build.run(
        'SELECT t.slug, r.status, r.error FROM leora_pipeline.tenant_run AS r JOIN "Tenant" AS t '
        "ON t.id = r.tenant_id WHERE r.finished_at IS NOT NULL ORDER BY t.slug"
    ) == [
        ("cellar", "succeeded", None),
        ("dry-goods", "failed", "the disk is made of cheese"),
        ("market", "succeeded", None),
    ]
    assert {row[0] for row in distribution(build)} == {tenants[0], tenants[2]}

    build.run("DROP FUNCTION refuse CASCADE")
    settle(engine, build)
    assert build.type_of(customers[1]) == "ACTIVE"
    assert len(distribution(build)) == 3


def distribution(build: CrmBuilder) -> list[Any]:
    return build.run("SELECT tenant_id FROM leora_pipeline.account_type_distribution")


def test_a_batch_that_fails_takes_only_its_own_tenant_with_it(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batches(monkeypatch, 10)
    tenants = [build.tenant(slug) for slug in ("cellar", "dry-goods")]
    for tenant in tenants:
        add_customers(build, tenant, 35)
    refuse_rows(build, '"Customer"', '"tenantId"', tenants[0])
    third_batch = build.run(
        'SELECT id FROM "Customer" WHERE "tenantId" = :tenant ORDER BY id OFFSET 25 LIMIT 1',
        tenant=tenants[0],
    )[0].id
    build.run('DROP TRIGGER refuse ON "Customer"')
    build.run(
        'CREATE TRIGGER refuse BEFORE UPDATE ON "Customer" FOR EACH ROW '
        f"WHEN (NEW.id = '{third_batch}') EXECUTE FUNCTION refuse()"
    )

    with pytest.raises(TenantsFailedError):
        update_account_types(engine=engine)

    typed = 'SELECT count("accountType") FROM "Customer" WHERE "tenantId" = :tenant'
    assert build.run(typed, tenant=tenants[0]) == [(20,)], "two batches, and no half of the third"
    assert build.run(typed, tenant=tenants[1]) == [(35,)]
    assert len(build.log()) == 55


def failed_run(build: CrmBuilder, run: Run) -> list[Any]:
    return build.run(
        "SELECT DISTINCT status, error FROM leora_pipeline.tenant_run WHERE run_id = :run",
        run=run.run_id,
    )


def test_a_read_that_breaks_off_fails_all_tenants_and_demotes_nobody(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_step, "REFRESH_BATCH", 500)
    tenants = [build.tenant(slug) for slug in ("cellar", "dry-goods")]
    for tenant in tenants:
        add_customers(build, tenant, 8_000)  # More than sockets buffer.

    def cut_off(
        connection: sa.Connection, query: str, parameters: dict[str, object], *, size: int
    ) -> Iterator[tuple[object, ...]]:
        rows = stream_rows(connection, query, parameters, size=size)
        yield from islice(rows, 1_200)
        session = connection.connection.driver_connection
        assert session is not None
        build.run("SELECT pg_terminate_backend(:pid)", pid=session.info.backend_pid)
        yield from rows

    run = resolve_run(engine)
    with monkeypatch.context() as patch:
        patch.setattr(refresh_step, "stream_rows", cut_off)
        with pytest.raises((LeoraError, sa.exc.SQLAlchemyError)):
            run_all_steps(engine, run)

    assert build.run('SELECT count("accountType") FROM "Customer"') == [(0,)]
    assert build.log() == []
    ((status, error),) = failed_run(build, run)
    assert status == "failed"
    assert "connection" in error
    assert distribution(build) == []

    settle(engine, build)
    assert build.run('SELECT count("accountType") FROM "Customer"') == [(16_000,)]


@pytest.fixture
def filtered(engine: sa.Engine, build: CrmBuilder) -> Iterator[sa.Engine]:
    """Connects as a role that row level security would filter, once it is switched on."""
    build.run("DROP ROLE IF EXISTS leora_filtered")
    build.run("CREATE ROLE leora_filtered LOGIN")
    for grant in (
        "USAGE ON SCHEMA leora_pipeline TO",
        "ALL ON ALL TABLES IN SCHEMA leora_pipeline TO",
        "ALL ON ALL TABLES IN SCHEMA public TO",
    ):
        build.run(f"GRANT {grant} leora_filtered")
    url = engine.url.set(username="leora_filtered").render_as_string(hide_password=False)
    created = create_engine(url)
    yield created
    created.dispose()
    build.run("DROP OWNED BY leora_filtered")
    build.run("DROP ROLE leora_filtered")


def switch_on_row_level_security(build: CrmBuilder, table: str) -> None:
    build.run(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY')
    build.run(
        f'CREATE POLICY own ON "{table}" '
        "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
    )


def test_row_level_security_switched_on_before_the_read_fails_the_run(
    filtered: sa.Engine, build: CrmBuilder
) -> None:
    tenants = [build.tenant(slug) for slug in ("cellar", "dry-goods")]
    customers = [build.customer(tenant, orders=(ago(days=1),)) for tenant in tenants]
    update_account_types(engine=filtered)
    before = everything(build)
    run = resolve_run(filtered)
    switch_on_row_level_security(build, "Order")

    with pytest.raises((LeoraError, sa.exc.SQLAlchemyError), match="row-level security"):
        run_all_steps(filtered, run)

    assert everything(build) == before
    assert [build.type_of(customer) for customer in customers] == ["ACTIVE", "ACTIVE"]
    ((status, error),) = failed_run(build, run)
    assert status == "failed"
    assert "row-level security" in error


def test_row_level_security_switched_on_before_the_refresh_demotes_nobody(
    filtered: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "ACTIVE", orders=(ago(days=1),))
    run = resolve_run(filtered)
    candidates = list(customers_to_refresh(filtered, run))
    switch_on_row_level_security(build, "Order")

    assert candidates == [(tenant, [customer])]
    with (
        pytest.raises(sa.exc.ProgrammingError, match="row-level security"),
        transaction(filtered) as connection,
    ):
        refresh_customers(connection, WRITER, tenant, [customer])

    assert everything(build)[1:] == [[], []]


@pytest.mark.parametrize("table", ["Customer", "Order"])
def test_row_level_security_switched_on_before_the_apply_writes_nothing_wrong(
    filtered: sa.Engine, build: CrmBuilder, table: str
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "TARGET", orders=(ago(days=1),))
    run = resolve_run(filtered)
    refresh(filtered, run)
    switch_on_row_level_security(build, table)

    with suppress(TenantsFailedError, sa.exc.ProgrammingError):
        plan(filtered, run)
        apply(filtered, run)
        publish(filtered, run)

    # The customers out of sight are an error; the orders are no longer read.
    assert build.type_of(customer) == ("TARGET" if table == "Customer" else "ACTIVE")
    assert failed_run(build, run)[0].status == ("failed" if table == "Customer" else "succeeded")


def test_an_interrupted_run_is_recorded_as_failed_and_the_next_one_makes_up_for_it(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batches(monkeypatch, 10)
    add_customers(build, build.tenant(), 35)

    def interrupt(step: str, customers: int) -> None:
        if step == "apply":
            raise KeyboardInterrupt

    run = replace(resolve_run(engine), on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all_steps(engine, run)

    assert failed_run(build, run) == [("failed", "the run was interrupted")]
    assert build.run('SELECT count("accountType") FROM "Customer"') == [(10,)]
    settle(engine, build)
    assert build.run('SELECT count("accountType") FROM "Customer"') == [(35,)]
    assert len(build.log()) == 35
