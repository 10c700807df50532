"""The gate: orders that go missing do not demote a tenant's customers, and nothing else is stopped.

Customers are made in sets: each has one order, on which its type rests.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types, update_customer_account_type
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.os_user import os_user
from leora_pipeline.core.policies.change import change_policy
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.plan import plan
from leora_pipeline.core.run.refresh import refresh
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.interleaving import make_batches
from leora_pipeline_tests.scenes import (
    WRITER,
    add_customers,
    bring_orders_back,
    counts,
    holds,
    is_held,
    lose_orders,
    make_held,
)

DEADLINE = 20.0


def test_a_tenant_whose_orders_vanish_is_held_and_the_others_are_done(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant, other = build.tenant("cellar"), build.tenant("dry-goods")
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    add_customers(build, other, 20, ordered=ago(days=10), account_type="TARGET")
    update_account_types(["cellar"], engine=engine)
    lose_orders(build, customers)
    before = [build.read(customer) for customer in customers]

    cellar, dry_goods = update_account_types(engine=engine)

    assert (cellar.held, cellar.active, cellar.changed["PROSPECT"]) == (True, 20, 0)
    assert (dry_goods.held, dry_goods.active, dry_goods.changed["ACTIVE"]) == (False, 20, 20)
    assert [build.read(customer) for customer in customers] == before
    assert [tuple(hold) for hold in holds(build, tenant)] == [(20, 20, None)]
    assert holds(build, other) == []


def test_a_truncated_order_table_holds_every_tenant(engine: sa.Engine, build: CrmBuilder) -> None:
    tenants = [build.tenant("cellar"), build.tenant("dry-goods")]
    for tenant in tenants:
        add_customers(build, tenant, 20, ordered=ago(days=10))
    update_account_types(engine=engine)
    build.run('TRUNCATE "Order"')

    results = update_account_types(engine=engine)

    assert [result.held for result in results] == [True, True]
    assert [counts(build, tenant) for tenant in tenants] == [{"ACTIVE": 20}] * 2


def test_orders_that_all_move_to_an_older_date_hold_too(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    add_customers(build, tenant, 20, ordered=ago(days=10))
    update_account_types(engine=engine)
    build.run('UPDATE "Order" SET "orderedAt" = "orderedAt" - interval \'200 days\'')

    (result,) = update_account_types(engine=engine)

    assert (result.held, result.active) == (True, 20)


def test_upward_moves_of_a_held_tenant_go_on(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant, _ = make_held(engine, build)
    ordered = ago(days=1)
    customer = build.customer(tenant, "PROSPECT", orders=(ordered,))
    newcomer = build.customer(tenant, None)

    (result,) = update_account_types(engine=engine)

    assert result.held
    assert build.read(customer)[:2] == ("ACTIVE", ordered)
    assert build.type_of(newcomer) == "PROSPECT", "no type yet is no downward move"


def test_a_held_tenant_is_not_demoted_by_age_either(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant, _ = make_held(engine, build)
    aged = build.customer(tenant, "ACTIVE", last_order=ago(days=200), orders=(ago(days=200),))

    (result,) = update_account_types(engine=engine)
    hook = update_customer_account_type(aged, engine=engine)

    assert result.held
    assert (hook.account_type, hook.is_changed) == ("ACTIVE", False)
    assert build.log(aged) == []


def test_dates_that_go_back_are_not_written_in_a_held_tenant(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    recent, older = ago(days=5), ago(days=100)
    kept = build.customer(tenant, "ACTIVE", orders=(older,))
    pinned = build.customer(tenant, "HOLD", orders=(older,))
    orders = [build.order(tenant, customer, recent) for customer in (kept, pinned)]
    update_account_types(engine=engine)
    lose_orders(build, customers)
    for order in orders:
        build.cancel(order)

    update_account_types(engine=engine)

    assert build.read(kept)[:2] == ("ACTIVE", recent)
    assert build.read(pinned)[:2] == ("HOLD", recent)

    update_account_types(allow_mass_change=["cellar"], reason="archived", engine=engine)

    assert build.read(kept)[:2] == ("ACTIVE", older)
    assert build.read(pinned)[:2] == ("HOLD", older)


def test_a_type_that_rises_while_its_date_goes_back_rises_in_a_held_tenant(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    recent, older = ago(days=5), ago(days=100)
    customer = build.customer(tenant, "ACTIVE", orders=(older,))
    order = build.order(tenant, customer, recent)
    update_account_types(engine=engine)
    lose_orders(build, customers)
    build.cancel(order)
    build.set_type(customer, "PROSPECT")

    for _ in range(2):
        update_account_types(engine=engine)
        assert build.read(customer)[:2] == ("ACTIVE", recent)

    update_account_types(allow_mass_change=["cellar"], reason="archived", engine=engine)

    assert build.read(customer)[:2] == ("ACTIVE", older)
    assert build.log(customer) == [("PROSPECT", "ACTIVE", "by hand")]


def test_dates_that_advance_are_written_in_a_held_tenant(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant, customers = make_held(engine, build)
    ordered = ago(days=1)
    build.order(tenant, customers[0], ordered)

    update_account_types(engine=engine)

    assert is_held(build, tenant)
    assert build.read(customers[0])[:2] == ("ACTIVE", ordered)


def test_a_named_tenant_is_released_by_hand_and_not_held_again_for_it(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant, customers = make_held(engine, build)

    (released,) = update_account_types(
        allow_mass_change=["cellar"], reason="archived", engine=engine
    )
    (ordinary,) = update_account_types(engine=engine)

    assert (released.held, released.changed["PROSPECT"], released.prospect) == (False, 20, 20)
    assert (ordinary.held, sum(ordinary.changed.values())) == (False, 0)
    assert [hold.released_by for hold in holds(build, tenant)] == [f"{os_user()}: archived"]

    few = add_customers(build, tenant, 5, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, few)
    (later,) = update_account_types(engine=engine)

    assert not later.held, "what was meant counts no more towards the limit"
    assert counts(build, tenant) == {"PROSPECT": 25}
    assert build.log(customers[0])[-1] == ("ACTIVE", "PROSPECT", "order removed")


@pytest.mark.parametrize("reason", ["", " \n", "…"])
def test_a_mass_change_without_a_reason_is_refused_before_anything_is_done(
    engine: sa.Engine, build: CrmBuilder, reason: str
) -> None:
    tenant, _ = make_held(engine, build)

    with pytest.raises(WrongUsageError, match="say in `reason` why") as refused:
        update_account_types(allow_mass_change=["cellar"], reason=reason, engine=engine)

    assert "\n" not in str(refused.value)
    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 20}


def test_a_reason_is_recorded_on_one_line_that_is_safe_to_show(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant, _ = make_held(engine, build)

    update_account_types(
        allow_mass_change=["cellar"], reason="\x1b[2J old \u202e\nshop\x85", engine=engine
    )

    assert [hold.released_by for hold in holds(build, tenant)] == [
        rf"{os_user()}: \x1b[2J old \u202e shop"
    ]


def test_a_mass_change_that_is_allowed_before_the_gate_has_seen_it_is_recorded_once(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batches(monkeypatch, 6)
    tenant = build.tenant("cellar")
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers)

    (allowed,) = update_account_types(
        allow_mass_change=["cellar"], reason="archived", engine=engine
    )

    assert (allowed.held, allowed.prospect) == (False, 20)
    assert holds(build, tenant) == [(20, 20, f"{os_user()}: archived")]

    # Allowed, but nothing for the gate to stop: there is nothing to record.
    update_account_types(allow_mass_change=["cellar"], reason="to be safe", engine=engine)
    assert len(holds(build, tenant)) == 1


def test_naming_one_tenant_releases_no_other(engine: sa.Engine, build: CrmBuilder) -> None:
    make_held(engine, build, "cellar")
    other, _ = make_held(engine, build, "dry-goods")

    cellar, dry_goods = update_account_types(
        allow_mass_change=["cellar"], reason="archived", engine=engine
    )

    assert (cellar.held, cellar.prospect) == (False, 20)
    assert (dry_goods.held, dry_goods.active) == (True, 20)
    assert counts(build, other) == {"ACTIVE": 20}


def test_a_hold_ends_by_itself_when_the_orders_come_back(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant, customers = make_held(engine, build)
    aged = build.customer(tenant, "ACTIVE", last_order=ago(days=200), orders=(ago(days=200),))
    update_account_types(engine=engine)
    bring_orders_back(build, customers)

    (result,) = update_account_types(engine=engine)

    assert (result.held, result.active) == (False, 20)
    assert build.type_of(aged) == "TARGET", "what the hold kept back is made up for"
    assert [hold.released_by for hold in holds(build, tenant)] == ["full run"]


def test_only_a_full_run_ends_a_hold(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant, customers = make_held(engine, build)
    bring_orders_back(build, customers[5:])

    for customer in customers:
        update_customer_account_type(customer, engine=engine)
    for customer in customers[:5]:  # No more than could be lost on any day, and held all the same.
        update_customer_account_type(customer, engine=engine)

    assert is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 20}

    update_account_types(engine=engine)

    assert not is_held(build, tenant)
    assert counts(build, tenant) == {"ACTIVE": 15, "PROSPECT": 5}


def test_a_held_tenant_stays_held_for_as_long_as_its_orders_are_missing(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant, _ = make_held(engine, build)

    for _ in range(3):
        update_account_types(engine=engine)

    assert counts(build, tenant) == {"ACTIVE": 20}
    assert len(holds(build, tenant)) == 1


def test_an_instant_of_the_past_given_by_mistake_demotes_nobody(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    add_customers(build, tenant, 20, ordered=ago(days=10))
    update_account_types(engine=engine)

    (result,) = update_account_types(as_of=ago(days=2000), engine=engine)

    assert result.held
    assert counts(build, tenant) == {"ACTIVE": 20}
    update_account_types(engine=engine)
    assert not is_held(build, tenant)


def test_demotions_by_age_after_three_weeks_pass(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 15, ordered=ago(days=190))
    customers += add_customers(build, tenant, 15, ordered=ago(days=370))
    update_account_types(as_of=ago(days=21), engine=engine)
    assert counts(build, tenant) == {"ACTIVE": 15, "TARGET": 15}

    (result,) = update_account_types(engine=engine)

    assert not result.held
    assert counts(build, tenant) == {"TARGET": 15, "PROSPECT": 15}
    assert {build.log(customer)[-1][2] for customer in customers} == {"age"}


def test_orders_lost_before_a_threshold_passed_are_not_mistaken_for_age(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=190))
    update_account_types(as_of=ago(days=21), engine=engine)
    lose_orders(build, customers)

    (result,) = update_account_types(engine=engine)

    assert result.held, "by age they would be TARGET, and PROSPECT is more than that"


def test_two_writers_below_the_limit_cannot_exceed_it_together(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = sorted(add_customers(build, tenant, 20, ordered=ago(days=10)))
    update_account_types(engine=engine)
    lose_orders(build, customers)
    halves = (customers[:6], customers[6:12])
    runs = (resolve_run(engine), resolve_run(engine))

    def tell(connection: sa.Connection, which: int) -> int:
        refresh_customers(connection, WRITER, tenant, halves[which])
        locked = lock_customers(connection, tenant, only=halves[which])
        assert locked == halves[which], "the two hold different customers"
        return apply_customers(connection, runs[which].writer, tenant, locked).moved

    def sync_second() -> int:
        with transaction(engine) as connection:
            return tell(connection, 1)

    with ThreadPoolExecutor(1) as background:
        with transaction(engine) as first:
            assert tell(first, 0) == 6
            second = background.submit(sync_second)
            give_up = monotonic() + DEADLINE
            while not build.run(
                "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database() AND query LIKE '%leora_pipeline.work_lock%'"
            ):
                assert not second.done(), f"it did not wait: {second.result()} moved"
                assert monotonic() < give_up
        assert second.result(DEADLINE) == 0

    assert counts(build, tenant) == {"ACTIVE": 14, "PROSPECT": 6}
    assert is_held(build, tenant)


def test_the_gate_judges_where_the_crm_keeps_its_own_dates(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", "false")
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=300), account_type="TARGET")
    for customer in customers:
        build.order(tenant, customer, ago(days=10))
    update_account_types(engine=engine)
    assert counts(build, tenant) == {"ACTIVE": 20}
    lose_orders(build, customers)

    (result,) = update_account_types(engine=engine)

    assert (result.held, result.active) == (True, 20)


def test_a_first_run_holds_where_the_crms_dates_say_that_orders_are_missing(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    build.run('UPDATE "Order" SET "orderedAt" = "orderedAt" - interval \'300 days\'')

    (result,) = update_account_types(engine=engine)

    assert (result.held, result.active) == (True, 20)
    assert build.log(customers[0]) == []


def test_a_first_run_does_not_hold_a_crm_whose_dates_are_older_than_its_orders(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    add_customers(build, tenant, 20, ordered=ago(days=200))
    add_customers(build, tenant, 20, ordered=ago(days=10), account_type="TARGET")
    build.run(
        'UPDATE "Customer" SET "lastOrderDate" = "lastOrderDate" - interval \'300 days\'',
    )

    (result,) = update_account_types(engine=engine)

    assert not result.held
    assert counts(build, tenant) == {"TARGET": 20, "ACTIVE": 20}


def test_types_set_too_high_by_hand_are_put_right_without_a_hold(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=200), account_type="TARGET")
    update_account_types(engine=engine)
    build.run('UPDATE "Customer" SET "accountType" = \'ACTIVE\'')

    (result,) = update_account_types(engine=engine)

    assert (result.held, result.target) == (False, 20)
    assert build.log(customers[0])[-1] == ("ACTIVE", "TARGET", "by hand")


def test_a_policy_widened_between_the_steps_makes_no_loss_of_what_aged(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    # The states were derived by the old policy and are synced under the new one. By that one, the
    # dates that did not change would give the higher type still.
    tenant = build.tenant()
    customers = add_customers(build, tenant, 30, ordered=ago(days=200), account_type="ACTIVE")
    run = resolve_run(engine)
    refresh(engine, run)
    with transaction(engine) as connection:
        [of_policy] = find_tenants(connection)

    change_policy(engine, of_policy, {"active_within": 250}, changed_by="test")
    plan(engine, run)
    apply(engine, run)

    assert not is_held(build, tenant)
    causes = build.run("SELECT DISTINCT cause FROM leora_pipeline.account_type_transition")
    assert "order removed" not in {row.cause for row in causes}
    update_account_types(engine=engine)
    assert counts(build, tenant) == {"ACTIVE": len(customers)}
