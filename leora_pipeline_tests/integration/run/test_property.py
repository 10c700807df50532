"""Whatever the CRM holds and whatever happens to it, a full run ends as the oracle says.

Hypothesis makes up CRMs of several tenants and rounds of changes to them, with dates that crowd
around the thresholds; after each round, the database is compared with `oracle.judge`, customer by
customer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leora_pipeline import AccountTypeUpdateResult, update_account_types
from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.crm_builder import stored
from leora_pipeline_tests.oracle import KNOWN_TYPES, Memory, Policy, Verdict, judge

MILLISECOND = timedelta(milliseconds=1)
STATUSES = (
    "DRAFT",
    "SUBMITTED",
    "FULFILLED",
    "CANCELLED",
    "PARTIALLY_FULFILLED",
    "PENDING",
    "READY_TO_DELIVER",
    "PICKED",
    "DELIVERED",
)
TYPES = (None, "ACTIVE", "TARGET", "PROSPECT", "HOLD", "CLOSED")
"""All types of the CRM, with one that it could add some day."""

POLICIES = (
    None,
    Policy(uncounted=frozenset()),
    Policy("day", 30, 31, frozenset({"DRAFT", "CANCELLED", "PENDING"})),
    Policy("month", 1, 2),
    Policy("month", 6, 12),
)
"""None is a tenant without a policy of its own."""

MONTH_ENDS = (
    datetime(2020, 2, 29, 23, 59, 59, 999000, UTC),
    datetime(2020, 3, 31, tzinfo=UTC),
    datetime(2021, 8, 31, 12, 34, 56, 789000, UTC),
    datetime(2021, 12, 31, 0, 0, 0, 1000, UTC),
)
TENANTS = tuple(UUID(int=n) for n in (1, 2, 3))
UNTOUCHED = datetime(2001, 2, 3)  # noqa: DTZ001  As the CRM stores it.


@dataclass(frozen=True)
class Customer:
    tenant: UUID
    type: str | None
    date: datetime | None


@dataclass(frozen=True)
class Order:
    tenant: UUID
    customer: UUID
    status: str
    date: datetime | None


@dataclass
class Crm:
    """What the CRM holds, in memory."""

    policies: dict[UUID, Policy | None] = field(default_factory=dict)
    customers: dict[UUID, Customer] = field(default_factory=dict)
    orders: dict[UUID, Order] = field(default_factory=dict)
    made: int = 100

    def new_id(self) -> UUID:
        """Returns ids that do not ascend in the order in which they are made."""
        self.made += 1
        return UUID(int=self.made * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)

    def policy(self, tenant: UUID) -> Policy:
        return self.policies[tenant] or Policy()


Change = Callable[[Crm], None]


@st.composite
def instants(draw: st.DrawFn) -> list[datetime]:
    """The instants of one to three runs, none before the one before it."""
    first = draw(
        st.sampled_from(MONTH_ENDS)
        | st.integers(0, 700 * 86_400_000).map(
            lambda n: datetime(2020, 1, 1, tzinfo=UTC) + n * MILLISECOND
        )
    )
    steps = draw(
        st.lists(
            st.sampled_from([timedelta(0), MILLISECOND, timedelta(days=1), timedelta(days=186)]),
            max_size=2,
        )
    )
    found = [first]
    for step in steps:
        found.append(found[-1] + step)
    return found


def dates(as_ofs: list[datetime], policies: list[Policy | None]) -> st.SearchStrategy[Any]:
    """No date, or one at, right before, right after or well off what a run compares with."""
    edges = [
        edge
        for as_of in as_ofs
        for policy in {policy or Policy() for policy in policies}
        for edge in (
            as_of,
            policy.since(as_of, policy.active_within),
            policy.since(as_of, policy.target_within),
        )
    ]
    nudges = [timedelta(0), -MILLISECOND, MILLISECOND, timedelta(days=-5), timedelta(days=5)]
    return st.none() | st.builds(
        lambda edge, nudge: edge + nudge, st.sampled_from(edges), st.sampled_from(nudges)
    )


def pick(items: dict[UUID, Any], index: int) -> UUID | None:
    """Returns one of the keys, whatever the index."""
    keys = list(items)
    return keys[index % len(keys)] if keys else None


def add_customer(tenant: UUID, type_: str | None, date: datetime | None) -> Change:
    def change(crm: Crm) -> None:
        crm.customers[crm.new_id()] = Customer(tenant, type_, date)

    return change


def add_order(index: int, status: str, date: datetime | None, stray: UUID | None) -> Change:
    """Adds an order; a stray one names another tenant than its customer's, and does not count."""

    def change(crm: Crm) -> None:
        if customer := pick(crm.customers, index):
            tenant = stray or crm.customers[customer].tenant
            crm.orders[crm.new_id()] = Order(tenant, customer, status, date)

    return change


