"""The listener: types follow the CRM while it runs, and whatever goes wrong meanwhile, stay true.

Listeners run in threads of their own, on their own connections, and the tests wait for what they
are to bring about. Where the order of things matters, the batches are driven by hand.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, SimpleNamespace
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.backoff import Backoff
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.policies.change import change_policy
from leora_pipeline.core.realtime import batch as batch_module
from leora_pipeline.core.realtime import listener as listen
from leora_pipeline.core.realtime.batch import Batch, PendingBatch, take_actionable, take_pending
from leora_pipeline.core.realtime.listener import Listener
from leora_pipeline.core.run.run import Run
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.processes import wait_until
from leora_pipeline_tests.scenes import (
    add_customers,
    bring_orders_back,
    counts,
    everything,
    holds,
    insert_order,
    is_held,
    lose_orders,
    waiting,
)

DEADLINE = 30.0

DO_LISTEN = Writer("listener of the test", "listener")
"""In whose name batches are driven by hand."""


def eventually(condition: Callable[[], object], what: str = "what the listener was to do") -> None:
    """Returns once a condition holds."""
    wait_until(condition, seconds=DEADLINE, what=what, every=0.01)


def listener_url(engine: sa.Engine) -> str:
    """Returns the URL of a listener, whose connections can be told from the test's own."""
    return engine.url.update_query_dict({"application_name": "listener"}).render_as_string(
        hide_password=False
    )


@contextmanager
def listening(engine: sa.Engine, **options: Any) -> Iterator[Listener]:
    """Runs a listener on an engine's database for as long as the block lasts."""
    own = create_engine(listener_url(engine))
    listener = Listener(own, **options)
    thread = threading.Thread(target=listener.run, name="listener")
    thread.start()
    try:
        yield listener
    finally:
        listener.stop()
        if listener.is_notified:
            # Tests make it wait for notifications alone.
            while thread.is_alive():
                CrmBuilder(engine).run("NOTIFY leora_pipeline_pending")
                thread.join(0.05)
        thread.join(DEADLINE)
        own.dispose()
        assert not thread.is_alive(), "the listener did not stop"


def at_rest(engine: sa.Engine, build: CrmBuilder) -> bool:
    return not build.pending() and not waiting(engine)


def assert_settled(engine: sa.Engine, build: CrmBuilder) -> None:
    """Asserts that nothing is left to do, not even for a look at everybody."""
    eventually(lambda: at_rest(engine, build), "the listener took all there was")
    settled = everything(build)
    update_account_types(engine=engine)
    assert everything(build) == settled


def quarantined(build: CrmBuilder) -> dict[UUID, Any]:
    """Returns the quarantined customers: their error, failures, and pause in seconds."""
    return {
        row.customer_id: row
        for row in build.run(
            "SELECT customer_id, error, failures, quarantined_at, round(extract(epoch FROM "
            "retry_at - quarantined_at))::integer AS first_pause, round(extract(epoch FROM "
            "retry_at - clock_timestamp()))::integer AS pause "
            "FROM leora_pipeline.customer_state WHERE retry_at IS NOT NULL"
        )
    }


def end_pauses(build: CrmBuilder) -> None:
    build.run(
        "UPDATE leora_pipeline.customer_state SET retry_at = clock_timestamp() "
        "WHERE retry_at IS NOT NULL"
    )


def pass_time(build: CrmBuilder, days: int) -> None:
    """Lets time pass, by moving everything else back, unseen by the triggers."""
    with transaction(build.engine) as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table, columns in (
            ('"Order"', ('"orderedAt"',)),
            ('"Customer"', ('"lastOrderDate"',)),
            (
                "leora_pipeline.customer_state",
                ("last_order_at", "next_order_at", "imported_order_at", "synced_order_at", "as_of"),
            ),
        ):
            sets = ", ".join(f"{one} = {one} - interval '{days} days'" for one in columns)
            connection.exec_driver_sql(f"UPDATE {table} SET {sets}")


