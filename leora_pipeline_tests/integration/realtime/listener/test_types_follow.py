"""What users rely on: while a listener runs, types follow the CRM."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import assert_settled, at_rest, eventually, listening
from leora_pipeline_tests.scenes import (
    insert_order,
)


def test_a_new_order_makes_its_customer_active(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, "TARGET", orders=(ago(days=200),))
    with listening(engine) as listener:
        eventually(lambda: at_rest(engine, build))
        ordered = ago(days=1)
        build.order(tenant, customer, ordered)

        eventually(lambda: build.read(customer)[:2] == ("ACTIVE", ordered))
        assert_settled(engine, build)
        eventually(lambda: listener.moved == 1, "it counts what it moved")

    assert build.log(customer) == [("TARGET", "ACTIVE", "order")]


@pytest.mark.parametrize(
    "happens",
    [
        "UPDATE \"Order\" SET status = 'CANCELLED' WHERE id = :id",
        'DELETE FROM "Order" WHERE id = :id',
        'UPDATE "Order" SET "orderedAt" = NULL WHERE id = :id',
    ],
)
def test_an_order_that_goes_takes_its_type_along(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, happens: str
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    order = build.order(tenant, customer, ago(days=1))
    with listening(engine):
        eventually(lambda: build.type_of(customer) == "ACTIVE")
        build.run(happens, id=order)

        eventually(lambda: build.type_of(customer) == "TARGET")
        assert_settled(engine, build)

    assert build.log(customer) == [
        (None, "ACTIVE", "order"),
        ("ACTIVE", "TARGET", "order removed"),
    ]


def test_an_order_that_moves_to_a_customer_of_another_tenant_changes_both(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    giver, taker = build.customer(tenant), build.customer(other)
    order = build.order(tenant, giver, ago(days=2))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        build.run(
            'UPDATE "Order" SET "customerId" = :to, "tenantId" = :tenant WHERE id = :id',
            to=taker,
            tenant=other,
            id=order,
        )

        eventually(lambda: build.type_of(taker) == "ACTIVE")
        eventually(lambda: build.type_of(giver) == "PROSPECT")
        assert_settled(engine, build)

    assert build.log(giver)[-1] == ("ACTIVE", "PROSPECT", "order removed")
    assert build.log(taker) == [
        (None, "PROSPECT", "listener"),
        ("PROSPECT", "ACTIVE", "order"),
    ]


def test_a_new_customer_gets_a_type(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
    with listening(engine):
        new, imported = build.customer(tenant), build.customer(tenant, last_order=ago(days=200))

        eventually(lambda: (build.type_of(new), build.type_of(imported)) == ("PROSPECT", "TARGET"))
        assert_settled(engine, build)

    assert build.log(new) == [(None, "PROSPECT", "listener")]
    assert build.log(imported) == [(None, "TARGET", "listener")]


def test_a_customer_who_moves_to_another_tenant_is_classified_there(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    customer = build.customer(tenant, orders=(ago(days=2),))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        with transaction(build.engine) as crm:
            crm.execute(sa.text('UPDATE "Order" SET "tenantId" = :t'), {"t": other})
            crm.execute(
                sa.text(
                    'UPDATE "Customer" SET "tenantId" = :t, "accountType" = NULL, '
                    '"lastOrderDate" = NULL'
                ),
                {"t": other},
            )

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)

    assert [
        row.tenant_id
        for row in build.run(
            "SELECT tenant_id FROM leora_pipeline.account_type_transition ORDER BY transition_id"
        )
    ] == [tenant, other]
    assert build.run("SELECT tenant_id FROM leora_pipeline.customer_state") == [(other,)]


def test_a_deleted_customer_leaves_no_state_behind(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    gone, stays = (build.customer(tenant, orders=(ago(days=2),)) for _ in range(2))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        build.run('DELETE FROM "Customer" WHERE id = :id', id=gone)

        eventually(lambda: at_rest(engine, build))

    assert build.run("SELECT customer_id FROM leora_pipeline.customer_state") == [(stays,)]


def test_a_deleted_tenant_leaves_nothing_pending_and_holds_up_no_other(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    customers = [build.customer(one, orders=(ago(days=2),)) for one in (tenant, other)]
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        build.run('DELETE FROM "Tenant" WHERE id = :id', id=tenant)
        build.order(other, customers[1], ago(days=1))

        eventually(lambda: at_rest(engine, build))
        assert_settled(engine, build)


def test_a_hold_set_by_a_person_stays_and_gets_its_dates_until_it_is_lifted(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    with listening(engine):
        eventually(lambda: build.type_of(customer) == "TARGET")
        build.set_type(customer, "HOLD")
        ordered = ago(days=1)
        build.order(tenant, customer, ordered)
        eventually(lambda: build.read(customer)[:2] == ("HOLD", ordered))
        assert_settled(engine, build)

        build.set_type(customer, "PROSPECT")

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)

    assert build.log(customer) == [
        (None, "TARGET", "order"),
        ("PROSPECT", "ACTIVE", "by hand"),
    ]


@pytest.mark.parametrize("by_hand", ["PROSPECT", "TARGET", None])
def test_a_type_set_by_hand_is_put_right(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, by_hand: str | None
) -> None:
    customer = build.customer(tenant, orders=(ago(days=2),))
    with listening(engine):
        eventually(lambda: build.type_of(customer) == "ACTIVE")
        build.set_type(customer, by_hand)

        eventually(lambda: len(build.log(customer)) > 1)
        assert_settled(engine, build)

    assert build.type_of(customer) == "ACTIVE"
    assert build.log(customer) == [(None, "ACTIVE", "order"), (by_hand, "ACTIVE", "by hand")]


def test_changes_from_before_it_started_are_taken_too(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(3)]
    with listening(engine):
        eventually(lambda: {build.type_of(customer) for customer in customers} == {"ACTIVE"})
        assert_settled(engine, build)


def test_a_change_that_is_rolled_back_changes_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer, other = build.customer(tenant), build.customer(tenant)
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        with build.engine.connect() as crm:
            insert_order(crm, tenant, customer, ago(days=1))
            crm.rollback()
        build.order(tenant, other, ago(days=1))

        eventually(lambda: build.type_of(other) == "ACTIVE")
        assert_settled(engine, build)

    assert build.log(customer) == [(None, "PROSPECT", "listener")]


def test_a_listener_that_leaves_the_dates_to_the_crm_writes_types_alone(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, "PROSPECT")
    with listening(engine, write_dates=False):
        build.order(tenant, customer, ago(days=1))
        eventually(lambda: build.type_of(customer) == "ACTIVE")
        eventually(lambda: at_rest(engine, build))

    assert build.read(customer).date is None