def change_order(index: int, **values: Any) -> Change:
    def change(crm: Crm) -> None:
        if order := pick(crm.orders, index):
            crm.orders[order] = replace(crm.orders[order], **values)

    return change


def delete_order(index: int) -> Change:
    def change(crm: Crm) -> None:
        if order := pick(crm.orders, index):
            del crm.orders[order]

    return change


def move_order(index: int, to: int) -> Change:
    def change(crm: Crm) -> None:
        order, customer = pick(crm.orders, index), pick(crm.customers, to)
        if order and customer:
            tenant = crm.customers[customer].tenant
            crm.orders[order] = replace(crm.orders[order], customer=customer, tenant=tenant)

    return change


def change_customer(index: int, **values: Any) -> Change:
    def change(crm: Crm) -> None:
        if customer := pick(crm.customers, index):
            crm.customers[customer] = replace(crm.customers[customer], **values)

    return change


def delete_customer(index: int) -> Change:
    def change(crm: Crm) -> None:
        if customer := pick(crm.customers, index):
            del crm.customers[customer]
            for order in [key for key, o in crm.orders.items() if o.customer == customer]:
                del crm.orders[order]

    return change


def set_policy(tenant: UUID, policy: Policy | None) -> Change:
    def change(crm: Crm) -> None:
        crm.policies[tenant] = policy

    return change


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[datetime, bool, list[Change]]]:
    """Rounds: an instant, whether dates are written, and what happens to the CRM before."""
    as_ofs = draw(instants())
    policies = draw(st.lists(st.sampled_from(POLICIES), min_size=3, max_size=3))
    date = dates(as_ofs, policies)
    index = st.integers(0, 30)
    tenant = st.sampled_from(TENANTS)
    status = st.sampled_from(STATUSES) | st.just("FULFILLED")
    customer = st.builds(add_customer, tenant, st.sampled_from(TYPES), date)
    order = st.builds(add_order, index, status, date, st.none() | st.none() | tenant)
    change = st.one_of(
        customer,
        order,
        st.builds(delete_order, index),
        st.builds(move_order, index, index),
        st.builds(lambda i, s: change_order(i, status=s), index, status),
        st.builds(lambda i, d: change_order(i, date=d), index, date),
        st.builds(lambda i, t: change_customer(i, type=t), index, st.sampled_from(TYPES)),
        st.builds(lambda i, d: change_customer(i, date=d), index, date),
        st.builds(lambda i, t: change_customer(i, tenant=t), index, tenant),
        st.builds(delete_customer, index),
        st.builds(set_policy, tenant, st.sampled_from(policies)),
    )
    beginning = [
        *(set_policy(t, p) for t, p in zip(TENANTS, policies, strict=True)),
        *draw(st.lists(customer, min_size=1, max_size=9)),
        *draw(st.lists(order, max_size=16)),
    ]
    return [
        (as_of, draw(st.booleans() | st.just(True)), draw(st.lists(change, max_size=12)))
        if round_
        else (as_of, draw(st.booleans() | st.just(True)), beginning)
        for round_, as_of in enumerate(as_ofs)
    ]