def drain(engine: sa.Engine, tenant: UUID) -> list[PendingBatch]:
    """Takes all that is pending for a tenant, batch by batch."""
    batches = [take_pending(engine, DO_LISTEN, tenant)]
    while batches[-1].is_full:
        assert batches[-1].last is not None
        batches.append(take_pending(engine, DO_LISTEN, tenant, after=batches[-1].last))
    return batches


@pytest.fixture(autouse=True)
def _frequent_looks_at_the_actionable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests from waiting for what is looked at but once a second."""
    monkeypatch.setattr(listen, "ACTIONABLE_SECONDS", 0.05)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> int:
    """Makes batches so small that a test has several, and returns how small."""
    monkeypatch.setattr(batch_module, "LISTENER_BATCH", 4)
    return 4


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the pauses of tenants and of the database short, so that tests need not wait."""
    monkeypatch.setattr(listen, "PAUSES", Backoff(first=0.1, longest=0.4))


# What users rely on: the type follows.


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


def test_a_customer_who_moves_to_another_tenant_is_told_there(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    other = build.tenant("market")
    customer = build.customer(tenant, orders=(ago(days=2),))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        with transaction(engine) as crm:
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
        with engine.connect() as crm:
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


# Time is an event too.


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
        assert build.pending() == set(), "no change is noted"

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


def test_long_work_on_the_overdue_puts_off_the_next_look_by_no_more_than_a_moment(
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


# Several listeners, and others who hold what they want.


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
    with transaction(engine) as other:
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
        with transaction(engine) as crm:
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
        with transaction(engine) as crm:
            insert_order(crm, tenant, late, ago(days=1))
            with transaction(engine) as other:
                other.execute(sa.text(HOLDING["state"]), {"ids": held})
                for customer in held:
                    build.order(tenant, customer, ago(days=1))
                free = build.customer(tenant, orders=(ago(days=1),))
                eventually(lambda: build.type_of(free) == "ACTIVE")

        eventually(lambda: build.type_of(late) == "ACTIVE")
        eventually(lambda: {build.type_of(customer) for customer in held} == {"ACTIVE"})
        assert_settled(engine, build)


# Fairness.


def test_a_backlog_of_one_tenant_keeps_no_other_waiting(
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


def test_a_tenant_with_many_overdue_customers_keeps_no_other_waiting(
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


# Customers whom the CRM's database refuses to have written.


def refuse(build: CrmBuilder, customers: list[UUID], sqlstate: str = "P0001") -> None:
    """Makes the CRM refuse to write some customers, as a trigger of somebody else's may."""
    build.run("CREATE TABLE IF NOT EXISTS refused (id uuid)")
    build.run(
        "INSERT INTO refused SELECT id FROM unnest(CAST(:ids AS uuid[])) AS r (id)", ids=customers
    )
    build.run(
        "CREATE OR REPLACE FUNCTION refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF EXISTS (SELECT FROM refused WHERE id = NEW.id) THEN RAISE EXCEPTION 'on credit hold' "
        f"USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$"
    )
    build.run("GRANT SELECT ON refused TO PUBLIC")
    build.run(
        'CREATE OR REPLACE TRIGGER refuse_write BEFORE UPDATE ON "Customer" FOR EACH ROW '
        "EXECUTE FUNCTION refuse_write()"
    )


def allow(build: CrmBuilder) -> None:
    build.run("DELETE FROM refused")


@pytest.mark.parametrize("how", ["trigger", "check constraint"])
def test_a_customer_whom_the_crm_refuses_is_set_aside_and_the_others_are_done(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(9)]
    bad = [customers[2], customers[6]]
    if how == "trigger":
        refuse(build, bad)
    else:
        build.run("UPDATE \"Customer\" SET name = 'bad' WHERE id = ANY (:ids)", ids=bad)
        build.run(
            'ALTER TABLE "Customer" ADD CONSTRAINT credit CHECK '
            "(name <> 'bad' OR \"accountType\" IS NOT DISTINCT FROM 'HOLD') NOT VALID"
        )
    with listening(engine):
        eventually(lambda: len(quarantined(build)) == 2)
        eventually(lambda: not build.pending())

    found = quarantined(build)
    assert set(found) == set(bad)
    for row in found.values():
        assert ("on credit hold" if how == "trigger" else "credit") in row.error
        assert (row.failures, row.first_pause) == (1, 10)
    for customer in customers:
        refused_ = customer in bad
        assert build.type_of(customer) == (None if refused_ else "ACTIVE")
        assert build.log(customer) == ([] if refused_ else [(None, "ACTIVE", "order")])
    told = [record.getMessage() for record in caplog.records if "quarantined" in record.message]
    assert len(told) == 2
    assert all(str(customer) in "".join(told) for customer in bad)


def test_a_customer_set_aside_is_tried_again_after_pauses_that_grow_to_an_hour(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=2),))
    refuse(build, [customer])
    drain(engine, tenant)
    assert build.pending() == set(), "nobody else is to try it meanwhile"
    since = quarantined(build)[customer].quarantined_at
    pauses = [quarantined(build)[customer].pause]
    for _ in range(11):
        assert take_actionable(engine, DO_LISTEN, tenant).customers == 0, "not in the pause"
        end_pauses(build)
        take_actionable(engine, DO_LISTEN, tenant)
        pauses.append(quarantined(build)[customer].pause)

    expected = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]
    assert all(abs(one - other) <= 2 for one, other in zip(pauses, expected, strict=True)), pauses
    assert quarantined(build)[customer].failures == 12
    assert quarantined(build)[customer].quarantined_at == since


def test_a_customer_set_aside_is_done_once_the_crm_takes_it(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=2),))
    refuse(build, [customer])
    with listening(engine):
        eventually(lambda: customer in quarantined(build))
        allow(build)
        end_pauses(build)

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        eventually(lambda: not quarantined(build))
        assert_settled(engine, build)

    assert build.log(customer) == [(None, "ACTIVE", "order")]


