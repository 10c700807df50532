"""The incremental run, time, policies and the gate."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.incremental_runs import catch_up
from leora_pipeline_tests.scenes import (
    add_customers,
    assert_settled,
    bring_orders_back,
    counts,
    full,
    holds,
    incremental,
    is_held,
    lose_orders,
    waiting,
)


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


def test_an_upward_move_of_a_held_tenant_that_somebody_held_up_is_taken_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    climber = build.customer(tenant, orders=(ago(days=200),))
    lose_all_orders(engine, build, tenant)
    incremental(engine)
    build.order(tenant, climber, ago(days=1))
    with transaction(build.engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name'))
        incremental(engine)
    assert is_held(build, tenant)
    assert build.type_of(climber) == "TARGET"

    assert waiting(engine) == [tenant]
    incremental(engine)

    assert build.type_of(climber) == "ACTIVE"
    assert waiting(engine) == []
