"""Whatever happens to the CRM and whoever works meanwhile, at rest everything is right.

Hypothesis makes up sequences of changes, each a statement of the CRM's own, of time that passes, of
runs, full and incremental, of now and of the past, of the listener's batches, and of calls of the
hook, in transactions of their own or in the CRM's, which may roll back. After one more incremental
run, or once a listener has taken all there is, every customer is compared with the oracle, and the
log with what was set by hand. Dates lie off the thresholds, since the last run goes by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.realtime import batch
from leora_pipeline.core.realtime.batch import take_actionable, take_pending
from leora_pipeline.core.run.refresh import actionable_tenants
from leora_pipeline.core.run.run import Mode, resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.oracle import Memory, Policy, judge
from leora_pipeline_tests.scenes import everything

TENANTS = (UUID(int=1), UUID(int=2))
POLICIES = (Policy(), Policy(active_within=30, target_within=60), Policy("month", 4, 8))
DAYS_AGO = (1, 20, 40, 100, 140, 177, 183, 200, 300, 362, 368, 500, -2)
DAYS_THAT_PASS = (3.37, 20.37, 90.37)
"""However many of these pass, no date comes to lie on a threshold."""

STATUSES = ("FULFILLED", "FULFILLED", "SUBMITTED", "DRAFT", "CANCELLED")
TYPES = (None, "ACTIVE", "TARGET", "PROSPECT", "HOLD")

LISTENER = Writer("listener of the test", "listener")
"""In whose name batches are taken."""


@dataclass(frozen=True)
class SetByHand:
    """A type that somebody else than the pipeline set, after so much of the log."""

    logged: int
    customer: UUID
    type: str | None


class World:
    """A CRM under change, and the policies of its tenants."""

    def __init__(self, engine: sa.Engine, admin: sa.Engine) -> None:
        self.engine = engine
        self.build = CrmBuilder(admin)
        self.policies = dict.fromkeys(TENANTS, Policy())
        self.by_hand: list[SetByHand] = []

    def clear(self) -> None:
        """Begins anew, with two tenants whose gate is open."""
        for table in (
            '"Tenant"',
            *(
                f"leora_pipeline.{name}"
                for name in (
                    "tenant_policy",
                    "customer_state",
                    "account_type_change",
                    "account_type_transition",
                    "tenant_run",
                    "tenant_hold",
                    "account_type_distribution",
                    "pending_customer",
                    "policy_change",
                )
            ),
        ):
            self.build.run(f"DELETE FROM {table}")
        self.build.run(
            'INSERT INTO "Tenant" (id, slug, name, "updatedAt") '
            "SELECT id, id::text, 'Shop', now() FROM unnest(CAST(:ids AS uuid[])) AS t (id)",
            ids=list(TENANTS),
        )
        self.build.run(
            "INSERT INTO leora_pipeline.tenant_policy SELECT q.* "
            "FROM unnest(CAST(:ids AS uuid[])) AS t (id), leora_pipeline.effective_policy(t.id) q",
            ids=list(TENANTS),
        )
        self.build.run(
            "UPDATE leora_pipeline.tenant_policy SET gate_percent = 100, gate_customers = 1000000"
        )

    def pick(self, table: str, index: int) -> UUID:
        """Returns one of a table's ids, whatever the index; one that is no row's if it has none."""
        ids = [row.id for row in self.build.run(f'SELECT id FROM "{table}" ORDER BY id')]
        return ids[index % len(ids)] if ids else UUID(int=0)

    def note_by_hand(self, customer: UUID, account_type: str | None) -> None:
        """Remembers that a type was set by hand, at this moment."""
        logged = self.build.run(
            "SELECT COALESCE(max(transition_id), 0) AS n "
            "FROM leora_pipeline.account_type_transition"
        )[0].n
        self.by_hand.append(SetByHand(logged, customer, account_type))

    def run(self, mode: Mode, days_ago: int | None = None) -> None:
        as_of = None if days_ago is None else ago(days=days_ago)
        run_all_steps(self.engine, resolve_run(self.engine, mode=mode, as_of=as_of))


Step = Callable[[World], object]


def add_customer(tenant: UUID, account_type: str | None) -> Step:
    def step(world: World) -> None:
        world.note_by_hand(world.build.customer(tenant, account_type), account_type)

    return step


def set_type(customer: int, account_type: str | None) -> Step:
    """Sets a type as people do."""

    def step(world: World) -> None:
        picked = world.pick("Customer", customer)
        world.build.set_type(picked, account_type)
        world.note_by_hand(picked, account_type)

    return step


def add_orders(customer: int, days: Sequence[int | None], status: str) -> Step:
    def step(world: World) -> None:
        world.build.run(
            'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
            'SELECT gen_random_uuid(), c."tenantId", c.id, CAST(:status AS "OrderStatus"), '
            'o.ordered, now() FROM "Customer" AS c, unnest(CAST(:dates AS timestamp[])) '
            "AS o (ordered) WHERE c.id = :id",
            id=world.pick("Customer", customer),
            dates=[None if d is None else stored(ago(days=d)) for d in days],
            status=status,
        )

    return step


def change(table: str, index: int, assignments: str, **values: Any) -> Step:
    """Sets something of one row of a table."""

    def step(world: World) -> None:
        world.build.run(
            f'UPDATE "{table}" SET {assignments} WHERE id = :id',
            id=world.pick(table, index),
            **values,
        )

    return step


def redate(order: int, days: int | None) -> Step:
    def step(world: World) -> None:
        date = None if days is None else stored(ago(days=days))
        change("Order", order, '"orderedAt" = CAST(:date AS timestamp)', date=date)(world)

    return step


def move_order(order: int, customer: int) -> Step:
    """Gives an order to another customer, and to that customer's tenant."""

    def step(world: World) -> None:
        world.build.run(
            'UPDATE "Order" AS o SET "customerId" = c.id, "tenantId" = c."tenantId" '
            'FROM "Customer" AS c WHERE c.id = :customer AND o.id = :order',
            customer=world.pick("Customer", customer),
            order=world.pick("Order", order),
        )

    return step