def test_changes_of_a_customer_in_its_pause_wait_for_its_end(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer, other = (build.customer(tenant, orders=(ago(days=200),)) for _ in range(2))
    refuse(build, [customer])
    with listening(engine):
        eventually(lambda: customer in quarantined(build))
        for each in (customer, other):
            build.order(tenant, each, ago(days=1))
        eventually(lambda: build.type_of(other) == "ACTIVE")
        eventually(lambda: not build.pending(), "nor does it stay in the queue")
        assert quarantined(build)[customer].failures == 1
        allow(build)
        end_pauses(build)

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)


@pytest.mark.parametrize("leaves", ["deleted", "moved", "held by a person"])
def test_a_customer_who_need_no_more_be_told_stays_set_aside_no_longer(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, leaves: str
) -> None:
    other = build.tenant("market")
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=2),))
    refuse(build, [customer])
    drain(engine, tenant)
    assert set(quarantined(build)) == {customer}
    allow(build)
    if leaves == "deleted":
        build.run('DELETE FROM "Customer" WHERE id = :id', id=customer)
    elif leaves == "moved":
        build.run('UPDATE "Customer" SET "tenantId" = :t WHERE id = :id', t=other, id=customer)
    else:
        build.run(
            'UPDATE "Customer" SET "accountType" = \'HOLD\', "lastOrderDate" = '
            '(SELECT max("orderedAt") FROM "Order") WHERE id = :id',
            id=customer,
        )
    with listening(engine):
        end_pauses(build)
        eventually(lambda: not quarantined(build))
        assert_settled(engine, build)


def test_a_full_run_passes_over_a_customer_in_its_pause_and_succeeds(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(3)]
    refuse(build, customers[:1])
    drain(engine, tenant)
    for customer in customers:
        build.set_type(customer, "TARGET") if customer != customers[0] else None
        build.order(tenant, customer, ago(days=1))

    update_account_types(engine=engine)

    assert [build.type_of(customer) for customer in customers] == [None, "ACTIVE", "ACTIVE"]
    assert set(quarantined(build)) == {customers[0]}
    assert build.run("SELECT status, error FROM leora_pipeline.tenant_run") == [("succeeded", None)]
    assert waiting(engine) == [], "nor is it a reason to launch a run"


