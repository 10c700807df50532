"""The rule, as a full run applies it: what counts, what is kept, what is never touched."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline_tests.crm_builder import CrmBuilder, ago

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
