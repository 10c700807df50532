"""The rule, as a full run applies it: what counts, what is kept, what is never touched."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types, update_customer_account_type
from leora_pipeline.core.reporting.preview import preview
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored

MILLISECOND = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("days_ago", "nudge", "expected"),
    [
        (0, 0, "ACTIVE"),
        (180, 0, "ACTIVE"),
        (180, -1, "TARGET"),
        (365, 0, "TARGET"),
        (365, -1, "PROSPECT"),
        (3000, 0, "PROSPECT"),
    ],
)
def test_thresholds_hold_to_the_millisecond(
    engine: sa.Engine, build: CrmBuilder, days_ago: int, nudge: int, expected: str
) -> None:
    as_of = ago(days=1)
    tenant = build.tenant()
    ordered = as_of - timedelta(days=days_ago) + nudge * MILLISECOND
    customer = build.customer(tenant, orders=(ordered,))

    update_account_types(as_of=as_of, engine=engine)

    assert build.read(customer)[:2] == (expected, ordered)


def test_drafts_cancelled_undated_and_future_orders_do_not_count(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "ACTIVE", orders=(ago(days=200), None, ago(days=-2)))
    build.order(tenant, customer, ago(days=1), "DRAFT")
    build.order(tenant, customer, ago(days=1), "CANCELLED")

    update_account_types(engine=engine)

    assert build.type_of(customer) == "TARGET"


@pytest.mark.parametrize("date", ["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])
def test_a_date_that_no_client_can_read_is_no_date(
    engine: sa.Engine, build: CrmBuilder, date: str
) -> None:
    tenant = build.tenant()
    ordered = ago(days=200)
    customer = build.customer(tenant, "ACTIVE", orders=(ordered, ago(days=1)))
    never = build.customer(tenant, None)
    build.run(
        'UPDATE "Order" SET "orderedAt" = CAST(:date AS timestamp) WHERE "orderedAt" > :recent',
        date=date,
        recent=stored(ago(days=2)),
    )
    build.run(
        'UPDATE "Customer" SET "lastOrderDate" = CAST(:date AS timestamp) WHERE id = :id',
        date=date,
        id=never,
    )

    seen = preview(engine, resolve_run(engine).tenants)
    update_account_types(engine=engine)

    expected = {
        misclassified.customer_id: misclassified.expected
        for previewed in seen.tenants
        for misclassified in previewed.misclassified
    }
    assert expected == {str(customer): "TARGET", str(never): "PROSPECT"}
    assert build.read(customer)[:2] == ("TARGET", ordered)
    assert build.type_of(never) == "PROSPECT"
    assert update_customer_account_type(never, engine=engine).last_order_at is None
