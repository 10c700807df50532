"""Tests that the sample CRM is what the demo, the other tests and the benchmarks take it for.

What belongs here: that the sample is the same each time, arrives at the counts it promises and
holds every kind of customer and order that has misled a job like this. What does not: the pipeline.
The rule is written out here once more, so that the sample stands on its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from leora_pipeline.sample import (
    DEMO_TENANTS,
    SampleTenant,
    create_tables,
    load,
    scaled_tenants,
    tables_exist,
)

ANCHOR = datetime(2025, 11, 20, 9, 30, 12, 345_678, tzinfo=UTC)
STATUSES = {
    "DRAFT",
    "SUBMITTED",
    "FULFILLED",
    "CANCELLED",
    "PARTIALLY_FULFILLED",
    "PENDING",
    "READY_TO_DELIVER",
    "PICKED",
    "DELIVERED",
}
TABLES = ("Tenant", "Customer", "Order")


@dataclass(frozen=True)
class Order:
    """An order as the CRM has it."""

    status: str
    ordered_at: datetime | None
    created_at: datetime

    def counts(self, as_of: datetime) -> bool:
        """Tells whether the order counts for the last order date."""
        return (
            self.status not in {"DRAFT", "CANCELLED"}
            and self.ordered_at is not None
            and self.ordered_at <= as_of
        )


@dataclass(frozen=True)
class Customer:
    """A customer as the CRM has it, with its orders."""

    slug: str
    account_type: str | None
    crm_date: datetime | None
    imported: bool
    closed: bool
    created_at: datetime
    orders: tuple[Order, ...]

    def last_order_at(self, as_of: datetime) -> datetime | None:
        """Returns the date of the last order that counts."""
        return max(
            (order.ordered_at for order in self.orders if order.ordered_at and order.counts(as_of)),
            default=None,
        )

    def derived(self, as_of: datetime) -> str:
        """Returns the type that the rule gives, or HOLD."""
        last = self.last_order_at(as_of) or self.crm_date
        if self.account_type == "HOLD":
            return "HOLD"
        if last is None or last > as_of or last < as_of - timedelta(days=365):
            return "PROSPECT"
        return "ACTIVE" if last >= as_of - timedelta(days=180) else "TARGET"

    def has_younger(self, status: str, as_of: datetime) -> bool:
        """Tells whether an order of a status is younger than the last one that counts."""
        last = self.last_order_at(as_of)
        return any(
            order.status == status and order.ordered_at is not None and order.ordered_at > last
            for order in self.orders
            if last is not None
        )


def _customers(engine: sa.Engine) -> list[Customer]:
    """Returns the CRM's customers with their orders."""
    with engine.connect() as connection:
        orders: dict[object, list[Order]] = {}
        for row in connection.execute(
            sa.text('SELECT "customerId", "status"::text, "orderedAt", "createdAt" FROM "Order"')
        ):
            ordered_at = row[2] and row[2].replace(tzinfo=UTC)
            orders.setdefault(row[0], []).append(
                Order(row[1], ordered_at, row[3].replace(tzinfo=UTC))
            )
        rows = connection.execute(
            sa.text(
                'SELECT c."id", t."slug", c."accountType"::text, c."lastOrderDate",'
                ' c."csvImportedAt" IS NOT NULL, c."isPermanentlyClosed", c."createdAt"'
                ' FROM "Customer" c JOIN "Tenant" t ON t."id" = c."tenantId"'
            )
        )
        return [
            Customer(
                slug=slug,
                account_type=account_type,
                crm_date=crm_date and crm_date.replace(tzinfo=UTC),
                imported=imported,
                closed=closed,
                created_at=created_at.replace(tzinfo=UTC),
                orders=tuple(orders.get(identity, ())),
            )
            for identity, slug, account_type, crm_date, imported, closed, created_at in rows
        ]


def _load(
    engine: sa.Engine, *, tenants: tuple[SampleTenant, ...] = DEMO_TENANTS, seed: int = 1
) -> None:
    """Loads a sample."""
    with engine.begin() as connection:
        load(connection, tenants, seed=seed, anchor=ANCHOR)


def _digests(engine: sa.Engine) -> dict[str, str]:
    """Returns a digest of each table's rows."""
    with engine.connect() as connection:
        return {
            table: connection.execute(
                sa.text(
                    f"SELECT md5(string_agg(row_of::text, '/' ORDER BY row_of.id))"
                    f' FROM "{table}" AS row_of'
                )
            ).scalar_one()
            for table in TABLES
        }


