"""Several listeners, and sessions that hold what a listener wants: the work is shared, and fair."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.realtime import batch as batch_module
from leora_pipeline.core.realtime import listener as listen
from leora_pipeline.core.realtime.batch import PendingBatch, take_pending
from leora_pipeline.core.run.run import Run
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import (
    DO_LISTEN,
    assert_settled,
    at_rest,
    drain,
    eventually,
    listening,
    pass_time,
)
from leora_pipeline_tests.scenes import (
    add_customers,
    counts,
    insert_order,
)


def test_listeners_share_the_work_and_log_each_change_once(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    other = build.tenant("market")
    customers = {
        one: add_customers(build, one, 5 * small_batches, ordered=ago(days=400))
        for one in (tenant, other)
    }
    update_account_types(engine=engine)
    everybody = [(one, customer) for one, those in customers.items() for customer in those]

    def order_and_cancel(mine: list[tuple[UUID, UUID]]) -> None:
        for one, customer in mine:
            order = build.order(one, customer, ago(days=1))
            eventually(lambda customer=customer: build.type_of(customer) == "ACTIVE")
            if customer.int % 5 == 0:
                build.cancel(order)
            build.order(one, customer, ago(days=2))

    with listening(engine), listening(engine), listening(engine), ThreadPoolExecutor(3) as threads:
        list(threads.map(order_and_cancel, (everybody[i::3] for i in range(3))))
        assert_settled(engine, build)

    assert {build.type_of(customer) for _, customer in everybody} == {"ACTIVE"}
    for _, customer in everybody:
        log = build.log(customer)
        assert log[0][:2] == ("ACTIVE", "PROSPECT")
        assert all(before[1] == after[0] for before, after in pairwise(log)), log
        assert all(entry[0] != entry[1] for entry in log), log
        assert len(log) in (2, 4), log


def test_what_another_listener_has_claimed_is_left_to_it(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    customers = [build.customer(tenant) for _ in range(2 * small_batches)]
    claim = (
        "SELECT customer_id FROM leora_pipeline.pending_customer ORDER BY pending_id LIMIT "
        f"{small_batches} FOR UPDATE"
    )
    with transaction(build.engine) as other:
        claimed = {row.customer_id for row in other.execute(sa.text(claim))}
        assert claimed == set(customers[:small_batches])

        done = take_pending(engine, DO_LISTEN, tenant)

        assert (done.customers, done.moved, done.skipped) == (small_batches, small_batches, 0)
        assert {customer for customer in customers if build.type_of(customer)} == set(
            customers[small_batches:]
        )
    drain(engine, tenant)
    assert_settled(engine, build)


HOLDING = {
    "state": "SELECT FROM leora_pipeline.customer_state WHERE customer_id = ANY (:ids) FOR UPDATE",
    "row": 'UPDATE "Customer" SET name = name WHERE id = ANY (:ids)',
    "pending": "SELECT FROM leora_pipeline.pending_customer WHERE customer_id = ANY (:ids) "
    "FOR UPDATE",
}


@pytest.mark.parametrize("what", ["state", "row"])
def test_customers_whom_somebody_holds_are_left_and_done_after_the_others(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int, what: str
) -> None:
    held, free = (
        add_customers(build, tenant, 2 * small_batches, ordered=ago(days=400)) for _ in range(2)
    )
    update_account_types(engine=engine)
    with listening(engine):
        with transaction(build.engine) as crm:
            crm.execute(sa.text(HOLDING[what]), {"ids": held})
            # More of them than a batch takes stand at the head of the queue.
            for customer in held + free:
                build.order(tenant, customer, ago(days=1))

            eventually(lambda: {build.type_of(customer) for customer in free} == {"ACTIVE"})
            assert {build.type_of(customer) for customer in held} == {"PROSPECT"}

        eventually(lambda: {build.type_of(customer) for customer in held} == {"ACTIVE"})
        assert_settled(engine, build)

    for customer in held + free:
        assert build.log(customer)[1:] == [("PROSPECT", "ACTIVE", "order")]


def test_a_change_that_commits_late_behind_rows_that_were_left_is_not_lost(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    held = add_customers(build, tenant, small_batches, ordered=ago(days=400))
    late = add_customers(build, tenant, 1, ordered=ago(days=400))[0]
    update_account_types(engine=engine)
    with listening(engine):
        with transaction(build.engine) as crm:
            insert_order(crm, tenant, late, ago(days=1))
            with transaction(build.engine) as other:
                other.execute(sa.text(HOLDING["state"]), {"ids": held})
                for customer in held:
                    build.order(tenant, customer, ago(days=1))
                free = build.customer(tenant, orders=(ago(days=1),))
                eventually(lambda: build.type_of(free) == "ACTIVE")

        eventually(lambda: build.type_of(late) == "ACTIVE")
        eventually(lambda: {build.type_of(customer) for customer in held} == {"ACTIVE"})
        assert_settled(engine, build)


def test_a_long_queue_of_one_tenant_keeps_no_other_waiting(
    engine: sa.Engine, build: CrmBuilder, small_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = [build.tenant(slug) for slug in ("cellar", "market", "harbor")]
    backlog = dict(zip(sorted(tenants), (6 * small_batches, 1, 2 * small_batches), strict=True))
    for tenant, count in backlog.items():
        add_customers(build, tenant, count, ordered=ago(days=2))
    taken: list[UUID] = []

    def recorded(own: sa.Engine, run: Run, tenant_id: UUID, **options: Any) -> PendingBatch:
        done = take_pending(own, run, tenant_id, **options)
        taken.extend([tenant_id] * bool(done.customers))
        return done

    monkeypatch.setattr(listen, "take_pending", recorded)
    with listening(engine):
        eventually(lambda: at_rest(engine, build))

    assert set(taken[:3]) == set(tenants), "each has had a batch before anyone has a second"
    assert Counter(taken)[min(tenants)] >= 6
    assert_settled(engine, build)


def test_a_tenant_with_many_due_customers_keeps_no_other_waiting(
    engine: sa.Engine, build: CrmBuilder, small_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, other = build.tenant("cellar"), build.tenant("market")
    add_customers(build, tenant, 8 * small_batches, ordered=ago(days=175))
    customer = build.customer(other)
    update_account_types(engine=engine)
    batches: list[UUID] = []

    def recorded(connection: sa.Connection, writer: Writer, tenant_id: UUID, *rest: Any) -> Any:
        batches.append(tenant_id)
        if len(batches) == 1:
            build.order(other, customer, ago(days=1))
        return refresh_customers(connection, writer, tenant_id, *rest)

    refresh_customers = batch_module.refresh_customers
    monkeypatch.setattr(batch_module, "refresh_customers", recorded)
    pass_time(build, 10)
    with listening(engine):
        eventually(lambda: at_rest(engine, build))

    assert batches[0] == tenant
    assert other in batches[:-1], "the order is not kept waiting until all of the overdue are done"
    assert counts(build, tenant) == {"TARGET": 8 * small_batches}
    assert build.type_of(customer) == "ACTIVE"