class Database:
    """The CRM's database, written and read in sets."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    def clear(self) -> None:
        """Begins anew, with the tenants alone."""
        with transaction(self.engine) as connection:
            connection.exec_driver_sql(
                'DELETE FROM "Tenant"; DELETE FROM leora_pipeline.tenant_policy; '
                "DELETE FROM leora_pipeline.customer_state; "
                "DELETE FROM leora_pipeline.account_type_change; "
                "DELETE FROM leora_pipeline.account_type_transition; "
                "DELETE FROM leora_pipeline.tenant_run; DELETE FROM leora_pipeline.tenant_hold; "
                "DELETE FROM leora_pipeline.account_type_distribution"
            )
            connection.execute(
                sa.text(
                    'INSERT INTO "Tenant" (id, slug, name, "updatedAt") '
                    "SELECT id, id::text, 'Shop', now() FROM unnest(:ids) AS t (id)"
                ),
                {"ids": list(TENANTS)},
            )

    def write(self, crm: Crm, before: Crm) -> None:
        """Brings the database to what the CRM holds now; customers that stay as they are, too."""
        customers = [
            {"id": key, "tenant": c.tenant, "type": c.type, "date": stored(c.date)}
            for key, c in crm.customers.items()
            if c != before.customers.get(key)
        ]
        orders = [
            {"id": key, "tenant": o.tenant, "customer": o.customer, "status": o.status}
            | {"date": stored(o.date)}
            for key, o in crm.orders.items()
        ]
        policies = [
            {"tenant": tenant, "unit": p.unit, "active": p.active_within}
            | {"target": p.target_within, "uncounted": sorted(p.uncounted)}
            for tenant, p in crm.policies.items()
            if p is not None
        ]
        with transaction(self.engine) as connection:

            def run(sql: str, rows: Any) -> None:
                if rows:
                    connection.execute(sa.text(sql), rows)

            connection.exec_driver_sql(
                'DELETE FROM "Order"; DELETE FROM leora_pipeline.tenant_policy'
            )
            run(
                'DELETE FROM "Customer" WHERE id <> ALL (CAST(:ids AS uuid[]))',
                {"ids": list(crm.customers)},
            )
            run(
                'INSERT INTO "Customer" (id, "tenantId", name, "accountType", "lastOrderDate", '
                '"updatedAt") VALUES (:id, :tenant, \'Shop\', CAST(:type AS "AccountType"), '
                ":date, '2001-02-03') ON CONFLICT (id) DO UPDATE SET "
                '"tenantId" = EXCLUDED."tenantId", "accountType" = EXCLUDED."accountType", '
                '"lastOrderDate" = EXCLUDED."lastOrderDate"',
                customers,
            )
            connection.exec_driver_sql('UPDATE "Customer" SET "updatedAt" = \'2001-02-03\'')
            run(
                'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", '
                '"updatedAt") VALUES (:id, :tenant, :customer, '
                'CAST(:status AS "OrderStatus"), :date, now())',
                orders,
            )
            run(
                "INSERT INTO leora_pipeline.tenant_policy "
                "SELECT * FROM leora_pipeline.effective_policy(:tenant)",
                policies,
            )
            run(
                "UPDATE leora_pipeline.tenant_policy SET threshold_unit = :unit, "
                "active_within = :active, target_within = :target, "
                "uncounted_statuses = :uncounted WHERE tenant_id = :tenant",
                policies,
            )

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """Returns all that a run may write of customers."""
        with transaction(self.engine) as connection:
            return {
                name: [
                    dict(row)
                    for row in connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()
                ]
                for name, table in (
                    ("customers", '"Customer" ORDER BY id'),
                    ("states", "leora_pipeline.customer_state ORDER BY tenant_id, customer_id"),
                    ("log", "leora_pipeline.account_type_transition ORDER BY transition_id"),
                )
            }


def aware(instant: datetime | None) -> datetime | None:
    return instant.replace(tzinfo=UTC) if instant else None


def verdicts(
    crm: Crm, memories: dict[tuple[UUID, UUID], Memory], as_of: datetime, write_dates: bool
) -> dict[UUID, Verdict]:
    """Returns what the oracle says of every customer."""
    return {
        key: judge(
            crm.policy(customer.tenant),
            as_of,
            crm_type=customer.type,
            crm_date=customer.date,
            orders=[
                (order.status, order.date)
                for order in crm.orders.values()
                if (order.tenant, order.customer) == (customer.tenant, key)
            ],
            memory=memories.get((customer.tenant, key), Memory()),
            write_dates=write_dates,
        )
        for key, customer in crm.customers.items()
    }


def assert_customers(found: list[dict[str, Any]], crm: Crm, expected: dict[UUID, Verdict]) -> None:
    """Asserts that the CRM's rows are as they should be, and touched only where they changed."""
    assert {row["id"]: (row["accountType"], aware(row["lastOrderDate"])) for row in found} == {
        key: (verdict.type, verdict.date) for key, verdict in expected.items()
    }
    for row in found:
        before, after = crm.customers[row["id"]], expected[row["id"]]
        is_changed = (before.type, before.date) != (after.type, after.date)
        assert (row["updatedAt"] != UNTOUCHED) == is_changed, row["id"]


def assert_states(found: list[dict[str, Any]], crm: Crm, expected: dict[UUID, Verdict]) -> None:
    """Asserts that the state says and remembers what it should, and waits for nothing."""
    assert [
        Memory(row["ever_ordered"], row["imported_order_at"])
        for row in sorted(found, key=lambda row: row["customer_id"])
    ] == [expected[key].memory for key in sorted(expected)]
    columns = ("account_type", "last_order_at", "next_order_at")
    assert {
        (row["tenant_id"], row["customer_id"]): tuple(row[column] for column in columns)
        for row in found
    } == {
        (crm.customers[key].tenant, key): (v.derived, v.last_order_at, v.next_order_at)
        for key, v in expected.items()
    }
    assert [row for row in found if row["needs_sync"]] == []