def _keys(engine: sa.Engine) -> list[str]:
    """Returns the definitions of all indexes and constraints of the CRM."""
    with engine.connect() as connection:
        return list(
            connection.scalars(
                sa.text(
                    "SELECT indexdef AS definition FROM pg_indexes"
                    " WHERE tablename IN ('Tenant', 'Customer', 'Order')"
                    " UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid)"
                    " FROM pg_constraint WHERE conrelid IN"
                    """ ('"Tenant"'::regclass, '"Customer"'::regclass, '"Order"'::regclass)"""
                    " ORDER BY definition"
                )
            )
        )


@pytest.fixture
def demo(crm: sa.Engine) -> list[Customer]:
    """Loads the demo's tenants and gives their customers."""
    _load(crm)
    return _customers(crm)


def test_the_same_arguments_give_the_same_rows(crm: sa.Engine) -> None:
    _load(crm)
    first = _digests(crm)
    with crm.begin() as connection:
        connection.execute(sa.text('TRUNCATE "Tenant" CASCADE'))
    _load(crm)
    assert _digests(crm) == first


def test_another_seed_gives_other_rows_and_the_same_counts(crm: sa.Engine) -> None:
    tenants = scaled_tenants(2, 400)
    _load(crm, tenants=tenants)
    first = _digests(crm)
    counts = Counter((customer.slug, customer.derived(ANCHOR)) for customer in _customers(crm))
    with crm.begin() as connection:
        connection.execute(sa.text('TRUNCATE "Tenant" CASCADE'))
    _load(crm, tenants=tenants, seed=2)
    second = _digests(crm)
    assert all(first[table] != second[table] for table in TABLES)
    assert counts == Counter(
        (customer.slug, customer.derived(ANCHOR)) for customer in _customers(crm)
    )


def test_tenants_can_be_added_to_those_there(crm: sa.Engine) -> None:
    _load(crm)
    _load(crm, tenants=scaled_tenants(2, 400))
    counts = Counter(customer.slug for customer in _customers(crm))
    assert counts["well-crafted"] == 1800
    assert counts["wholesaler-001"] == counts["wholesaler-002"] == 200


@pytest.mark.parametrize("later", [timedelta(), timedelta(days=1), timedelta(days=2)])
def test_each_tenant_arrives_at_its_counts(demo: list[Customer], later: timedelta) -> None:
    counts = Counter((customer.slug, customer.derived(ANCHOR + later)) for customer in demo)
    for tenant in DEMO_TENANTS:
        assert {
            "ACTIVE": counts[tenant.slug, "ACTIVE"],
            "TARGET": counts[tenant.slug, "TARGET"],
            "PROSPECT": counts[tenant.slug, "PROSPECT"],
            "HOLD": counts[tenant.slug, "HOLD"],
        } == {
            "ACTIVE": tenant.active,
            "TARGET": tenant.target,
            "PROSPECT": tenant.prospect,
            "HOLD": tenant.hold,
        }
    assert sum(counts.values()) == len(demo)


def test_the_demo_shows_each_verdict() -> None:
    share = {
        tenant.slug: (100 * tenant.active / total, 100 * tenant.target / total, total)
        for tenant in DEMO_TENANTS
        if (total := tenant.active + tenant.target + tenant.prospect)
    }
    for healthy in ("well-crafted", "bay-and-barrel"):
        assert 60 <= share[healthy][0] <= 75
        assert 5 <= share[healthy][1] <= 15
    assert share["old-river-spirits"][0] < 50
    assert share["old-river-spirits"][1] < 20
    assert share["summit-cellars"][0] >= 50
    assert share["summit-cellars"][1] > 20
    assert share["corner-cask"][2] < 20
    assert "first-press" not in share


