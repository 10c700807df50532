"""What a change of thresholds or statuses moves, by the next incremental run."""

from __future__ import annotations

from datetime import UTC, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.policies import change as policies
from leora_pipeline.core.policies.change import change_policy
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.policies import (
    DEFAULT,
    catch_up,
    causes,
    change,
    moves,
    named,
    policy_tables,
    types,
)
from leora_pipeline_tests.scenes import (
    add_customers,
    full,
    incremental,
    is_held,
    waiting,
)


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
        reported = [] if before == after else [(before, after, "policy")]
        assert build.log(customer)[1:] == reported

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


def test_a_dry_run_predicts_the_same_and_leaves_nothing(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID]
) -> None:
    for values in (
        {"active_within": 30},
        {"uncounted_statuses": ["FULFILLED"], "target_within": 400},
    ):
        before = policy_tables(build)
        reported = change_policy(engine, named(engine), values, changed_by="ann@desk", dry_run=True)
        assert policy_tables(build) == before
        assert waiting(engine) == []
        assert reported.moves
        assert change(engine, **values) == reported
        catch_up(engine, build)


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
    assert build.read(active).date < ago(days=99), "its date is reported, though its type stays"
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
