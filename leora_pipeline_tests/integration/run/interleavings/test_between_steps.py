"""What the CRM does between the steps of a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    update_account_types,
)
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.ledger import step
from leora_pipeline.core.run.plan import plan
from leora_pipeline.core.run.publish import publish
from leora_pipeline.core.run.refresh import customers_to_refresh
from leora_pipeline.core.run.run import Run, resolve_run
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.interleaving import state
from leora_pipeline_tests.scenes import (
    everything,
    settle,
)


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
def test_a_customer_moved_to_another_tenant_is_classified_there(
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
