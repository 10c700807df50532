"""Policies: what a change of one moves, by the next incremental run, and what it is not taken for.

Each test begins after a full run. Nothing but the policy changes, unless a test says so.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import WrongUsageError, update_account_types
from leora_pipeline.core.crm.tenants import Tenant, find_tenants
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.policies import change as policies
from leora_pipeline.core.policies.change import PolicyChange, change_policy, read_policies
from leora_pipeline.core.policies.fields import REFUSALS, Value, parse_values
from leora_pipeline.core.reporting.history import read_history
from leora_pipeline.core.reporting.preview import preview
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.plan import plan
from leora_pipeline.core.run.publish import publish
from leora_pipeline.core.run.refresh import refresh
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.integration import test_incremental
from leora_pipeline_tests.scenes import (
    LARGE_SCAN,
    WAITS_FOR_LOCK,
    WRITER,
    add_customers,
    assert_settled,
    bring_orders_back,
    counts,
    everything,
    full,
    incremental,
    is_held,
    lose_orders,
    wait_for_row,
    waiting,
    write_unsynced,
)

large = test_incremental.large

DAYS = (10, 45, 100, 200, 380)
DEFAULT = ["ACTIVE", "ACTIVE", "ACTIVE", "TARGET", "PROSPECT"]
ALL_STATUSES = [
    "CANCELLED", "DELIVERED", "DRAFT", "FULFILLED", "PARTIALLY_FULFILLED", "PENDING", "PICKED",
    "READY_TO_DELIVER", "SUBMITTED",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever(engine: sa.Engine, build: CrmBuilder) -> None:
    """Ends what waits: nothing here has to, for longer than a moment."""
    build.run(f"ALTER DATABASE {engine.url.database} SET statement_timeout = '20s'")
    engine.dispose()


@pytest.fixture
def tenant(build: CrmBuilder) -> UUID:
    return build.tenant()


@pytest.fixture
def customers(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> list[UUID]:
    """Five customers of the default's types, after a full run."""
    made = [build.customer(tenant, orders=(ago(days=days),)) for days in DAYS]
    full(engine)
    assert types(build, made) == DEFAULT
    return made


def types(build: CrmBuilder, customers: list[UUID]) -> list[str | None]:
    return [build.type_of(customer) for customer in customers]


def named(engine: sa.Engine, slug: str = "cellar") -> Tenant:
    with transaction(engine) as connection:
        return find_tenants(connection, [slug])[0]


def change(engine: sa.Engine, slug: str = "cellar", **values: Value | None) -> PolicyChange:
    """Changes a policy as the command does."""
    return change_policy(engine, named(engine, slug), values, changed_by="ann@desk")


def moves(done: PolicyChange) -> dict[tuple[str | None, str], int]:
    return {(move.from_type, move.to_type): move.count for move in done.moves}


def shifts(build: CrmBuilder) -> int:
    """Counts what is kept of changed policies."""
    [row] = build.run(
        "SELECT (SELECT count(*) FROM leora_pipeline.policy_reclassification) + (SELECT count(*) "
        "FROM leora_pipeline.customer_state WHERE reclassified_by_policy) AS n"
    )
    kept: int = row.n
    return kept


def catch_up(engine: sa.Engine, build: CrmBuilder) -> None:
    """Takes one incremental run, and asserts that it was enough, and that nothing stays behind."""
    assert waiting(engine) != []
    incremental(engine)
    assert shifts(build) == 0
    assert_settled(engine, build)


def causes(build: CrmBuilder, customers: list[UUID]) -> list[str]:
    return [build.log(customer)[-1][2] for customer in customers]


# Thresholds.


