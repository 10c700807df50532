"""Time is an event too: a listener takes the customers that are due."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.realtime import listener as listen
from leora_pipeline.core.realtime.batch import Batch, take_actionable
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import assert_settled, at_rest, eventually, listening, pass_time
from leora_pipeline_tests.scenes import (
    add_customers,
    counts,
)


@pytest.mark.parametrize(
    ("ordered_days_ago", "before", "after", "cause"),
    [
        (175, "ACTIVE", "TARGET", "age"),
        (360, "TARGET", "PROSPECT", "age"),
        (-5, "PROSPECT", "ACTIVE", "order"),
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
    cause: str,
    is_imported: bool,
) -> None:
    date = ago(days=ordered_days_ago)
    customer = build.customer(
        tenant, last_order=date if is_imported else None, orders=() if is_imported else (date,)
    )
    bystander = build.customer(tenant, orders=(ago(days=100),))
    with listening(engine):
        eventually(lambda: build.type_of(customer) == before)
        eventually(lambda: at_rest(engine, build))
        pass_time(build, 10)
        assert build.pending() == set(), "no change is captured"

        eventually(lambda: build.type_of(customer) == after)
        assert_settled(engine, build)

    by_order = "listener" if is_imported or before == "PROSPECT" else "order"
    assert build.log(customer) == [(None, before, by_order), (before, after, cause)]
    assert build.log(bystander) == [(None, "ACTIVE", "order")]


def test_all_whom_time_outdates_at_once_are_taken_however_many(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    customers = add_customers(build, tenant, 3 * small_batches, ordered=ago(days=175))
    update_account_types(engine=engine)
    pass_time(build, 10)

    with listening(engine) as listener:
        eventually(lambda: at_rest(engine, build))
        eventually(lambda: listener.moved == len(customers))

    assert counts(build, tenant) == {"TARGET": len(customers)}
    assert_settled(engine, build)


def test_long_work_on_the_due_puts_off_the_next_look_by_no_more_than_a_moment(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build.customer(tenant, orders=(ago(days=175),))
    second = build.customer(tenant, orders=(ago(days=165),))
    spent = [0.0]

    def five_minutes(*arguments: Any, **options: Any) -> Batch:
        done = take_actionable(*arguments, **options)
        spent[0] += 300.0
        return done

    monkeypatch.setattr(listen, "take_actionable", five_minutes)
    monkeypatch.setattr(
        listen, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + spent[0])
    )
    with listening(engine):
        eventually(lambda: build.type_of(second) == "ACTIVE")
        pass_time(build, 10)
        eventually(lambda: build.type_of(first) == "TARGET")

        pass_time(build, 10)

        eventually(lambda: build.type_of(second) == "TARGET", "the next look at the overdue")
