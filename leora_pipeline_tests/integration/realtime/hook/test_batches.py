"""Batches, and honest counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    HookResult,
    update_account_types,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.realtime import hook as hook_module
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.hooks import assert_at_rest, hook
from leora_pipeline_tests.scenes import (
    incremental,
)


def test_nobody_is_an_empty_batch(engine: sa.Engine) -> None:
    assert hook(engine=engine) == HookResult()


def test_what_is_no_customer_is_named(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    nobody = uuid4()

    result = hook(customer, nobody, "no id", "", engine=engine)

    assert (result.updated, result.deferred, result.error) == (1, 0, None)
    assert sorted(result.unknown) == sorted([str(nobody), "no id", ""])


def test_a_customer_with_several_new_orders_is_counted_once(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1), ago(days=2)))
    nobody = uuid4()

    result = hook(
        customer, str(customer), str(customer).upper(), nobody, nobody, "x", "x", engine=engine
    )

    assert (result.updated, result.unchanged, result.deferred) == (1, 0, 0)
    assert sorted(result.unknown) == sorted([str(nobody), "x"])
    assert len(build.log(customer)) == 1


def mixed_customers(engine: sa.Engine, build: CrmBuilder, slug: str) -> list[UUID]:
    """Returns a tenant's customers: one to be raised, one who is right, one to be demoted."""
    tenant = build.tenant(slug)
    customers = [build.customer(tenant, orders=(ago(days=200),)) for _ in range(3)]
    update_account_types([slug], engine=engine)
    build.order(tenant, customers[0], ago(days=1))
    build.set_type(customers[2], "ACTIVE")
    return customers


@pytest.mark.parametrize("batch", [1, 2, 5_000])
@pytest.mark.parametrize("as_of_caller", [False, True])
def test_each_customer_of_a_batch_over_several_tenants_is_counted_as_what_became_of_it(
    engine: sa.Engine,
    build: CrmBuilder,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    as_of_caller: bool,
) -> None:
    monkeypatch.setattr(hook_module, "WRITE_BATCH", batch)
    customers = [mixed_customers(engine, build, slug) for slug in ("cellar", "dry-goods", "market")]
    strangers = [uuid4(), uuid4()]
    asked = [customer for each in customers for customer in each] + strangers

    if as_of_caller:
        with transaction(engine) as connection:
            result = hook(*asked, *asked, connection=connection)
    else:
        result = hook(*asked, *asked, engine=engine)

    assert (result.updated, result.unchanged, result.deferred) == (3, 3, 3)
    assert sorted(result.unknown) == sorted(map(str, strangers))
    assert [build.type_of(customer) for each in customers for customer in each] == [
        "ACTIVE",
        "TARGET",
        "ACTIVE",
    ] * 3
    incremental(engine)
    assert_at_rest(engine, build)


def test_a_batch_of_many_is_done_in_transactions_of_a_bounded_size(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_module, "WRITE_BATCH", 4)
    customers = [build.customer(tenant, orders=(ago(days=1),)) for _ in range(11)]

    assert hook(*customers, engine=engine) == HookResult(updated=11)

    writers = build.run('SELECT xmin::text, count(*) AS n FROM "Customer" GROUP BY 1')
    assert sorted(row.n for row in writers) == [3, 4, 4]
    assert_at_rest(engine, build)


def test_batches_before_the_one_that_fails_are_done_and_the_rest_is_left(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_module, "WRITE_BATCH", 4)
    customers = [build.customer(tenant, orders=(ago(days=1),)) for _ in range(10)]
    begun = []

    @contextmanager
    def breaking(engine: sa.Engine) -> Iterator[sa.Connection]:
        begun.append(engine)
        if len(begun) == 2:
            raise sa.exc.OperationalError("", None, Exception("the line was cut"))
        with transaction(engine) as connection:
            yield connection

    monkeypatch.setattr(hook_module, "transaction", breaking)

    result = hook(*customers, "x", engine=engine)

    assert result == HookResult(
        updated=4, unchanged=0, deferred=6, unknown=("x",), error="the line was cut"
    )
    assert Counter(build.type_of(customer) for customer in customers) == {"ACTIVE": 4, None: 6}


def test_the_number_of_statements_does_not_grow_with_the_batch(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    hook(build.customer(tenant, orders=(ago(days=1),)), engine=engine)
    statements: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def count(_connection: object, _cursor: object, text: str, *_rest: object) -> None:
        statements.append(text)

    counts = []
    for size in (1, 50):
        customers = [build.customer(tenant, orders=(ago(days=1),)) for _ in range(size)]
        statements.clear()
        assert hook(*customers, engine=engine) == HookResult(updated=size)
        counts.append(len(statements))

    assert counts[0] == counts[1] <= 5, "settings, tenants, first states, the function"