@pytest.mark.parametrize(
    ("active", "target", "expected", "moved"),
    [
        (250, 500, ["ACTIVE"] * 4 + ["TARGET"],
         {("TARGET", "ACTIVE"): 1, ("PROSPECT", "TARGET"): 1}),
        (30, 60, ["ACTIVE", "TARGET", "PROSPECT", "PROSPECT", "PROSPECT"],
         {("ACTIVE", "TARGET"): 1, ("ACTIVE", "PROSPECT"): 1, ("TARGET", "PROSPECT"): 1}),
        (30, 600, ["ACTIVE"] + ["TARGET"] * 4,
         {("ACTIVE", "TARGET"): 2, ("PROSPECT", "TARGET"): 1}),
    ],
)  # fmt: skip
def test_changed_thresholds_move_whom_they_concern_and_back(
    engine: sa.Engine,
    build: CrmBuilder,
    customers: list[UUID],
    active: int,
    target: int,
    expected: list[str],
    moved: dict[tuple[str, str], int],
) -> None:
    others = [build.customer(build.tenant("market"), orders=(ago(days=200),))]
    full(engine)

    done = change(engine, active_within=active, target_within=target)

    assert moves(done) == moved
    assert types(build, customers) == DEFAULT, "it is the next run that moves them"
    catch_up(engine, build)
    assert types(build, customers) == expected
    assert types(build, others) == ["TARGET"]
    for customer, before, after in zip(customers, DEFAULT, expected, strict=True):
        told = [] if before == after else [(before, after, "policy")]
        assert build.log(customer)[1:] == told

    back = change(engine, active_within=180, target_within=365)

    assert moves(back) == {(to, origin): count for (origin, to), count in moved.items()}
    catch_up(engine, build)
    assert types(build, customers) == DEFAULT
    assert build.run("SELECT FROM leora_pipeline.tenant_policy") == [], "it is the default again"


def test_months_count_from_midnight_utc(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
    with transaction(engine) as connection:
        midnight = now(connection).replace(hour=0, minute=0, second=0, microsecond=0)
        threshold = connection.execute(
            sa.text("SELECT CAST(:day AS date) - interval '2 months'"), {"day": midnight.date()}
        ).scalar_one().replace(tzinfo=UTC)  # fmt: skip
    inside = build.customer(tenant, orders=(threshold,))
    outside = build.customer(tenant, orders=(threshold - timedelta(milliseconds=1),))
    full(engine)

    done = change(engine, threshold_unit="month", active_within=2, target_within=4)

    assert moves(done) == {("ACTIVE", "TARGET"): 1}
    catch_up(engine, build)
    assert types(build, [inside, outside]) == ["ACTIVE", "TARGET"]
    assert causes(build, [outside]) == ["policy"]


def test_who_would_have_moved_anyway_is_not_moved_by_the_policy(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    aged = build.customer(tenant, orders=(ago(days=185),))
    moved = build.customer(tenant, orders=(ago(days=170),))
    full(engine, as_of=ago(days=10))
    assert types(build, [aged, moved]) == ["ACTIVE", "ACTIVE"]

    done = change(engine, active_within=150)

    assert moves(done) == {("ACTIVE", "TARGET"): 1}
    catch_up(engine, build)
    assert types(build, [aged, moved]) == ["TARGET", "TARGET"]
    assert causes(build, [aged, moved]) == ["age", "policy"]


def test_what_else_moves_customers_keeps_its_cause(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customers: list[UUID]
) -> None:
    _, by_hand, shifted, ordered, pinned = customers
    build.set_type(pinned, "HOLD")
    full(engine)
    done = change(engine, active_within=30, target_within=600)
    assert moves(done) == {("ACTIVE", "TARGET"): 2}, "the pinned one does not move"
    build.set_type(by_hand, "PROSPECT")
    build.order(tenant, ordered, ago(days=1))

    catch_up(engine, build)

    assert build.log(by_hand)[-1] == ("PROSPECT", "TARGET", "by hand")
    assert build.log(shifted)[-1] == ("ACTIVE", "TARGET", "policy")
    assert build.log(ordered)[-1] == ("TARGET", "ACTIVE", "order")
    assert build.type_of(pinned) == "HOLD"
    build.order(tenant, shifted, ago(days=1))
    catch_up(engine, build)
    assert build.log(shifted)[-1] == ("TARGET", "ACTIVE", "order")


def test_an_order_that_lifts_beyond_what_the_policy_gives_is_the_cause(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customers: list[UUID]
) -> None:
    change(engine, target_within=500)
    build.order(tenant, customers[-1], ago(days=1))

    catch_up(engine, build)

    assert build.log(customers[-1])[-1] == ("PROSPECT", "ACTIVE", "order")


@pytest.mark.parametrize("runs_between", [False, True])
def test_a_policy_that_is_taken_back_moves_nobody_for_good(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID], runs_between: bool
) -> None:
    change(engine, active_within=30, target_within=60)
    if runs_between:
        incremental(engine)
    change(engine, **dict.fromkeys(policies.SETTINGS))

    catch_up(engine, build)

    assert types(build, customers) == DEFAULT
    if not runs_between:
        assert [len(build.log(customer)) for customer in customers] == [1] * 5


def test_a_rehearsal_tells_the_same_and_leaves_nothing(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID]
) -> None:
    for values in (
        {"active_within": 30},
        {"uncounted_statuses": ["FULFILLED"], "target_within": 400},
    ):
        before = policy_tables(build)
        told = change_policy(engine, named(engine), values, changed_by="ann@desk", dry_run=True)
        assert policy_tables(build) == before
        assert waiting(engine) == []
        assert told.moves
        assert change(engine, **values) == told
        catch_up(engine, build)


