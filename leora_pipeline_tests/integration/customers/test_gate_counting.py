"""What the gate counts: customers demoted by order loss, each once, against the tenant's limits.

Customers are made in sets: each has one order, on which its type rests.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types, update_customer_account_type
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.reporting.preview import preview
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.scenes import (
    add_customers,
    counts,
    holds,
    is_held,
    lose_orders,
)


@pytest.mark.parametrize(
    ("customers", "lost", "held"),
    [
        (100, 20, False),  # exactly 20 %
        (100, 21, True),
        (30, 10, False),  # exactly 10 customers
        (30, 11, True),
        (100, 11, False),  # over 10, and below 20 %
        (12, 10, False),  # over 20 %, and not over 10
    ],
)
def test_a_tenant_is_held_above_both_limits_only(
    engine: sa.Engine, build: CrmBuilder, customers: int, lost: int, held: bool
) -> None:
    tenant = build.tenant()
    everybody = add_customers(build, tenant, customers, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, everybody[:lost])

    (result,) = update_account_types(engine=engine)

    assert result.held is held
    assert result.prospect == (0 if held else lost)


def test_pinned_and_unclassified_customers_are_no_part_of_the_share(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    everybody = add_customers(build, tenant, 50, ordered=ago(days=10))
    add_customers(build, tenant, 50, ordered=ago(days=10), account_type="HOLD")
    update_account_types(engine=engine)
    lose_orders(build, everybody[:11])

    (result,) = update_account_types(engine=engine)

    assert result.held
    assert [tuple(hold) for hold in holds(build, tenant)] == [(11, 50, None)]


def test_the_limits_are_the_tenants_own(engine: sa.Engine, build: CrmBuilder) -> None:
    strict, lax = build.tenant("a-strict"), build.tenant("b-lax")
    for tenant, percent, customers in ((strict, 5, 1), (lax, 100, 1000)):
        build.run(
            "INSERT INTO leora_pipeline.tenant_policy "
            "SELECT * FROM leora_pipeline.effective_policy(:tenant)",
            tenant=tenant,
        )
        build.run(
            "UPDATE leora_pipeline.tenant_policy SET gate_percent = :percent, "
            "gate_customers = :customers WHERE tenant_id = :tenant",
            tenant=tenant,
            percent=percent,
            customers=customers,
        )
    for tenant, lost in ((strict, 2), (lax, 20)):
        customers = add_customers(build, tenant, 20, ordered=ago(days=10))
        update_account_types(engine=engine)
        lose_orders(build, customers[:lost])

    assert [result.held for result in update_account_types(engine=engine)] == [True, False]


def test_demotions_of_the_last_day_count_over_all_paths(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 40, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers[:4])
    update_account_types(engine=engine)
    lose_orders(build, customers[4:8])
    for customer in customers[4:8]:
        assert update_customer_account_type(customer, engine=engine).is_changed
    assert counts(build, tenant) == {"ACTIVE": 32, "PROSPECT": 8}
    lose_orders(build, customers[8:11])

    (result,) = update_account_types(engine=engine)

    assert (result.held, result.prospect) == (True, 8)
    assert [hold.order_loss_customers for hold in holds(build, tenant)] == [11]


def test_an_order_that_comes_and_goes_holds_nobody(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 60, ordered=ago(days=10))
    update_account_types(engine=engine)

    for _ in range(13):
        for status in ("CANCELLED", "FULFILLED"):
            build.run(
                'UPDATE "Order" SET status = CAST(:status AS "OrderStatus") '
                'WHERE "customerId" = :customer',
                status=status,
                customer=customers[0],
            )
            assert update_customer_account_type(customers[0], engine=engine).is_changed

    assert not is_held(build, tenant)
    lose_orders(build, customers[1:13])
    assert not update_account_types(engine=engine)[0].held, "12 of 60 are 20 %"
    lose_orders(build, customers[13:14])
    with transaction(engine) as connection:
        tenants = find_tenants(connection)
    assert preview(engine, tenants).tenants[0].would_be_held
    assert update_account_types(engine=engine)[0].held
    assert [hold.order_loss_customers for hold in holds(build, tenant)] == [13]


def test_a_customer_that_loses_its_orders_twice_counts_once(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    for customer in customers:
        build.order(tenant, customer, ago(days=200))
    update_account_types(engine=engine)
    for days in (100, 300):
        build.run(
            'DELETE FROM "Order" WHERE "orderedAt" > :since AND "customerId" = ANY (:customers)',
            since=ago(days=days).replace(tzinfo=None),
            customers=customers[:9],
        )
        assert not update_account_types(engine=engine)[0].held

    assert counts(build, tenant) == {"ACTIVE": 11, "PROSPECT": 9}
    assert not is_held(build, tenant)


def test_the_hook_alone_cannot_demote_beyond_the_limit(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 20, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers)

    for customer in customers:
        update_customer_account_type(customer, engine=engine)

    assert counts(build, tenant) == {"ACTIVE": 10, "PROSPECT": 10}
    assert is_held(build, tenant)


def test_demotions_of_the_day_before_count_no_more(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customers = add_customers(build, tenant, 40, ordered=ago(days=10))
    update_account_types(engine=engine)
    for lost in (customers[:8], customers[8:16]):
        lose_orders(build, lost)
        assert not update_account_types(engine=engine)[0].held
        build.run(
            "UPDATE leora_pipeline.account_type_transition "
            "SET recorded_at = recorded_at - interval '24 hours 1 second'"
        )

    assert counts(build, tenant) == {"ACTIVE": 24, "PROSPECT": 16}