def move_customer(customer: int, tenant: UUID, with_orders: bool) -> Step:
    """Moves a customer, who takes no date along, which would count there as an imported one."""

    def step(world: World) -> None:
        moved = world.pick("Customer", customer)
        world.build.run(
            'UPDATE "Customer" SET "tenantId" = :tenant, "lastOrderDate" = NULL WHERE id = :id '
            'AND "tenantId" <> :tenant',
            tenant=tenant,
            id=moved,
        )
        if with_orders:
            world.build.run(
                'UPDATE "Order" SET "tenantId" = :tenant WHERE "customerId" = :id',
                tenant=tenant,
                id=moved,
            )

    return step


def delete(table: str, index: int) -> Step:
    return lambda world: world.build.run(
        f'DELETE FROM "{table}" WHERE id = :id', id=world.pick(table, index)
    )


def set_policy(tenant: UUID, policy: Policy) -> Step:
    def step(world: World) -> None:
        world.policies[tenant] = policy
        world.build.run(
            "UPDATE leora_pipeline.tenant_policy SET threshold_unit = :unit, "
            "active_within = :active, target_within = :target WHERE tenant_id = :tenant",
            unit=policy.unit,
            active=policy.active_within,
            target=policy.target_within,
            tenant=tenant,
        )

    return step


def run(mode: Mode, days_ago: int | None) -> Step:
    return lambda world: world.run(mode, days_ago)


def pass_time(days: float) -> Step:
    """Lets time pass, by moving everything else back, unseen by the triggers."""

    def step(world: World) -> None:
        with transaction(world.build.engine) as connection:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for table, columns in (
                ('"Order"', ('"orderedAt"',)),
                ('"Customer"', ('"lastOrderDate"',)),
                (
                    "leora_pipeline.customer_state",
                    ("last_order_at", "next_order_at", "imported_order_at", "synced_order_at"),
                ),
            ):
                sets = ", ".join(f"{one} = {one} - {days} * interval '24 hours'" for one in columns)
                connection.exec_driver_sql(f"UPDATE {table} SET {sets}")

    return step


