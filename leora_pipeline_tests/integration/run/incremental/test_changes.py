"""The incremental run follows what happens to orders and customers."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.incremental_runs import catch_up, states
from leora_pipeline_tests.scenes import (
    full,
)


def test_a_new_order_is_reported(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
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


def test_a_customer_who_moves_to_another_tenant_is_classified_there(
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