def policy_tables(build: CrmBuilder) -> list[list[Any]]:
    return [
        build.run(f"SELECT * FROM leora_pipeline.{table}")
        for table in (
            "tenant_policy",
            "policy_change",
            "policy_reclassification",
            "pending_customer",
        )
    ]


# Statuses.


def test_changed_statuses_move_down_and_up_again(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customers: list[UUID]
) -> None:
    """The order of yesterday is PENDING, and one of 200 days ago CANCELLED."""
    active, prospect = customers[2], customers[4]
    build.order(tenant, active, ago(days=1), "PENDING")
    build.order(tenant, prospect, ago(days=200), "CANCELLED")
    pending = build.customer(tenant)
    pinned = build.customer(tenant, "HOLD")
    for customer in (pending, pinned):
        build.order(tenant, customer, ago(days=1), "PENDING")
    full(engine)

    done = change(engine, uncounted_statuses=["DRAFT", "PENDING"])

    assert moves(done) == {("ACTIVE", "PROSPECT"): 1, ("PROSPECT", "TARGET"): 1}
    catch_up(engine, build)
    assert types(build, [*customers, pending]) == [*DEFAULT[:4], "TARGET", "PROSPECT"]
    assert build.log(prospect)[-1] == ("PROSPECT", "TARGET", "policy")
    assert build.log(pending)[-1] == ("ACTIVE", "PROSPECT", "policy")
    assert build.read(active).date < ago(days=99), "its date is told, though its type stays"
    assert build.read(pinned)[:2] == ("HOLD", None)

    back = change(engine, uncounted_statuses=None)

    assert moves(back) == {("PROSPECT", "ACTIVE"): 1, ("TARGET", "PROSPECT"): 1}
    catch_up(engine, build)
    assert types(build, [*customers, pending]) == [*DEFAULT, "ACTIVE"]
    assert causes(build, [prospect, pending]) == ["policy", "policy"]