def listen_to_pending(tenant: UUID) -> Step:
    return lambda world: take_pending(world.engine, LISTENER, tenant, after=0)


def listen_to_actionable(tenant: UUID) -> Step:
    return lambda world: take_actionable(world.engine, LISTENER, tenant)


CALL_HOOK = "SELECT * FROM leora_pipeline.after_order_create(CAST(:ids AS uuid[]))"


def call_hook(customers: Sequence[int]) -> Step:
    return lambda world: world.build.run(
        CALL_HOOK, ids=[world.pick("Customer", customer) for customer in customers]
    )


def call_hook_within(
    customer: int, before: int | None, after: int | None, cancel: bool, commit: bool
) -> Step:
    """Calls the hook in a transaction of the CRM's own, amid its changes.

    Args:
        customer: Whom all this is about.
        before: How many days ago the order was placed that is added before the call, if any.
        after: The same of one that is added after it.
        cancel: Whether the customer's older orders are cancelled, before the call.
        commit: Whether the transaction is committed, or rolled back.
    """

    def step(world: World) -> None:
        picked = world.pick("Customer", customer)

        def add(connection: sa.Connection, days: int | None) -> None:
            if days is not None:
                connection.execute(
                    sa.text(
                        'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", '
                        '"updatedAt") SELECT gen_random_uuid(), c."tenantId", c.id, \'SUBMITTED\', '
                        ':ordered, now() FROM "Customer" AS c WHERE c.id = :id'
                    ),
                    {"id": picked, "ordered": stored(ago(days=days))},
                )

        with world.build.engine.connect() as connection:
            if cancel:
                connection.execute(
                    sa.text('UPDATE "Order" SET status = \'CANCELLED\' WHERE "customerId" = :id'),
                    {"id": picked},
                )
            add(connection, before)
            connection.execute(sa.text(CALL_HOOK), {"ids": [picked]})
            add(connection, after)
            if commit:
                connection.commit()
            else:
                connection.rollback()

    return step


def histories() -> st.SearchStrategy[list[Step]]:
    """Some customers with orders, and then up to sixteen changes, runs, batches and calls."""
    index = st.integers(0, 20)
    tenant = st.sampled_from(TENANTS)
    days = st.none() | st.sampled_from(DAYS_AGO)
    status = st.sampled_from(STATUSES)
    type_ = st.sampled_from(TYPES)
    customers = st.builds(add_customer, tenant, type_)
    orders = st.builds(add_orders, index, st.lists(days, min_size=1, max_size=3), status)
    runs = st.builds(
        run,
        st.sampled_from(["incremental", "incremental", "full"]),
        st.none() | st.sampled_from([0, 10, 50, 190]),
    )
    changes = st.one_of(
        customers,
        orders,
        runs,
        runs,
        st.builds(listen_to_pending, tenant),
        st.builds(listen_to_pending, tenant),
        st.builds(listen_to_actionable, tenant),
        st.builds(call_hook, st.lists(index, min_size=1, max_size=3)),
        st.builds(call_hook_within, index, days, days, st.booleans(), st.booleans()),
        st.builds(pass_time, st.sampled_from(DAYS_THAT_PASS)),
        st.builds(pass_time, st.sampled_from(DAYS_THAT_PASS)),
        st.builds(redate, index, days),
        st.builds(
            lambda i, s: change("Order", i, 'status = CAST(:s AS "OrderStatus")', s=s),
            index,
            status,
        ),
        st.builds(lambda i: change("Order", i, "id = gen_random_uuid()"), index),
        st.builds(lambda i, t: change("Order", i, '"tenantId" = :t', t=t), index, tenant),
        st.builds(move_order, index, index),
        st.builds(move_customer, index, tenant, st.booleans()),
        st.builds(set_type, index, type_),
        st.builds(set_type, index, st.just("HOLD")),
        st.builds(delete, st.sampled_from(["Order", "Customer"]), index),
        st.builds(set_policy, tenant, st.sampled_from(POLICIES)),
    )
    return st.builds(
        lambda *parts: [step for part in parts for step in part],
        st.lists(customers, min_size=1, max_size=4),
        st.lists(orders, min_size=2, max_size=6),
        st.lists(changes, min_size=6, max_size=16),
    )