@pytest.mark.parametrize(("tenants", "customers"), [(1, 1), (3, 1000), (10, 100_003), (7, 3)])
def test_scaled_tenants_share_all_customers(tenants: int, customers: int) -> None:
    scaled = scaled_tenants(tenants, customers)
    sizes = [tenant.active + tenant.target + tenant.prospect + tenant.hold for tenant in scaled]
    assert len({tenant.slug for tenant in scaled}) == tenants
    assert sum(sizes) == customers
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("slug", ["well-crafted", "bay-and-barrel", "old-river-spirits"])
def test_every_kind_of_customer_is_there(demo: list[Customer], slug: str) -> None:
    customers = [customer for customer in demo if customer.slug == slug]
    ordering = [customer for customer in customers if customer.last_order_at(ANCHOR)]
    orders = [order for customer in customers for order in customer.orders]

    assert {order.status for order in orders} == STATUSES
    assert any(customer.has_younger("CANCELLED", ANCHOR) for customer in ordering)
    assert any(customer.has_younger("DRAFT", ANCHOR) for customer in ordering)
    assert any(order.ordered_at is None and order.status == "DRAFT" for order in orders)
    assert any(order.ordered_at is None and order.status == "SUBMITTED" for order in orders)
    assert any(
        order.ordered_at and order.created_at - order.ordered_at > timedelta(days=59)
        for order in orders
    )

    imported = [customer for customer in customers if customer.imported]
    assert {customer.derived(ANCHOR) for customer in imported} >= {"ACTIVE", "TARGET", "PROSPECT"}
    assert all(customer.crm_date and not customer.orders for customer in imported)

    prospects = [c for c in customers if c.derived(ANCHOR) == "PROSPECT" and not c.imported]
    assert any(not customer.orders for customer in prospects)
    assert any(customer.orders and not customer.last_order_at(ANCHOR) for customer in prospects)
    assert any(customer.last_order_at(ANCHOR) for customer in prospects)

    held = [customer for customer in customers if customer.account_type == "HOLD"]
    assert any(customer.orders for customer in held)
    assert any(customer.closed for customer in customers)


def test_future_orders_stay_ahead_for_days(demo: list[Customer]) -> None:
    future = [
        order
        for customer in demo
        for order in customer.orders
        if order.ordered_at and order.ordered_at > ANCHOR
    ]
    assert future
    assert all(
        order.ordered_at and order.ordered_at > ANCHOR + timedelta(days=3) for order in future
    )
    assert all(order.created_at <= ANCHOR for order in future)


def test_the_crm_is_stale_but_mostly_right(demo: list[Customer]) -> None:
    script_at = ANCHOR - timedelta(days=240)
    for slug in ("well-crafted", "bay-and-barrel"):
        judged = [c for c in demo if c.slug == slug and c.account_type != "HOLD"]
        right = sum(customer.account_type == customer.derived(ANCHOR) for customer in judged)
        assert 0.6 < right / len(judged) < 0.8
        assert all(
            (customer.account_type is None) == (customer.created_at > script_at)
            for customer in judged
        )


def test_few_dates_of_the_crm_will_go_back(demo: list[Customer]) -> None:
    counts = Counter(customer.slug for customer in demo)
    ahead = Counter(
        customer.slug
        for customer in demo
        if customer.orders
        and customer.crm_date
        and customer.crm_date > (customer.last_order_at(ANCHOR) or datetime.min.replace(tzinfo=UTC))
    )
    assert ahead["well-crafted"]
    assert all(ahead[slug] < 0.01 * counts[slug] for slug in counts)


def test_no_order_is_older_than_its_customer(demo: list[Customer]) -> None:
    assert all(
        customer.created_at <= order.created_at <= ANCHOR
        for customer in demo
        for order in customer.orders
    )


@pytest.mark.parametrize("table", ["Customer", "Order"])
def test_tenants_are_interleaved_as_rows_came(crm: sa.Engine, table: str) -> None:
    tenants = scaled_tenants(5, 2_000)
    _load(crm, tenants=tenants)
    with crm.connect() as connection:
        rows = connection.execute(sa.text(f'SELECT "tenantId" FROM "{table}" ORDER BY ctid')).all()
        correlation = connection.execute(
            sa.text(
                "SELECT correlation FROM pg_stats"
                " WHERE schemaname = 'public' AND tablename = :table AND attname = 'createdAt'"
            ),
            {"table": table},
        ).scalar_one()
    for start in range(0, len(rows) - 100, 100):
        assert len({row[0] for row in rows[start : start + 100]}) == len(tenants)
    assert correlation > 0.9


def test_a_load_leaves_the_keys_as_they_were(crm: sa.Engine) -> None:
    keys = _keys(crm)
    _load(crm, tenants=scaled_tenants(1, 20))
    assert _keys(crm) == keys


def test_tables_are_created_where_there_are_none(crm: sa.Engine) -> None:
    with crm.connect() as connection:
        connection.execute(sa.text("CREATE SCHEMA elsewhere"))
        connection.execute(sa.text("SET LOCAL search_path TO elsewhere"))
        assert not tables_exist(connection)
        create_tables(connection)
        assert tables_exist(connection)
        connection.rollback()


def test_an_anchor_without_a_time_zone_is_refused(crm: sa.Engine) -> None:
    with crm.connect() as connection, pytest.raises(ValueError, match="time zone"):
        load(connection, DEMO_TENANTS, anchor=ANCHOR.replace(tzinfo=None))