def assert_log(
    found: list[dict[str, Any]], crm: Crm, expected: dict[UUID, Verdict], as_of: datetime
) -> None:
    """Asserts that each change of type, and nothing else, was logged once."""
    columns = ("tenant_id", "customer_id", "from_type", "to_type", "last_order_at", "as_of")
    assert Counter(tuple(row[column] for column in columns) for row in found) == Counter(
        (crm.customers[key].tenant, key, crm.customers[key].type, v.type, v.last_order_at, as_of)
        for key, v in expected.items()
        if crm.customers[key].type != v.type
    )


def assert_results(
    found: list[AccountTypeUpdateResult], crm: Crm, expected: dict[UUID, Verdict]
) -> None:
    """Asserts that the run reports the counts as they stand, and what it moved."""
    for result in found:
        ours = {k: v for k, v in expected.items() if crm.customers[k].tenant == result.tenant_id}
        types = Counter(verdict.type for verdict in ours.values())
        moved = Counter(v.type for k, v in ours.items() if crm.customers[k].type != v.type)
        assert (result.active, result.target, result.prospect, result.pinned) == (
            *(types[name] for name in KNOWN_TYPES),
            types["HOLD"] + types["CLOSED"],
        )
        assert result.changed == {name: moved[name] for name in KNOWN_TYPES}
        assert not result.held


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(history=histories())
def test_every_run_ends_as_the_oracle_says_and_a_second_one_changes_nothing(
    engine: sa.Engine,
    admin: sa.Engine,
    monkeypatch: pytest.MonkeyPatch,
    history: list[tuple[datetime, bool, list[Change]]],
) -> None:
    with transaction(admin) as connection:
        connection.exec_driver_sql("ALTER TYPE \"AccountType\" ADD VALUE IF NOT EXISTS 'CLOSED'")
    database = Database(admin)
    database.clear()
    crm, written = Crm(), Crm()
    memories: dict[tuple[UUID, UUID], Memory] = {}
    logged = 0

    def run(as_of: datetime) -> list[AccountTypeUpdateResult]:
        # The gate has tests of its own; here, everything that happens is meant.
        everybody = [str(tenant) for tenant in TENANTS]
        return update_account_types(
            as_of=as_of, allow_mass_change=everybody, reason="it is a test", engine=engine
        )

    for as_of, write_dates, changes in history:
        monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", str(write_dates))
        for change in changes:
            change(crm)
        database.write(crm, written)
        expected = verdicts(crm, memories, as_of, write_dates)

        results = run(as_of)

        found = database.read()
        assert_customers(found["customers"], crm, expected)
        assert_states(found["states"], crm, expected)
        assert_log(found["log"][logged:], crm, expected, as_of)
        assert_results(results, crm, expected)

        run(as_of)
        assert database.read() == found

        logged = len(found["log"])
        memories = {(crm.customers[key].tenant, key): v.memory for key, v in expected.items()}
        for key, verdict in expected.items():
            crm.customers[key] = replace(crm.customers[key], type=verdict.type, date=verdict.date)
        written = Crm(customers=dict(crm.customers))


@pytest.mark.parametrize(
    ("as_of", "within", "since"),
    [
        (datetime(2021, 8, 31, 12, 34, tzinfo=UTC), 6, datetime(2021, 2, 28, tzinfo=UTC)),
        (datetime(2020, 8, 31, 23, 59, tzinfo=UTC), 6, datetime(2020, 2, 29, tzinfo=UTC)),
        (datetime(2021, 1, 15, tzinfo=UTC), 13, datetime(2019, 12, 15, tzinfo=UTC)),
        (datetime(2021, 12, 1, 0, 1, tzinfo=UTC), 12, datetime(2020, 12, 1, tzinfo=UTC)),
    ],
)
def test_months_count_from_utc_midnight(
    engine: sa.Engine, as_of: datetime, within: int, since: datetime
) -> None:
    with transaction(engine) as connection:
        found = connection.execute(
            sa.text("SELECT leora_pipeline.threshold(:as_of, 'month', :within)"),
            {"as_of": as_of, "within": within},
        ).scalar_one()

    assert found == since == Policy(unit="month").since(as_of, within)