def test_a_customer_in_its_pause_is_no_reason_to_launch_a_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=175),))
    update_account_types(engine=engine)
    refuse(build, [customer])
    pass_time(build, 10)
    take_actionable(engine, DO_LISTEN, tenant)
    assert set(quarantined(build)) == {customer}

    assert waiting(engine) == []
    end_pauses(build)
    assert waiting(engine) == [tenant]


# Errors that are nobody's own.


def tries(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Returns the pauses that the log announces, in seconds."""
    found = [
        re.search(r"\(the next try is in ([\d.]+) s\)", record.getMessage())
        for record in caplog.records
    ]
    return [float(match[1]) for match in found if match]


def test_a_tenant_that_fails_as_a_whole_is_left_alone_and_goes_on_when_repaired(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = build.tenant("market")
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(3)]
    refuse(build, customers, sqlstate="42501")
    with listening(engine):
        eventually(lambda: len(tries(caplog)) >= 4)
        for _ in range(3):
            free = build.customer(other, orders=(ago(days=2),))
            eventually(lambda free=free: build.type_of(free) == "ACTIVE")
        assert {build.type_of(customer) for customer in customers} == {None}
        assert quarantined(build) == {}
        allow(build)

        eventually(lambda: {build.type_of(customer) for customer in customers} == {"ACTIVE"})
        assert_settled(engine, build)

    assert tries(caplog)[:4] == [0.1, 0.2, 0.4, 0.4]
    assert all(str(tenant) in record.getMessage() for record in caplog.records)


def test_a_tenant_that_was_repaired_begins_with_short_pauses_again(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    refuse(build, [customer], sqlstate="42501")
    with listening(engine):
        eventually(lambda: len(tries(caplog)) >= 3)
        allow(build)
        eventually(lambda: build.type_of(customer) == "TARGET")
        eventually(lambda: at_rest(engine, build))
        caplog.clear()
        refuse(build, [customer], sqlstate="42501")
        build.order(tenant, customer, ago(days=1))

        eventually(lambda: tries(caplog))

    assert tries(caplog)[0] == 0.1


def test_a_privilege_that_is_revoked_sets_nobody_aside(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    connect_as: Callable[[], sa.Engine],
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    role = connect_as()
    customers = [build.customer(tenant, "TARGET", orders=(ago(days=200),)) for _ in range(3)]
    with listening(role):
        eventually(lambda: at_rest(engine, build))
        build.run(f'REVOKE UPDATE ("accountType") ON "Customer" FROM {role.url.username}')
        for customer in customers:
            build.order(tenant, customer, ago(days=1))
        eventually(lambda: len(tries(caplog)) >= 3)
        assert {build.type_of(customer) for customer in customers} == {"TARGET"}
        assert quarantined(build) == {}
        build.run(f'GRANT UPDATE ("accountType") ON "Customer" TO {role.url.username}')

        eventually(lambda: {build.type_of(customer) for customer in customers} == {"ACTIVE"})
        assert_settled(engine, build)


def test_a_table_that_is_missing_for_a_while_sets_nobody_aside(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    customer = build.customer(tenant, "TARGET", orders=(ago(days=200),))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        build.run('ALTER TABLE "Order" RENAME TO "Orders"')
        build.run('UPDATE "Orders" SET "orderedAt" = "orderedAt" + interval \'199 days\'')
        eventually(lambda: len(tries(caplog)) >= 3)
        assert quarantined(build) == {}
        assert build.pending() == {customer}
        build.run('ALTER TABLE "Orders" RENAME TO "Order"')

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)


def test_pauses_grow_while_the_pipelines_own_tables_are_out_of_reach_too(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    connect_as: Callable[[], sa.Engine],
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    role = connect_as()
    customer = build.customer(tenant, orders=(ago(days=2),))
    table = "leora_pipeline.listener"
    with listening(role):
        eventually(lambda: build.type_of(customer) == "ACTIVE")
        build.run(f"REVOKE INSERT ON {table} FROM {role.url.username}")
        # So that it has to open its own connection again, and say that it runs.
        build.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'listener' AND datname = current_database()"
        )
        eventually(lambda: len(tries(caplog)) >= 4)
        build.run(f"GRANT INSERT ON {table} TO {role.url.username}")
        build.order(tenant, build.customer(tenant), ago(days=1))

        eventually(lambda: at_rest(engine, build))

    assert max(tries(caplog)) == 0.4, "not 0.1 s for ever"


# The gate.


def demoted(build: CrmBuilder, tenant: UUID) -> int:
    """Returns how many demotions by lost orders the CRM was told."""
    return int(
        build.run(
            "SELECT count(*) AS n FROM leora_pipeline.account_type_transition "
            "WHERE tenant_id = :tenant AND cause = 'order removed'",
            tenant=tenant,
        )[0].n
    )


MANY = 65
AT_MOST = MANY // 5
"""What the gate guarantees on every path: never more than 20 % (and more than 10) within a day."""


@pytest.mark.parametrize("listeners", [1, 2])
@pytest.mark.parametrize("how", ["one statement", "many transactions"])
def test_a_tenant_whose_orders_vanish_under_a_listener_is_held_until_a_full_run_sees_them_back(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    small_batches: int,
    listeners: int,
    how: str,
) -> None:
    customers = add_customers(build, tenant, MANY - 1, ordered=ago(days=10))
    riser = build.customer(tenant, "PROSPECT")
    lost = customers[5:]
    update_account_types(engine=engine)
    with listening(engine), (listening if listeners == 2 else no_listening)(engine):
        if how == "one statement":
            lose_orders(build, lost)
        else:
            for customer in lost:
                lose_orders(build, [customer])
        eventually(lambda: is_held(build, tenant))
        eventually(lambda: at_rest(engine, build))
        assert demoted(build, tenant) <= AT_MOST
        assert counts(build, tenant)["ACTIVE"] >= len(customers) - AT_MOST

        build.order(tenant, riser, ago(days=1))
        eventually(lambda: build.type_of(riser) == "ACTIVE", "upward moves go on")

        bring_orders_back(build, lost)
        eventually(lambda: counts(build, tenant) == {"ACTIVE": MANY})
        eventually(lambda: at_rest(engine, build))
        assert is_held(build, tenant), "only a full run has seen all of a tenant"
        update_account_types(engine=engine)

    assert [hold.released_by for hold in holds(build, tenant)] == ["full run"]
    assert_settled(engine, build)


@contextmanager
def no_listening(engine: sa.Engine) -> Iterator[None]:
    """Runs no listener."""
    yield


@pytest.mark.parametrize("count", [40, 43])
def test_orders_that_vanish_in_one_statement_demote_nobody(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int, count: int
) -> None:
    customers = add_customers(build, tenant, count, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers)

    drain(engine, tenant)
    take_actionable(engine, DO_LISTEN, tenant)

    assert demoted(build, tenant) == 0
    assert counts(build, tenant) == {"ACTIVE": count}
    assert [tuple(hold) for hold in holds(build, tenant)] == [(count, count, None)]
    assert_settled(engine, build)


def test_a_look_at_who_is_still_to_be_told_amid_a_backlog_does_not_hide_it_from_the_gate(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    customers = add_customers(build, tenant, 43, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers)

    last = take_pending(engine, DO_LISTEN, tenant).last
    take_actionable(engine, DO_LISTEN, tenant)
    assert last is not None
    while (batch := take_pending(engine, DO_LISTEN, tenant, after=last)).last is not None:
        last = batch.last
        take_actionable(engine, DO_LISTEN, tenant)

    assert is_held(build, tenant)
    assert demoted(build, tenant) == 0


def test_what_another_listener_has_claimed_belongs_to_the_backlog(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    # The end of the queue is no end while somebody else has the rest of it in hand.
    customers = add_customers(build, tenant, 4 * small_batches, ordered=ago(days=10))
    update_account_types(engine=engine)
    with transaction(engine) as connection:
        [of_policy] = find_tenants(connection)
    change_policy(engine, of_policy, {"gate_customers": small_batches}, changed_by="test")
    lose_orders(build, customers[: 2 * small_batches - 1])

    with transaction(engine) as other:
        claimed = other.execute(
            statements("leora_pipeline.core.realtime.batch").claim_pending,
            {"tenant_id": tenant, "after": 0, "batch": small_batches},
        ).all()
        assert len(claimed) == small_batches
        take_pending(engine, DO_LISTEN, tenant)
        assert demoted(build, tenant) == 0
    drain(engine, tenant)
    take_actionable(engine, DO_LISTEN, tenant)

    assert is_held(build, tenant)
    assert demoted(build, tenant) == 0


def test_few_lost_orders_amid_a_backlog_are_told_at_its_end(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    customers = add_customers(build, tenant, 4 * small_batches, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers[:3])
    for customer in customers:
        build.order(tenant, customer, ago(days=300))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        assert_settled(engine, build)

    assert [build.type_of(customer) for customer in customers[:3]] == ["TARGET"] * 3
    assert not is_held(build, tenant)


# Row level security.


@pytest.mark.parametrize("table", ["Order", "Customer"])
def test_row_level_security_switched_on_under_a_listener_demotes_nobody(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    connect_as: Callable[[], sa.Engine],
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
    table: str,
) -> None:
    role = connect_as()
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(3)]
    with listening(role):
        eventually(lambda: {build.type_of(customer) for customer in customers} == {"ACTIVE"})
        eventually(lambda: at_rest(engine, build))
        for change in ("ENABLE", "FORCE"):
            build.run(f'ALTER TABLE "{table}" {change} ROW LEVEL SECURITY')
        build.run(
            f'CREATE POLICY own ON "{table}" '
            "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
        )
        for customer in customers:
            build.order(tenant, customer, ago(days=1))
        eventually(lambda: len(tries(caplog)) >= 3)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == len(tries(caplog)), "a line for each try"
        assert all(re.search(f'row.level security.*"{table}"', line) for line in told), told
        assert not any("\n" in line for line in told)
        assert {build.type_of(customer) for customer in customers} == {"ACTIVE"}
        assert quarantined(build) == {}
        build.run(f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY')

        eventually(lambda: at_rest(engine, build))
        assert_settled(engine, build)

    assert len(build.log()) == len(customers), "the types were set once, and never again"


# The database goes away.


def test_connections_that_are_terminated_are_opened_anew(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, short_pauses: None
) -> None:
    customers = add_customers(build, tenant, 6, ordered=ago(days=400))
    with listening(engine):
        for customer in customers:
            eventually(lambda: at_rest(engine, build))
            build.order(tenant, customer, ago(days=1))
            build.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'listener' AND datname = current_database()"
            )

            eventually(lambda customer=customer: build.type_of(customer) == "ACTIVE")
        eventually(
            lambda: build.run("SELECT FROM leora_pipeline.listener"), "it says again that it runs"
        )
        assert_settled(engine, build)

    for customer in customers:
        assert [entry[:2] for entry in build.log(customer)] == [
            ("ACTIVE", "PROSPECT"),
            ("PROSPECT", "ACTIVE"),
        ]


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that a test may restart, and that keeps what was committed when it crashes."""
    with (
        TemporaryDirectory(prefix="leora_tests_", ignore_cleanup_errors=True) as folder,
        embedded_postgres(Path(folder), {"fsync": "off"}) as running,
    ):
        yield running


def restart(server: EmbeddedPostgres, mode: str) -> None:
    """Restarts a server as its keeper does: in order, or as if the power had failed."""
    data = server._server.pgdata
    server._pg_ctl("-w", "-m", mode, "-D", str(data), "stop")
    server._start(data)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("is_notified", [False, True])
def test_a_restart_of_the_database_is_survived(
    own_server: EmbeddedPostgres,
    mode: str,
    is_notified: bool,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = create_engine(own_server.url(f"crm_{mode}_{is_notified}".lower()))
    build = CrmBuilder(engine)
    with transaction(engine) as connection:
        create_tables(connection)
    install_schema(engine)
    tenant = build.tenant()
    customer = build.customer(tenant, "TARGET", orders=(ago(days=200),))
    with caplog.at_level(logging.WARNING), listening(engine, is_notified=is_notified):
        eventually(lambda: at_rest(engine, build))
        restart(own_server, mode)
        engine.dispose()
        build.order(tenant, customer, ago(days=1))

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)

    assert build.log(customer) == [("TARGET", "ACTIVE", "order")]
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert caplog.records[-1].getMessage() == "The database is back"
    engine.dispose()


# How it ends, and that it says that it runs.


def test_it_says_that_it_runs_for_as_long_as_it_does(engine: sa.Engine, build: CrmBuilder) -> None:
    with listening(engine), listening(engine, is_notified=True):
        eventually(
            lambda: (
                sorted(
                    row.wants_notify
                    for row in build.run("SELECT wants_notify FROM leora_pipeline.listener")
                )
                == [False, True]
            )
        )
    assert build.run("SELECT FROM leora_pipeline.listener") == []


def test_a_listener_that_was_killed_long_ago_is_forgotten(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    for name, hours in (("killed", 2), ("alive", 0)):
        build.run(
            "INSERT INTO leora_pipeline.listener VALUES (:name, clock_timestamp(), "
            "clock_timestamp() - make_interval(hours => :hours), false)",
            name=name,
            hours=hours,
        )
    with listening(engine):
        eventually(lambda: len(listener_names(build) - {"killed", "alive"}) == 1)
        eventually(lambda: "killed" not in listener_names(build))
        assert "alive" in listener_names(build)


def listener_names(build: CrmBuilder) -> set[str]:
    return {row.listener_id for row in build.run("SELECT listener_id FROM leora_pipeline.listener")}


def test_it_stops_after_the_batch_at_hand_and_leaves_the_rest(
    engine: sa.Engine,
    build: CrmBuilder,
    small_batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tenants = sorted(build.tenant(slug) for slug in ("cellar", "market"))
    for tenant in tenants:
        add_customers(build, tenant, 2 * small_batches, ordered=ago(days=2), account_type="TARGET")

    def stopped(connection: sa.Connection, *rest: Any, **options: Any) -> Any:
        listener.stop()
        return refresh_customers(connection, *rest, **options)

    refresh_customers = batch_module.refresh_customers
    monkeypatch.setattr(batch_module, "refresh_customers", stopped)
    listener = Listener(engine)
    listener.run()

    assert (listener.customers, listener.moved) == (small_batches, small_batches)
    assert counts(build, tenants[0]) == {"ACTIVE": small_batches, "TARGET": small_batches}
    assert counts(build, tenants[1]) == {"TARGET": 2 * small_batches}
    assert len(build.pending()) == 3 * small_batches


def test_it_stops_amid_the_overdue_too(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    small_batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_customers(build, tenant, 5 * small_batches, ordered=ago(days=175))
    update_account_types(engine=engine)
    pass_time(build, 10)

    def stopped(connection: sa.Connection, *rest: Any, **options: Any) -> Any:
        listener.stop()
        return refresh_customers(connection, *rest, **options)

    refresh_customers = batch_module.refresh_customers
    monkeypatch.setattr(batch_module, "refresh_customers", stopped)
    listener = Listener(engine)
    listener.run()

    assert counts(build, tenant) == {"TARGET": small_batches, "ACTIVE": 4 * small_batches}


def test_a_signal_at_whatever_moment_stops_it(engine: sa.Engine, build: CrmBuilder) -> None:
    """A handler runs between two lines of whatever the thread was at, waiting among it."""
    files = {listen.__file__, threading.__file__}
    places: set[tuple[str, int]] = set()

    def run_until(reached: Callable[[str, int], bool]) -> None:
        """Listens until a line is reached, and calls `stop` there, as a signal's handler does."""
        listener = Listener(engine, poll_seconds=0.001)

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if frame.f_code.co_filename not in files or "run_until" in frame.f_code.co_name:
                return None
            if event == "line" and reached(frame.f_code.co_filename, frame.f_lineno):
                sys.settrace(None)
                listener.stop()
            return trace

        signal.signal(signal.SIGUSR1, hung)
        watchdog = threading.Timer(
            DEADLINE, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)
        )
        watchdog.start()
        sys.settrace(trace)
        try:
            listener.run()
        finally:
            sys.settrace(None)
            watchdog.cancel()
            watchdog.join()

    def hung(signum: int, frame: FrameType | None) -> None:
        raise AssertionError(f"hangs when it is stopped at {at}")

    traced_before, handled_before = sys.gettrace(), signal.getsignal(signal.SIGUSR1)
    looks = 0
    at: tuple[str, int] | None = None

    def third_look(file: str, line: int) -> bool:
        nonlocal looks
        looks += (file, line) not in places and file == listen.__file__
        places.add((file, line))
        seen.append((file, line))
        return len(seen) > 1500

    seen: list[tuple[str, int]] = []
    try:
        run_until(third_look)
        for place in sorted(places):
            at = place
            run_until(lambda file, line, place=place: (file, line) == place)
    finally:
        sys.settrace(traced_before)
        signal.signal(signal.SIGUSR1, handled_before)
    assert looks > 20
    assert build.run("SELECT FROM leora_pipeline.listener") == []


# Notifications.


def test_a_notified_listener_is_woken_by_a_change(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "NOTIFIED_POLL_SECONDS", 3600.0)
    monkeypatch.setattr(listen, "ACTIONABLE_SECONDS", 3600.0)
    customers = [build.customer(tenant) for _ in range(3)]
    with listening(engine, is_notified=True, poll_seconds=3600.0):
        eventually(lambda: {build.type_of(customer) for customer in customers} == {"PROSPECT"})
        for customer in customers:
            build.order(tenant, customer, ago(days=1))
            eventually(lambda customer=customer: build.type_of(customer) == "ACTIVE")


def notifications_of(
    build: CrmBuilder, pipeline_url: str, happens: Callable[[], object]
) -> list[str]:
    """Returns the payloads of what is notified while something happens, and of an end mark."""
    with psycopg.connect(pipeline_url, autocommit=True) as ear:
        ear.execute("LISTEN leora_pipeline_pending")
        happens()
        build.run("NOTIFY leora_pipeline_pending, 'end'")
        heard = []
        for notification in ear.notifies(timeout=DEADLINE):
            heard.append(notification.payload)
            if notification.payload == "end":
                break
        return heard


def test_nobody_is_notified_where_no_listener_asked_for_it(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, pipeline_url: str
) -> None:
    with listening(engine):
        eventually(lambda: listener_names(build), "it says that it runs, and asks for nothing")

        def change() -> None:
            customer = build.customer(tenant, orders=(ago(days=1),))
            eventually(lambda: build.type_of(customer) == "ACTIVE")

        assert notifications_of(build, pipeline_url, change) == ["end"]


def test_a_listener_that_died_is_notified_no_more(
    build: CrmBuilder, tenant: UUID, pipeline_url: str
) -> None:
    customer = build.customer(tenant)
    build.run(
        "INSERT INTO leora_pipeline.listener "
        "VALUES ('died', clock_timestamp(), clock_timestamp(), true)"
    )

    def change() -> None:
        build.order(tenant, customer, ago(days=1))

    assert notifications_of(build, pipeline_url, change) == ["", "end"]
    build.run(
        "UPDATE leora_pipeline.listener SET seen_at = clock_timestamp() - interval '31 seconds'"
    )
    assert notifications_of(build, pipeline_url, change) == ["end"]