def aware(instant: datetime | None) -> datetime | None:
    return instant.replace(tzinfo=UTC) if instant else None


def read_customers(world: World) -> dict[UUID, Any]:
    return {row.id: row for row in world.build.run('SELECT * FROM "Customer"')}


def expected(world: World, as_of: datetime) -> dict[UUID, tuple[str | None, datetime | None]]:
    """Returns the type and date that the oracle gives each customer.

    No date was ever imported, so that it makes no difference whether a run saw an order.
    """
    orders = world.build.run(
        'SELECT "tenantId" AS tenant, "customerId" AS customer, status::text, '
        '"orderedAt" AS ordered FROM "Order"'
    )
    verdicts = {
        key: judge(
            world.policies[row.tenantId],
            as_of,
            crm_type=row.accountType,
            crm_date=aware(row.lastOrderDate),
            orders=[
                (order.status, aware(order.ordered))
                for order in orders
                if (order.tenant, order.customer) == (row.tenantId, key)
            ],
            memory=Memory(ever_ordered=True),
        )
        for key, row in read_customers(world).items()
    }
    return {key: (verdict.type, verdict.date) for key, verdict in verdicts.items()}


def assert_the_log_explains_all_types(world: World) -> None:
    """Asserts that each transition begins where the last one ended, or at what people set."""
    for customer, row in read_customers(world).items():
        story: list[tuple[int, str, str | None, str | None]] = [
            (one.logged, "hand", None, one.type)
            for one in world.by_hand
            if one.customer == customer
        ]
        story += [
            (entry.transition_id, "log", entry.from_type, entry.to_type)
            for entry in world.build.run(
                "SELECT transition_id, from_type, to_type "
                "FROM leora_pipeline.account_type_transition WHERE customer_id = :id",
                id=customer,
            )
        ]
        # What was set by hand after an entry of the log comes behind it, in the order of setting.
        story.sort(key=lambda event: (event[0], event[1] == "hand"))
        type_ = None
        for _, what, before, after in story:
            assert what == "hand" or (before == type_ and before != after), story
            type_ = after
        assert type_ == row.accountType, story


def take_all(world: World) -> None:
    """Takes all there is, as a listener does."""
    for attempt in count():
        left = actionable_tenants(world.engine, resolve_run(world.engine, mode="incremental"))
        if not left and not world.build.pending():
            return
        assert attempt < 100, "it never comes to rest"
        for tenant in TENANTS:
            while take_pending(world.engine, LISTENER, tenant, after=0).is_full:
                pass
            take_actionable(world.engine, LISTENER, tenant)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    history=histories(),
    last=st.sampled_from(["incremental run", "listener"]),
    batch_size=st.sampled_from([1, 2, 3, batch.LISTENER_BATCH]),
)
def test_after_any_history_all_is_as_the_oracle_says_once_everything_pending_is_taken(
    engine: sa.Engine, admin: sa.Engine, history: list[Step], last: str, batch_size: int
) -> None:
    world = World(engine, admin)
    world.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "LISTENER_BATCH", batch_size)
        for step in history:
            step(world)

        run_ = resolve_run(engine, mode="incremental")
        if last == "listener":
            take_all(world)
        else:
            run_all_steps(engine, run_)

    with transaction(engine) as connection:
        as_of = now(connection)
    assert {
        key: (row.accountType, aware(row.lastOrderDate))
        for key, row in read_customers(world).items()
    } == expected(world, as_of)
    assert_the_log_explains_all_types(world)
    assert world.build.pending() == set()
    assert (
        actionable_tenants(engine, replace(run_, writer=replace(run_.writer, run_id="again"))) == []
    )
    assert world.build.run("SELECT status FROM leora_pipeline.tenant_run WHERE error <> ''") == []
    assert not world.build.run("SELECT FROM leora_pipeline.customer_state WHERE failures > 0")

    settled = everything(world.build)
    # A look at everybody finds nobody who was missed.
    world.run("full")
    assert [settled[0], settled[2]] == [everything(world.build)[0], everything(world.build)[2]]
