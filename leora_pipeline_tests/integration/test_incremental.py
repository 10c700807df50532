"""The incremental run: what changed, or was outdated by time, ends right, and nothing is left over.

Each test begins after a full run. What an incremental run leaves behind is compared with what a
full run would: nothing is left for that either.
"""

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
from leora_pipeline.sample.crm import load
from leora_pipeline.sample.tenants import scaled_tenants
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.scenes import (
    LARGE_SCAN,
    WRITER,
    add_customers,
    assert_settled,
    bring_orders_back,
    counts,
    full,
    holds,
    incremental,
    insert_order,
    is_held,
    lose_orders,
    waiting,
)


def catch_up(engine: sa.Engine, build: CrmBuilder) -> None:
    """Runs for what changed, once, and asserts that this was enough."""
    assert waiting(engine) != []
    incremental(engine)
    assert_settled(engine, build)


def states(build: CrmBuilder, customer: UUID) -> list[UUID]:
    """Returns the tenants in which a customer has a state."""
    return [
        row.tenant_id
        for row in build.run(
            "SELECT tenant_id FROM leora_pipeline.customer_state WHERE customer_id = :id",
            id=customer,
        )
    ]


# What happens to orders.


def test_a_new_order_is_told(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    full(engine)
    ordered = ago(days=1)
    build.order(tenant, customer, ordered)

    catch_up(engine, build)

    assert build.read(customer)[:2] == ("ACTIVE", ordered)
    assert build.log(customer)[-1] == ("TARGET", "ACTIVE", "order")


def test_an_order_imported_with_an_old_date_gives_the_type_of_that_date(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    first, late = build.customer(tenant), build.customer(tenant, orders=(ago(days=10),))
    full(engine)
    for customer in (first, late):
        build.order(tenant, customer, ago(days=300))

    catch_up(engine, build)

    assert (build.type_of(first), build.type_of(late)) == ("TARGET", "ACTIVE")


@pytest.mark.parametrize(
    "happens",
    [
        "UPDATE \"Order\" SET status = 'CANCELLED' WHERE id = :id",
        'UPDATE "Order" SET "orderedAt" = "orderedAt" - interval \'190 days\' WHERE id = :id',
        'UPDATE "Order" SET "orderedAt" = NULL WHERE id = :id',
        'DELETE FROM "Order" WHERE id = :id',
    ],
)
def test_an_order_that_no_longer_counts_takes_its_type_along(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, happens: str
) -> None:
    before = ago(days=200)
    customer = build.customer(tenant, orders=(before,))
    order = build.order(tenant, customer, ago(days=12))
    full(engine)
    assert build.type_of(customer) == "ACTIVE"
    build.run(happens, id=order)

    catch_up(engine, build)

    found = build.read(customer)
    assert found.type == "TARGET"
    assert found.date == before or "190 days" in happens
    assert build.log(customer)[-1] == ("ACTIVE", "TARGET", "order removed")


def test_the_imported_date_returns_when_the_last_order_goes(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    imported = ago(days=250)
    customer = build.customer(tenant, "TARGET", last_order=imported)
    full(engine)
    order = build.order(tenant, customer, ago(days=2))
    catch_up(engine, build)
    assert build.type_of(customer) == "ACTIVE"
    build.cancel(order)

    catch_up(engine, build)

    assert build.read(customer)[:2] == ("TARGET", imported)


def test_an_order_that_moves_to_another_customer_changes_both(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    giver, taker = build.customer(tenant), build.customer(tenant)
    order = build.order(tenant, giver, ago(days=2))
    full(engine)
    build.run('UPDATE "Order" SET "customerId" = :to WHERE id = :id', to=taker, id=order)

    catch_up(engine, build)

    assert (build.type_of(giver), build.type_of(taker)) == ("PROSPECT", "ACTIVE")


def test_an_order_that_moves_to_a_customer_of_another_tenant_changes_both(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    giver, taker = build.customer(tenant), build.customer(other)
    order = build.order(tenant, giver, ago(days=2))
    full(engine)
    build.run(
        'UPDATE "Order" SET "customerId" = :to, "tenantId" = :tenant WHERE id = :id',
        to=taker,
        tenant=other,
        id=order,
    )

    catch_up(engine, build)

    assert (build.type_of(giver), build.type_of(taker)) == ("PROSPECT", "ACTIVE")


def test_an_order_that_names_another_tenant_than_its_customers_counts_for_nobody(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    customer = build.customer(tenant)
    order = build.order(tenant, customer, ago(days=2))
    full(engine)
    build.run('UPDATE "Order" SET "tenantId" = :tenant WHERE id = :id', tenant=other, id=order)

    catch_up(engine, build)

    assert build.type_of(customer) == "PROSPECT"
    assert states(build, customer) == [tenant]


# What happens to customers.


def test_a_new_customer_gets_a_type(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
    full(engine)
    new, imported = build.customer(tenant), build.customer(tenant, last_order=ago(days=200))

    catch_up(engine, build)

    assert (build.type_of(new), build.type_of(imported)) == ("PROSPECT", "TARGET")


def test_a_deleted_customer_takes_its_state_along(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer, other = (build.customer(tenant, orders=(ago(days=2),)) for _ in range(2))
    full(engine)
    build.run('DELETE FROM "Customer" WHERE id = :id', id=customer)

    catch_up(engine, build)

    assert states(build, customer) == []
    assert states(build, other) == [tenant]


def test_a_customer_who_moves_to_another_tenant_is_told_there(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    customer = build.customer(tenant, orders=(ago(days=2),))
    full(engine)
    build.run('UPDATE "Order" SET "tenantId" = :tenant', tenant=other)
    build.run(
        'UPDATE "Customer" SET "tenantId" = :tenant, "accountType" = NULL, "lastOrderDate" = NULL',
        tenant=other,
    )

    catch_up(engine, build)

    assert build.type_of(customer) == "ACTIVE"
    assert states(build, customer) == [other]


def test_a_hold_that_a_person_sets_stays_and_gets_its_dates(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    full(engine)
    build.set_type(customer, "HOLD")
    catch_up(engine, build)
    ordered = ago(days=1)
    build.order(tenant, customer, ordered)

    catch_up(engine, build)

    assert build.read(customer)[:2] == ("HOLD", ordered)


@pytest.mark.parametrize("by_hand", ["PROSPECT", "TARGET", "ACTIVE", None])
def test_a_hold_that_a_person_lifts_ends_in_the_rules_type(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, by_hand: str | None
) -> None:
    customer = build.customer(tenant, "HOLD", orders=(ago(days=200),))
    full(engine)
    build.set_type(customer, by_hand)

    catch_up(engine, build)

    assert build.type_of(customer) == "TARGET"


@pytest.mark.parametrize("by_hand", ["PROSPECT", "TARGET", None])
def test_a_type_set_by_hand_is_put_right(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, by_hand: str | None
) -> None:
    customer = build.customer(tenant, orders=(ago(days=2),))
    full(engine)
    build.set_type(customer, by_hand)

    catch_up(engine, build)

    assert build.type_of(customer) == "ACTIVE"
    assert build.log(customer)[-1] == (by_hand, "ACTIVE", "by hand")


def test_a_date_set_by_hand_is_put_right(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered = ago(days=2)
    customer = build.customer(tenant, orders=(ordered,))
    full(engine)
    build.run('UPDATE "Customer" SET "lastOrderDate" = now()')

    catch_up(engine, build)

    assert build.read(customer).date == ordered


# Time and policy.


@pytest.mark.parametrize(
    ("ordered_days_ago", "before", "after"),
    [
        (185, "ACTIVE", "TARGET"),
        (370, "TARGET", "PROSPECT"),
        (5, "PROSPECT", "ACTIVE"),  # Dated in the future, then.
    ],
)
@pytest.mark.parametrize("is_imported", [False, True])
def test_time_alone_changes_a_type(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    ordered_days_ago: int,
    before: str,
    after: str,
    is_imported: bool,
) -> None:
    date = ago(days=ordered_days_ago)
    customer = build.customer(
        tenant, last_order=date if is_imported else None, orders=() if is_imported else (date,)
    )
    bystander = build.customer(tenant, orders=(ago(days=100),))
    full(engine, as_of=ago(days=10))
    assert (build.type_of(customer), build.type_of(bystander)) == (before, "ACTIVE")
    assert build.pending() == set()

    catch_up(engine, build)

    assert build.read(customer)[:2] == (after, date)


def test_an_order_that_comes_due_is_not_the_last_of_its_kind(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    due = ago(days=5)
    customer = build.customer(tenant, orders=(ago(days=200), due, ago(days=-30)))
    full(engine, as_of=ago(days=10))
    assert build.type_of(customer) == "TARGET"

    catch_up(engine, build)

    assert build.read(customer)[:2] == ("ACTIVE", due)


def set_thresholds(build: CrmBuilder, tenant: UUID, active: int, target: int) -> None:
    build.run(
        "INSERT INTO leora_pipeline.tenant_policy "
        "SELECT * FROM leora_pipeline.effective_policy(:tenant) ON CONFLICT DO NOTHING",
        tenant=tenant,
    )
    build.run(
        "UPDATE leora_pipeline.tenant_policy SET active_within = :active, target_within = :target "
        "WHERE tenant_id = :tenant",
        tenant=tenant,
        active=active,
        target=target,
    )


@pytest.mark.parametrize(
    ("active", "target", "types"),
    [
        (30, 60, ["ACTIVE", "TARGET", "PROSPECT", "PROSPECT", "PROSPECT"]),
        (30, 600, ["ACTIVE", "TARGET", "TARGET", "TARGET", "TARGET"]),
        (250, 500, ["ACTIVE", "ACTIVE", "ACTIVE", "ACTIVE", "TARGET"]),
        (400, 401, ["ACTIVE"] * 5),
    ],
)
def test_a_changed_policy_reaches_every_customer_and_no_other_tenant(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, active: int, target: int, types: list[str]
) -> None:
    dates = tuple(ago(days=days) for days in (10, 45, 100, 200, 380))
    customers = [build.customer(tenant, orders=(date,)) for date in dates]
    other = build.tenant("market")
    bystanders = [build.customer(other, orders=(date,)) for date in dates]
    default = ["ACTIVE", "ACTIVE", "ACTIVE", "TARGET", "PROSPECT"]
    full(engine)
    assert [build.type_of(customer) for customer in customers] == default

    set_thresholds(build, tenant, active, target)
    assert waiting(engine) == [tenant]
    catch_up(engine, build)

    assert [build.type_of(customer) for customer in customers] == types
    assert [build.type_of(customer) for customer in bystanders] == default

    set_thresholds(build, tenant, 180, 365)
    catch_up(engine, build)
    assert [build.type_of(customer) for customer in customers] == default


# The gate.


def lose_all_orders(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> list[UUID]:
    """Returns 20 ACTIVE customers, all of whose orders have just gone."""
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    full(engine)
    lose_orders(build, customers)
    return customers


def test_orders_deleted_in_bulk_are_held_and_leave_nothing_waiting(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    lose_all_orders(engine, build, tenant)
    other = build.customer(build.tenant("market"))
    build.order(tenant_of(build, other), other, ago(days=1))

    results = incremental(engine)

    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 20}
    assert {result.tenant_slug: result.held for result in results} == {
        "cellar": True,
        "market": False,
    }
    assert build.type_of(other) == "ACTIVE"
    assert_settled(engine, build)
    assert counts(build, tenant) == {"ACTIVE": 20}


def tenant_of(build: CrmBuilder, customer: UUID) -> UUID:
    """Returns a customer's tenant."""
    found: UUID = build.run('SELECT "tenantId" AS id FROM "Customer" WHERE id = :id', id=customer)[
        0
    ].id
    return found


def test_an_incremental_run_never_releases_a_hold(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customers = lose_all_orders(engine, build, tenant)
    incremental(engine)
    bring_orders_back(build, customers)

    incremental(engine)
    assert is_held(build, tenant)
    assert waiting(engine) == []

    full(engine)
    assert [hold.released_by for hold in holds(build, tenant)] == ["full run"]
    assert counts(build, tenant) == {"ACTIVE": 20}


def test_in_a_held_tenant_upward_moves_go_on_and_nothing_goes_round_in_circles(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    climber = build.customer(tenant, orders=(ago(days=200),))
    aged = build.customer(tenant, orders=(ago(days=100),))
    lose_all_orders(engine, build, tenant)
    incremental(engine)
    build.order(tenant, climber, ago(days=1))
    build.run('UPDATE "Order" SET "orderedAt" = :date', date=stored(ago(days=1)))
    build.run(
        'UPDATE "Order" SET "orderedAt" = :date WHERE "customerId" = :id',
        date=stored(ago(days=300)),
        id=aged,
    )

    incremental(engine)

    assert is_held(build, tenant)
    assert (build.type_of(climber), build.type_of(aged)) == ("ACTIVE", "ACTIVE")
    assert waiting(engine) == []
    assert incremental(engine) == []


def test_an_upward_move_of_a_held_tenant_that_somebody_held_up_is_told_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    climber = build.customer(tenant, orders=(ago(days=200),))
    lose_all_orders(engine, build, tenant)
    incremental(engine)
    build.order(tenant, climber, ago(days=1))
    with transaction(engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name'))
        incremental(engine)
    assert is_held(build, tenant)
    assert build.type_of(climber) == "TARGET"

    assert waiting(engine) == [tenant]
    incremental(engine)

    assert build.type_of(climber) == "ACTIVE"
    assert waiting(engine) == []


# It ends, and does no more than it has to.


def test_a_customer_whom_somebody_held_is_told_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    full(engine)
    build.order(tenant, customer, ago(days=1))

    with transaction(engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name'))
        incremental(engine)
        assert build.type_of(customer) == "PROSPECT"
        assert build.pending() == set()
        assert waiting(engine) == [tenant]

    catch_up(engine, build)
    assert build.type_of(customer) == "ACTIVE"


def test_a_customer_who_is_deleted_before_being_told_keeps_no_run_going(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    with transaction(engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name'))
        incremental(engine)
    assert waiting(engine) == [tenant], "it is still to be told"
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


# What commits meanwhile.


def test_an_order_that_commits_late_is_the_next_runs(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    full(engine)

    with transaction(engine) as late:
        insert_order(late, tenant, customer, ago(days=2))
        # Others are noted and done after it, and before it commits.
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
        with transaction(engine) as somebody:
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


# What it costs.


@pytest.fixture
def large(engine: sa.Engine) -> sa.Engine:
    """A CRM of some size, after a full run."""
    with transaction(engine) as connection:
        load(connection, scaled_tenants(4, 20_000), anchor=ago(hours=1), orders_per_customer=2)
    full(engine)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
    return engine


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
def test_a_few_changes_are_refreshed_and_told_without_a_scan(
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
