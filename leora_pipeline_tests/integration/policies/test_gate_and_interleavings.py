"""Changes of a policy, the gate, and what happens at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.policies import change as policies
from leora_pipeline.core.policies.change import change_policy, read_policies
from leora_pipeline.core.policies.fields import Value
from leora_pipeline.core.reporting.history import read_history
from leora_pipeline.core.reporting.preview import preview
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.plan import plan
from leora_pipeline.core.run.publish import publish
from leora_pipeline.core.run.refresh import refresh
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.policies import (
    DEFAULT,
    catch_up,
    causes,
    change,
    named,
    reclassifications,
    types,
)
from leora_pipeline_tests.scenes import (
    WAITS_FOR_LOCK,
    WRITER,
    add_customers,
    assert_settled,
    bring_orders_back,
    counts,
    full,
    incremental,
    is_held,
    lose_orders,
    wait_for_row,
    write_unsynced,
)

ALL_STATUSES = [
    "CANCELLED", "DELIVERED", "DRAFT", "FULFILLED", "PARTIALLY_FULFILLED", "PENDING", "PICKED",
    "READY_TO_DELIVER", "SUBMITTED",
]  # fmt: skip


CHANGES: list[dict[str, Value | None]] = [
    {"active_within": 1, "target_within": 2},
    {"active_within": 1},
    {"threshold_unit": "month", "active_within": 1, "target_within": 2},
    {"uncounted_statuses": list(ALL_STATUSES)},
    {"uncounted_statuses": list(ALL_STATUSES), "active_within": 1, "target_within": 2},
]


@pytest.mark.parametrize("values", CHANGES)
@pytest.mark.parametrize("path", ["incremental", "full", "hook"])
def test_everybody_may_move_down_by_a_policy_and_a_real_loss_right_after_is_held(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    values: dict[str, Value | None],
    path: str,
) -> None:
    customers = add_customers(build, tenant, 30, ordered=ago(days=100))
    full(engine)
    if path == "hook":
        for customer in customers:  # What waits to be refreshed by it.
            build.order(tenant, customer, ago(days=300))
        full(engine)

    done = change(engine, **values)

    assert sum(move.count for move in done.moves) == 30
    [seen] = preview(engine, [named(engine)]).tenants
    assert (seen.would_be_held, seen.incorrect) == (False, 30)
    today = read_history(engine, customers[0]).today
    assert today is not None
    assert today.cause == "policy"
    if path == "hook":
        reported = build.run(
            "SELECT outcome, count(*) FROM leora_pipeline.after_order_create(:ids) GROUP BY 1",
            ids=customers,
        )
        assert [tuple(row) for row in reported] == [("deferred", 30)]
        assert build.run("SELECT FROM leora_pipeline.policy_reclassification") == [], (
            "they are taken over"
        )
        assert counts(build, tenant) == {"ACTIVE": 30}, "it is left to those that can ask the gate"
        today = read_history(engine, customers[0]).today
        assert today is not None
        assert today.cause == "policy"
    full(engine) if path == "full" else incremental(engine)
    assert not is_held(build, tenant)
    assert "ACTIVE" not in counts(build, tenant)
    assert {cause for _, _, cause in build.log()} == {"policy"}
    assert_settled(engine, build)
    assert reclassifications(build) == 0

    change(engine, **dict.fromkeys(values))
    catch_up(engine, build)
    assert counts(build, tenant) == {"ACTIVE": 30}
    assert {cause for _, _, cause in build.log()} == {"policy"}
    lose_orders(build, customers)
    incremental(engine)
    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 30}


@pytest.mark.parametrize("statuses", [["PENDING"], ["DRAFT", "CANCELLED"]])
@pytest.mark.parametrize("loss_first", [False, True])
def test_orders_lost_around_a_change_of_policy_are_held_all_the_same(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, statuses: list[str], loss_first: bool
) -> None:
    """Between the change and the run: what the policy moves is not what is missing."""
    customers = add_customers(build, tenant, 30, ordered=ago(days=100))
    for customer in customers:
        build.order(tenant, customer, ago(days=20), "PENDING")
    full(engine)

    if loss_first:
        build.run('TRUNCATE "Order"')  # Which no trigger sees.
    change(engine, active_within=110, uncounted_statuses=statuses)
    if not loss_first:
        lose_orders(build, customers)
    update_account_types(engine=engine)

    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 30}


@pytest.mark.parametrize("is_refreshed", [False, True])
def test_a_policy_that_counts_less_hides_no_order_that_was_missing_before(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, is_refreshed: bool
) -> None:
    """The newest order is gone, and the policy does without the one before it."""
    customers = add_customers(build, tenant, 30, ordered=ago(days=10))
    full(engine)
    lose_orders(build, customers)
    for customer in customers:
        build.order(tenant, customer, ago(days=200), "PENDING")
        build.order(tenant, customer, ago(days=300), "PICKED")
    if is_refreshed:
        refresh(engine, resolve_run(engine, mode="incremental"))

    change(engine, uncounted_statuses=["PENDING"])
    incremental(engine)

    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 30}


@pytest.mark.parametrize(
    "values", [{"active_within": 90}, {"uncounted_statuses": ["DRAFT", "PENDING"]}]
)
def test_a_policy_changed_while_a_tenant_is_held_neither_hides_nor_releases_the_loss(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, values: dict[str, Value | None]
) -> None:
    lost = add_customers(build, tenant, 20, ordered=ago(days=10))
    kept = add_customers(build, tenant, 20, ordered=ago(days=100))
    for customer in kept:
        build.run('DELETE FROM "Order" WHERE "customerId" = :id', id=customer)
        build.order(tenant, customer, ago(days=100), "PENDING")
    full(engine)
    lose_orders(build, lost)
    incremental(engine)
    assert is_held(build, tenant)

    change(engine, **values)
    incremental(engine)
    full(engine)

    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 40}, "all that goes down waits"
    bring_orders_back(build, lost)
    full(engine)
    assert not is_held(build, tenant)
    incremental(engine)
    assert types(build, lost) == ["ACTIVE"] * 20
    assert set(causes(build, kept)) == {"policy"}
    assert reclassifications(build) == 0


def steps_between(
    engine: sa.Engine, mode: str, *, refreshed: Callable[[], object], planned: Callable[[], object]
) -> None:
    """Takes a run through its steps, with something happening between two of them."""
    run = resolve_run(engine, mode=mode)  # type: ignore[arg-type]
    refresh(engine, run)
    refreshed()
    plan(engine, run)
    planned()
    apply(engine, run)
    publish(engine, run)


@pytest.mark.parametrize("values", CHANGES)
@pytest.mark.parametrize("mode", ["full", "incremental"])
@pytest.mark.parametrize("place", ["refreshed", "planned"])
def test_a_policy_changed_between_the_steps_of_a_run_is_the_next_runs(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    values: dict[str, Value | None],
    mode: str,
    place: str,
) -> None:
    customers = add_customers(build, tenant, 30, ordered=ago(days=100))
    full(engine)
    for customer in customers:  # So that all of them are in the run's hands.
        build.set_type(customer, "TARGET")
    happens: dict[str, Callable[[], object]] = {"refreshed": tuple, "planned": tuple}

    steps_between(engine, mode, **{**happens, place: lambda: change(engine, **values)})
    assert counts(build, tenant) == {"ACTIVE": 30}, "the run goes by the policy that it began with"
    assert {cause for _, _, cause in build.log()} == {"by hand"}

    catch_up(engine, build)
    assert not is_held(build, tenant)
    assert "ACTIVE" not in counts(build, tenant)
    assert set(causes(build, customers)) == {"policy"}


@pytest.mark.parametrize("values", CHANGES)
def test_a_policy_changed_while_states_are_refreshed_waits_for_nobody_and_is_not_overlooked(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, values: dict[str, Value | None]
) -> None:
    customers = add_customers(build, tenant, 30, ordered=ago(days=100))
    full(engine)

    with transaction(engine) as refreshing:
        refresh_customers(refreshing, WRITER, tenant, customers)
        change(engine, **values)

    catch_up(engine, build)
    assert "ACTIVE" not in counts(build, tenant)
    assert set(causes(build, customers)) == {"policy"}


def test_a_policy_changed_while_reclassifications_are_taken_over_waits_for_nobody(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customers = add_customers(build, tenant, 30, ordered=ago(days=100))
    full(engine)
    change(engine, uncounted_statuses=["FULFILLED"])

    with transaction(engine) as running:
        refresh_customers(running, WRITER, tenant, customers)
        locked = lock_customers(running, tenant)
        assert apply_customers(running, resolve_run(engine).writer, tenant, locked).moved == 30
        change(engine, uncounted_statuses=["DRAFT"], active_within=50)
        change(engine, uncounted_statuses=["FULFILLED"], active_within=60)
        change(engine, uncounted_statuses=["DRAFT"], active_within=50)

    catch_up(engine, build)
    assert counts(build, tenant) == {"TARGET": 30}
    assert {tuple(build.log(customer)) for customer in customers} == {
        (("ACTIVE", "PROSPECT", "policy"), ("PROSPECT", "TARGET", "policy"))
    }


# Functions that a refresh calls: before the statement that derives, and within it.
STANDSTILLS = {
    "clock": """
        CREATE OR REPLACE FUNCTION leora_pipeline.clock() RETURNS timestamptz LANGUAGE sql AS $$
          SELECT pg_advisory_xact_lock_shared(1);
          SELECT date_trunc('milliseconds', clock_timestamp() + interval '999 microseconds')
        $$""",
    "date_differs": """
        CREATE OR REPLACE FUNCTION leora_pipeline.date_differs(
          p_crm_order_at timestamptz, p_last_order_at timestamptz, p_ever_ordered boolean,
          p_write boolean
        ) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$ BEGIN
          PERFORM pg_advisory_xact_lock_shared(1);
          RETURN p_write AND p_ever_ordered AND p_crm_order_at IS DISTINCT FROM p_last_order_at;
        END $$""",
}


@pytest.mark.parametrize("place", STANDSTILLS)
@pytest.mark.parametrize("values", CHANGES)
def test_a_refresh_takes_over_the_reclassifications_of_the_policy_that_it_derived_by(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    place: str,
    values: dict[str, Value | None],
) -> None:
    customers = add_customers(build, tenant, 30, ordered=ago(days=100))
    full(engine)
    build.run(STANDSTILLS[place])

    def refresh_all() -> None:
        with transaction(engine) as connection:
            refresh_customers(connection, WRITER, tenant, customers)

    with ThreadPoolExecutor(1) as background:
        with transaction(build.engine) as somebody:
            somebody.exec_driver_sql("SELECT pg_advisory_xact_lock(1)")
            refreshing = background.submit(refresh_all)
            wait_for_row(
                build, f"{WAITS_FOR_LOCK} AND query LIKE '%refresh_customers%'", refreshing
            )
            policies._change(somebody, tenant, values, "ann@desk")
        refreshing.result(20)

    moved = write_unsynced(engine, tenant)
    assert moved == (30 if place == "clock" else 0), "it saw the policy, or did not"
    catch_up(engine, build)
    assert not is_held(build, tenant)
    assert "ACTIVE" not in counts(build, tenant)
    assert {cause for _, _, cause in build.log()} == {"policy"}


def test_an_order_that_a_run_takes_while_the_policy_commits_is_not_overlooked(
    engine: sa.Engine, pipeline_url: str, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    full(engine)
    changing = create_engine(pipeline_url)
    seen = []

    @sa.event.listens_for(changing, "commit")
    def _before_commit(connection: sa.Connection) -> None:
        if not seen:
            seen.append(connection)
            build.order(tenant, customer, ago(days=1), "PENDING")
            incremental(engine)
            assert build.type_of(customer) == "ACTIVE", "by the policy that is still in force"

    change_policy(
        changing,
        named(engine),
        {"uncounted_statuses": ["PENDING"]},
        changed_by="ann@desk",
    )
    changing.dispose()

    catch_up(engine, build)
    assert build.type_of(customer) == "PROSPECT"


def test_a_customer_whom_a_transaction_of_the_crm_holds_is_moved_by_the_run_after(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customers: list[UUID]
) -> None:
    with transaction(build.engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name'))
        crm.execute(sa.text('UPDATE "Order" SET total = 1'))
        change(engine, active_within=30, target_within=60)
        incremental(engine)
        change(engine, uncounted_statuses=["FULFILLED"])
        incremental(engine)
        assert types(build, customers) == DEFAULT
    assert not is_held(build, tenant)

    catch_up(engine, build)

    assert types(build, customers) == ["PROSPECT"] * 5
    assert causes(build, customers[:4]) == ["policy"] * 4


def test_of_two_changes_at_once_one_comes_after_the_other(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customers: list[UUID]
) -> None:
    with ThreadPoolExecutor(1) as background:
        with transaction(engine) as first:
            policies._change(first, tenant, {"active_within": 250}, "ann@desk")
            second = background.submit(change, engine, active_within=90, target_within=400)
            wait_for_row(build, WAITS_FOR_LOCK, second)
        done = second.result(20)

    assert done.before == {"active_within": 250, "target_within": 365}
    [policy] = read_policies(engine, [named(engine)])
    assert [entry.before["active_within"] for entry in policy.changes] == [250, 180]
    catch_up(engine, build)
    assert types(build, customers) == ["ACTIVE", "ACTIVE", "TARGET", "TARGET", "TARGET"]
