"""What becomes of a customer for which the hook is called."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    HookResult,
    OrderCreated,
    after_order_create,
    update_account_types,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.hooks import assert_at_rest, hook, ordered_again
from leora_pipeline_tests.scenes import (
    everything,
    incremental,
    make_held,
)


@pytest.mark.parametrize("before", ["PROSPECT", None])
def test_a_first_order_makes_its_customer_active(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, before: str | None
) -> None:
    customer = build.customer(tenant, before)
    ordered = ago(minutes=1)
    order = build.order(tenant, customer, ordered)

    result = after_order_create(OrderCreated(order, customer, ordered, 12.5), engine=engine)

    assert result == HookResult(updated=1)
    found = build.read(customer)
    assert found[:2] == ("ACTIVE", ordered)
    assert found.updated > ago(minutes=1)
    assert build.log(customer) == [(before, "ACTIVE", "order")]
    assert build.pending() == set(), "nothing is left to the listener"
    assert_at_rest(engine, build)


def test_the_next_order_raises_a_customer_whom_the_pipeline_knows(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.log(customer) == [("TARGET", "ACTIVE", "order")]
    assert_at_rest(engine, build)


def test_a_first_order_of_300_days_ago_makes_its_customer_target(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered = ago(days=300)
    customer = build.customer(tenant, "PROSPECT", orders=(ordered,))

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.read(customer)[:2] == ("TARGET", ordered)


def test_a_back_dated_order_does_not_turn_a_date_back(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    recent = ago(days=2)
    customer = build.customer(tenant, orders=(recent,))
    update_account_types(engine=engine)
    before = everything(build)
    build.order(tenant, customer, ago(days=300))

    assert hook(customer, engine=engine) == HookResult(unchanged=1)

    assert everything(build) == before


@pytest.mark.parametrize(
    ("status", "ordered"),
    [("CANCELLED", ago(days=1)), ("DRAFT", ago(days=1)), ("SUBMITTED", None)],
)
def test_an_order_that_does_not_count_changes_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, status: str, ordered: datetime | None
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    before = everything(build)
    order = build.order(tenant, customer, ordered, status)

    result = after_order_create(OrderCreated(order, customer, ago(days=1)), engine=engine)

    assert result == HookResult(unchanged=1)
    assert everything(build) == before
    assert build.pending() == set()


def test_an_order_that_is_not_there_changes_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    before = everything(build)

    assert hook(customer, engine=engine) == HookResult(unchanged=1)

    assert everything(build) == before


def test_an_order_of_the_future_counts_when_its_time_comes(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    tomorrow = ago(days=-1)
    build.order(tenant, customer, tomorrow)

    assert hook(customer, engine=engine) == HookResult(unchanged=1)

    assert build.type_of(customer) == "TARGET"
    ((next_order_at,),) = build.run("SELECT next_order_at FROM leora_pipeline.customer_state")
    assert next_order_at == tomorrow


def test_a_pinned_type_stays_and_gets_its_date(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered = ago(days=1)
    customer = build.customer(tenant, "HOLD", orders=(ordered,))

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.read(customer)[:2] == ("HOLD", ordered)
    assert build.log() == []


def test_a_customer_who_would_be_demoted_is_left_and_synced_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered, recent = ago(days=200), ago(days=1)
    customer = build.customer(tenant, orders=(ordered,))
    order = build.order(tenant, customer, recent)
    update_account_types(engine=engine)
    build.cancel(order)

    assert hook(customer, engine=engine) == HookResult(deferred=1)

    assert build.read(customer)[:2] == ("ACTIVE", recent)
    incremental(engine)
    assert build.log(customer)[-1] == ("ACTIVE", "TARGET", "order removed")
    assert_at_rest(engine, build)


def test_a_customer_who_has_aged_is_left_too(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered = ago(days=200)
    customer = build.customer(tenant, "ACTIVE", last_order=ordered, orders=(ordered,))

    assert hook(customer, engine=engine) == HookResult(deferred=1)

    assert build.type_of(customer) == "ACTIVE"
    incremental(engine)
    assert build.type_of(customer) == "TARGET"


def test_the_demotion_of_a_held_tenant_is_not_written_and_a_rise_is(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    held, customers = make_held(engine, build)
    build.order(held, customers[0], ago(days=1))
    riser = build.customer(held, "PROSPECT", orders=(ago(days=1),))
    build.run("DELETE FROM leora_pipeline.pending_customer")

    assert hook(*customers, riser, engine=engine) == HookResult(updated=2, deferred=19)

    assert [build.type_of(customer) for customer in customers] == ["ACTIVE"] * 20
    assert build.read(customers[1]).date is not None
    assert build.type_of(riser) == "ACTIVE"


def test_a_customer_without_a_type_gets_one_even_in_a_held_tenant(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    held, _ = make_held(engine, build)
    customer = build.customer(held)

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.type_of(customer) == "PROSPECT"


def test_a_type_set_by_hand_that_the_orders_exceed_is_raised(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.set_type(customer, "PROSPECT")

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.log(customer)[-1] == ("PROSPECT", "ACTIVE", "by hand")


def test_the_date_is_left_to_the_crm_where_so_configured(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", "false")
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=1),))

    assert hook(customer, engine=engine) == HookResult(updated=1)
    assert build.read(customer)[:2] == ("ACTIVE", None)

    with transaction(engine) as connection:
        assert hook(customer, connection=connection) == HookResult(unchanged=1)
    assert build.read(customer)[:2] == ("ACTIVE", None)


def test_the_sql_function_leaves_the_date_to_the_crm_where_asked_to(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)
    before = build.read(customer).date

    build.run(
        "SELECT * FROM leora_pipeline.after_order_create("
        "p_customer_ids => ARRAY[CAST(:id AS uuid)], p_write_last_order_date => false)",
        id=customer,
    )

    assert build.read(customer)[:2] == ("ACTIVE", before)
