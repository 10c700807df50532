"""Whatever happens to the CRM and whatever runs meanwhile, one incremental run puts it right.

Hypothesis makes up sequences of changes, each a statement of the CRM's own, and of runs, full and
incremental, of now and of the past; after one more incremental run, every customer is compared with
the oracle. Dates lie days off the thresholds, since the last run goes by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leora_pipeline.core.database import now, transaction
from leora_pipeline.core.refresh import waiting_tenants
from leora_pipeline.core.runs import Mode, plan_run
from leora_pipeline.core.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.integration.test_interleavings import everything
from leora_pipeline_tests.oracle import Memory, Policy, judge

TENANTS = (UUID(int=1), UUID(int=2))
POLICIES = (Policy(), Policy(active_within=30, target_within=60), Policy("month", 4, 8))
DAYS_AGO = (1, 20, 40, 100, 140, 177, 183, 200, 300, 362, 368, 500, -2)
STATUSES = ("FULFILLED", "FULFILLED", "SUBMITTED", "DRAFT", "CANCELLED")
TYPES = (None, "ACTIVE", "TARGET", "PROSPECT", "HOLD")


class World:
    """A CRM under change, and the policies of its tenants."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.build = CrmBuilder(engine)
        self.policies = dict.fromkeys(TENANTS, Policy())

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

    def run(self, mode: Mode, days_ago: int | None = None) -> None:
        as_of = None if days_ago is None else ago(days=days_ago)
        run_all_steps(self.engine, plan_run(self.engine, mode=mode, as_of=as_of))


Step = Callable[[World], object]


def add_customer(tenant: UUID, account_type: str | None) -> Step:
    return lambda world: world.build.customer(tenant, account_type)


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


def histories() -> st.SearchStrategy[list[Step]]:
    """Some customers with orders, and then up to twelve changes and runs."""
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
        st.builds(
            lambda i, t: change("Customer", i, '"accountType" = CAST(:t AS "AccountType")', t=t),
            index,
            type_,
        ),
        st.builds(lambda i: change("Customer", i, "\"accountType\" = 'HOLD'"), index),
        st.builds(delete, st.sampled_from(["Order", "Customer"]), index),
        st.builds(set_policy, tenant, st.sampled_from(POLICIES)),
    )
    return st.builds(
        lambda *parts: [step for part in parts for step in part],
        st.lists(customers, min_size=1, max_size=4),
        st.lists(orders, max_size=5),
        st.lists(changes, max_size=12),
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


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories())
def test_an_incremental_run_after_any_history_ends_as_the_oracle_says(
    engine: sa.Engine, history: list[Step]
) -> None:
    world = World(engine)
    world.clear()
    for step in history:
        step(world)

    last = plan_run(engine, mode="incremental")
    run_all_steps(engine, last)

    with transaction(engine) as connection:
        as_of = now(connection)
    assert {
        key: (row.accountType, aware(row.lastOrderDate))
        for key, row in read_customers(world).items()
    } == expected(world, as_of)
    assert world.build.pending() == set()
    assert waiting_tenants(engine, replace(last, run_id="again")) == []
    assert world.build.run("SELECT status FROM leora_pipeline.tenant_run WHERE error <> ''") == []

    settled = everything(world.build)
    # A look at everybody finds nobody whom the incremental runs missed.
    world.run("full")
    assert [settled[0], settled[2]] == [everything(world.build)[0], everything(world.build)[2]]