def test_a_status_that_counts_no_more_gives_the_imported_date_back(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    imported = ago(days=250)
    customer = build.customer(tenant, last_order=imported)
    full(engine)
    build.order(tenant, customer, ago(days=1), "PENDING")
    full(engine)
    assert build.type_of(customer) == "ACTIVE"

    change(engine, uncounted_statuses=["DRAFT", "CANCELLED", "PENDING"])

    catch_up(engine, build)
    assert build.read(customer)[:2] == ("TARGET", imported)


def test_several_changes_before_a_run_are_one_move(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    for customer in customers:
        build.order(tenant, customer, ago(days=200), "PICKED")
    full(engine)

    change(engine, uncounted_statuses=["FULFILLED"])
    change(engine, active_within=100)
    change(engine, uncounted_statuses=["FULFILLED", "PICKED"])

    catch_up(engine, build)
    assert not is_held(build, tenant)
    assert {tuple(build.log(customer)) for customer in customers} == {
        (("ACTIVE", "PROSPECT", "policy"),)
    }


# The gate.


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
        told = build.run(
            "SELECT outcome, count(*) FROM leora_pipeline.after_order_create(:ids) GROUP BY 1",
            ids=customers,
        )
        assert [tuple(row) for row in told] == [("deferred", 30)]
        assert build.run("SELECT FROM leora_pipeline.policy_reclassification") == [], (
            "they are taken over"
        )
        assert counts(build, tenant) == {"ACTIVE": 30}, "it is left to those who can ask the gate"
        today = read_history(engine, customers[0]).today
        assert today is not None
        assert today.cause == "policy"
    full(engine) if path == "full" else incremental(engine)
    assert not is_held(build, tenant)
    assert "ACTIVE" not in counts(build, tenant)
    assert {cause for _, _, cause in build.log()} == {"policy"}
    assert_settled(engine, build)
    assert shifts(build) == 0

    change(engine, **dict.fromkeys(values))
    catch_up(engine, build)
    assert counts(build, tenant) == {"ACTIVE": 30}
    assert {cause for _, _, cause in build.log()} == {"policy"}
    lose_orders(build, customers)
    incremental(engine)
    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 30}


@pytest.mark.parametrize("statuses", [["PENDING"], ["DRAFT", "CANCELLED"]])
@pytest.mark.parametrize("is_lost_first", [False, True])
def test_orders_lost_around_a_change_of_policy_are_held_all_the_same(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, statuses: list[str], is_lost_first: bool
) -> None:
    """Between the change and the run: what the policy moves is not what is missing."""
    customers = add_customers(build, tenant, 30, ordered=ago(days=100))
    for customer in customers:
        build.order(tenant, customer, ago(days=20), "PENDING")
    full(engine)

    if is_lost_first:
        build.run('TRUNCATE "Order"')  # Which no trigger sees.
    change(engine, active_within=110, uncounted_statuses=statuses)
    if not is_lost_first:
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
    assert shifts(build) == 0


# What is at the same time.


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


def test_a_policy_changed_while_shifts_are_taken_over_waits_for_nobody(
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
def test_a_refresh_takes_over_the_shifts_of_the_policy_that_it_derived_by(
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
        with transaction(engine) as somebody:
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
    with transaction(engine) as crm:
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


# The record, and what is refused.


def test_a_change_is_recorded_with_what_changed_alone(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID]
) -> None:
    begun = datetime.now(UTC)
    change(engine, active_within=90, gate_percent=12.5, target_within=365)
    change(engine, uncounted_statuses=["DRAFT"])
    change(engine, uncounted_statuses=None, gate_percent=None)

    [policy] = read_policies(engine, [named(engine)])

    role = build.run("SELECT current_user AS name")[0].name
    assert {entry.changed_by for entry in policy.changes} == {f"ann@desk as {role}"}
    assert [(entry.before, entry.after) for entry in policy.changes] == [
        (
            {"uncounted_statuses": ["DRAFT"], "gate_percent": 12.5},
            {"uncounted_statuses": ["CANCELLED", "DRAFT"], "gate_percent": 20},
        ),
        ({"uncounted_statuses": ["CANCELLED", "DRAFT"]}, {"uncounted_statuses": ["DRAFT"]}),
        (
            {"active_within": 180, "gate_percent": 20},
            {"active_within": 90, "gate_percent": 12.5},
        ),
    ]
    times = [entry.changed_at for entry in policy.changes]
    assert begun - timedelta(seconds=1) < times[2] < times[1] < times[0]
    assert {n for n, v in policy.policy.items() if policy.default[n] != v} == {"active_within"}


def test_what_is_so_already_writes_nothing(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID]
) -> None:
    change(engine, active_within=90)
    incremental(engine)
    before = [*policy_tables(build), *everything(build)]

    done = change(engine, active_within=90, target_within=None, uncounted_statuses=None)

    assert (done.before, done.after, done.moves) == ({}, {}, [])
    assert [*policy_tables(build), *everything(build)] == before


def test_limits_alone_move_nobody(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID]
) -> None:
    done = change(engine, gate_percent=50, gate_customers=3, min_customers=0, high_churn_below=1.5)

    assert done.moves == []
    assert waiting(engine) == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"active_within": 365}, "active-within must be at least 1 and less than target-within"),
        ({"active_within": 0}, "active-within must be at least 1"),
        ({"target_within": 36501}, "target-within at most 36500"),
        ({"threshold_unit": "week"}, "threshold-unit takes day or month"),
        ({"healthy_active_min": 80}, "its min not above its max"),
        ({"high_churn_below": 100.5}, "high-churn-below takes a percentage from 0 to 100"),
        ({"gate_customers": -1}, "gate-customers takes a whole number, 0 or more"),
        ({"gate_percent": 1000}, "a number is too large"),
        ({"min_customers": 2**31}, "a number is too large"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_database_and_explained(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID], values: dict[str, Value], told: str
) -> None:
    before = policy_tables(build)

    with pytest.raises(WrongUsageError, match=told):
        change(engine, **values)

    assert policy_tables(build) == before


def test_every_constraint_of_a_policy_has_words(build: CrmBuilder) -> None:
    constraints = build.run(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' "
        "AND conrelid = 'leora_pipeline.tenant_policy'::regclass"
    )
    # A list of statuses without one cannot be written down.
    assert {row.conname for row in constraints} - set(REFUSALS) == {"statuses_known"}
    columns = build.run("SELECT * FROM leora_pipeline.effective_policy(NULL)")[0]._fields
    assert list(columns) == ["tenant_id", *policies.SETTINGS]


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["active-within=90", "TARGET_within=1"], "no 'TARGET_within'; it has threshold-unit, "),
        (["active-within"], "'active-within' sets nothing; write NAME=VALUE"),
        (["active-within=1", "active_within=2"], "active-within is given twice"),
        (["active-within=9.5"], "active-within cannot be '9.5'; it takes a whole number"),
        (["gate-percent=12.345"], "at most two decimals"),
        (["gate-percent=NaN"], "gate-percent cannot be 'NaN'"),
        (["min-customers="], "min-customers cannot be ''"),
        (["uncounted-statuses=DRAFT,Lost"], "no status Lost; known are: DRAFT, SUBMITTED, "),
        (
            ["active-within= 90", "gate_percent=12.50", "uncounted-statuses=PICKED, DRAFT,"],
            {"active_within": 90, "gate_percent": 12.5, "uncounted_statuses": ["DRAFT", "PICKED"]},
        ),
        (["uncounted-statuses="], {"uncounted_statuses": []}),
        (["threshold-unit=month"], {"threshold_unit": "month"}),
    ],
)
def test_what_people_write_is_read_or_explained(
    engine: sa.Engine, assignments: list[str], expected: str | dict[str, Value]
) -> None:
    with transaction(engine) as connection:
        if isinstance(expected, dict):
            assert parse_values(connection, assignments) == expected
        else:
            with pytest.raises(WrongUsageError, match=expected):
                parse_values(connection, assignments)


def test_a_status_that_the_crm_adds_counts_and_can_be_named(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    build.run("ALTER TYPE \"OrderStatus\" ADD VALUE 'RETURNED'")
    customer = build.customer(tenant)
    build.order(tenant, customer, ago(days=1), "RETURNED")
    change(engine, uncounted_statuses=["DRAFT"])
    full(engine)
    assert build.type_of(customer) == "ACTIVE"

    with transaction(engine) as connection:
        values = parse_values(connection, ["uncounted-statuses=DRAFT,RETURNED"])
    change(engine, **values)

    catch_up(engine, build)
    assert build.type_of(customer) == "PROSPECT"


# What is left behind, and what it costs.


def test_nothing_stays_of_customers_and_tenants_that_are_deleted(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customers: list[UUID]
) -> None:
    other = build.customer(build.tenant("market"), orders=(ago(days=100),))
    full(engine)
    for slug in ("cellar", "market"):
        change(engine, slug, active_within=30)
    assert shifts(build) == 3
    build.run('DELETE FROM "Customer" WHERE id = :id', id=customers[2])
    build.run("DELETE FROM \"Tenant\" WHERE slug = 'market'")
    build.run("DELETE FROM leora_pipeline.pending_customer")  # As where no trigger notes it.

    full(engine)

    assert build.run('SELECT FROM "Customer" WHERE id = :id', id=other) == []
    assert shifts(build) == 0


@pytest.mark.parametrize(("active", "target"), [(260, 520), (60, 300)])
def test_whom_changed_thresholds_move_is_found_by_index_ranges(
    large: sa.Engine, build: CrmBuilder, active: int, target: int
) -> None:
    slug = build.run('SELECT slug FROM "Tenant" ORDER BY slug')[0].slug
    tenant = named(large, slug)
    done = change(large, slug, active_within=active, target_within=target)
    moved = sum(move.count for move in done.moves)
    assert moved > 100
    with transaction(large) as connection:
        parameters = {"tenant_ids": [tenant.tenant_id], "as_of": now(connection)}
        lines = list(
            connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "
                f"{statements('leora_pipeline.core.run.refresh').for_driver('changed_customers')}",
                parameters,
            ).scalars()
        )

    told = "\n".join(lines)
    print(told)
    assert [line for line in lines if LARGE_SCAN.search(line)] == [], told
    ranges = [line for line in lines if "Index Cond" in line and "last_order_at" in line]
    assert len(ranges) == 4, told
    assert sum("customer_state_by_date" in line for line in lines) == 4, told
    incremental(large)
    assert {
        row.cause: row.n
        for row in build.run(
            "SELECT cause, count(*) AS n FROM leora_pipeline.account_type_transition "
            "WHERE cause = 'policy' GROUP BY 1"
        )
    } == {"policy": moved}
    assert waiting(large) == []
