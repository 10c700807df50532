"""History: why a customer has its type today, every change of it, and which of its orders count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import WrongUsageError, update_account_types, update_customer_account_type
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.reporting.history import AccountTypeToday, CustomerOrder, read_history
from leora_pipeline_tests.crm_builder import CrmBuilder, ago


def today_of(engine: sa.Engine, customer: UUID, **options: Any) -> AccountTypeToday:
    """Returns what is said of a customer's type today."""
    today = read_history(engine, customer, **options).today
    assert today is not None
    return today


def orders_of(engine: sa.Engine, customer: UUID) -> dict[UUID, CustomerOrder]:
    """Returns a customer's orders by their ids."""
    return {order.order_id: order for order in read_history(engine, customer).orders}


# Today.


@pytest.mark.parametrize(
    ("days", "reported"),
    [
        (12.5, "ACTIVE: ordered 12 days ago (within 180 days), on {date}."),
        (212.5, "TARGET: ordered 212 days ago (180-365 days), on {date}."),
        (400.5, "PROSPECT: ordered 400 days ago (over 365 days), on {date}."),
        (None, "PROSPECT: never ordered."),
    ],
)
def test_the_type_is_explained_by_the_last_order(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, days: float | None, reported: str
) -> None:
    ordered = ago(days=days) if days is not None else None
    customer = build.customer(tenant, orders=(ordered,) if ordered else ())
    update_account_types(engine=engine)

    today = today_of(engine, customer)

    assert today.explanation == reported.format(date=ordered and f"{ordered:%Y-%m-%d}")
    assert today.crm_type == today.account_type == reported.split(":", maxsplit=1)[0]
    assert (today.last_order_at, today.crm_order_at) == (ordered, ordered)
    assert (today.is_pinned, today.is_imported, today.cause) == (False, False, None)
    assert today.outlook == ()


def test_a_pinned_type_is_reported_with_what_it_would_be_otherwise(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=12.5),))
    update_account_types(engine=engine)
    build.set_type(customer, "HOLD")

    today = today_of(engine, customer)

    assert (today.crm_type, today.account_type, today.is_pinned) == ("HOLD", "ACTIVE", True)
    assert today.explanation.startswith(
        "HOLD: set by people, and the pipeline never changes it; "
        "it would otherwise be ACTIVE: ordered 12 days ago"
    )
    assert today.cause is None
    [line] = today.outlook
    assert line.endswith("waits to be looked at."), "and nothing is to be written"


def test_an_imported_date_is_reported_as_one_until_an_order_counts(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, last_order=ago(days=200))
    build.order(tenant, customer, ago(days=3), "DRAFT")
    update_account_types(engine=engine)

    imported = today_of(engine, customer)
    build.order(tenant, customer, ago(days=2))
    ordered = today_of(engine, customer)

    assert (imported.account_type, imported.is_imported) == ("TARGET", True)
    assert imported.explanation.endswith(", a date imported into the CRM; no order counts.")
    assert (ordered.account_type, ordered.is_imported) == ("ACTIVE", False)
    assert "imported" not in ordered.explanation


def test_the_tenants_own_policy_is_what_explains(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=40),))
    order = build.order(tenant, customer, ago(days=1), "PENDING")
    build.run(
        "INSERT INTO leora_pipeline.tenant_policy SELECT (jsonb_populate_record(p, "
        '\'{"active_within": 30, "target_within": 60, "uncounted_statuses": ["PENDING"]}\')).* '
        "FROM leora_pipeline.effective_policy(:tenant) AS p",
        tenant=tenant,
    )

    assert "TARGET: ordered 40 days ago (30-60 days)" in today_of(engine, customer).explanation
    assert orders_of(engine, customer)[order].exclusion == "PENDING does not count"


# Where the CRM differs.


def test_a_change_that_is_pending_is_reported_with_the_run_that_takes_it_up(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    update_account_types(engine=engine)
    ordered = ago(days=12.5)
    build.order(tenant, customer, ordered)

    today = today_of(engine, customer)

    assert (today.crm_type, today.account_type, today.cause) == ("PROSPECT", "ACTIVE", "order")
    assert today.pending_since is not None
    assert ago(minutes=1) < today.pending_since < ago(minutes=-1)
    assert today.explanation == (
        "PROSPECT in the CRM, but by the rule ACTIVE: ordered 12 days ago (within 180 days), "
        f"on {ordered:%Y-%m-%d}."
    )
    assert today.outlook == (
        "The CRM is behind: the last order date moved forward.",
        f"A change of {today.pending_since:%Y-%m-%d %H:%M:%S} UTC waits to be looked at.",
        f"The next incremental run writes ACTIVE and the last order date {ordered:%Y-%m-%d}; "
        "`leora update --tenant-slug cellar --incremental` does it now.",
    )


def test_a_change_that_nobody_captured_is_left_to_the_next_full_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    update_account_types(engine=engine)
    build.without_capture()
    build.order(tenant, customer, ago(days=1))

    today = today_of(engine, customer, write_dates=False)

    assert today.pending_since is None
    assert today.outlook[1:] == (
        "The next full run writes ACTIVE; `leora update --tenant-slug cellar` does it now.",
    )


def test_a_customer_whom_nobody_has_classified_has_no_type_yet(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    today = today_of(engine, build.customer(tenant))

    assert (today.crm_type, today.cause) == (None, None)
    assert today.explanation == "No type yet in the CRM, but by the rule PROSPECT: never ordered."


def test_a_customer_whose_row_was_locked_is_still_unsynced(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=1),))
    with transaction(build.engine) as somebody:
        somebody.execute(sa.text('SELECT FROM "Customer" FOR UPDATE'))
        update_account_types(engine=engine)

    today = today_of(engine, customer)

    assert (today.crm_type, today.account_type) == ("PROSPECT", "ACTIVE")
    assert today.pending_since is None
    assert "The next incremental run writes ACTIVE and" in today.outlook[-1]


def test_a_type_that_time_alone_has_outdated_is_the_next_incremental_runs(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(as_of=ago(days=30), engine=engine)

    today = today_of(engine, customer)

    assert (today.crm_type, today.account_type, today.cause) == ("ACTIVE", "TARGET", "age")
    assert today.outlook == (
        "The CRM is behind: too long without a newer order.",
        "The next incremental run writes TARGET; "
        "`leora update --tenant-slug cellar --incremental` does it now.",
    )


@pytest.mark.parametrize(
    ("by_hand", "reported"),
    [("TARGET", "Somebody set TARGET by hand."), (None, "Somebody removed the type by hand.")],
)
def test_a_type_set_by_hand_is_reported_as_such_before_it_is_corrected_and_after(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, by_hand: str | None, reported: str
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.set_type(customer, by_hand)

    before = today_of(engine, customer)
    update_account_types(engine=engine)
    after = read_history(engine, customer)

    assert (before.crm_type, before.cause) == (by_hand, "by hand")
    assert before.outlook[0] == reported
    assert after.today is not None
    assert after.today.outlook == ()
    correction = after.transitions[-1]
    assert (correction.from_type, correction.to_type) == (by_hand, "ACTIVE")
    assert correction.is_set_by_hand
    assert correction.explanation == (
        f"somebody had {reported.removeprefix('Somebody ').rstrip('.')}; corrected to ACTIVE"
    )


def test_what_the_gate_stops_is_reported_with_the_way_out_and_upward_moves_are_not_stopped(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    lost = [build.customer(tenant, orders=(ago(days=1),)) for _ in range(20)]
    rising = build.customer(tenant)
    update_account_types(engine=engine)
    build.run('DELETE FROM "Order"')
    [result] = update_account_types(engine=engine)
    assert result.held
    build.order(tenant, rising, ago(days=1))

    held, free = today_of(engine, lost[0]), today_of(engine, rising)

    [(held_at,)] = build.run("SELECT held_at FROM leora_pipeline.tenant_hold")
    assert (held.crm_type, held.account_type) == ("ACTIVE", "PROSPECT")
    assert (held.cause, held.held_since) == ("order removed", held_at)
    assert held.outlook[-1].startswith(f"The gate has stopped it since {held_at:%Y-%m-%d %H:%M:%S}")
    assert (
        "`leora update --tenant-slug cellar --allow-mass-change --reason '…'`" in held.outlook[-1]
    )
    assert (free.account_type, free.held_since) == ("ACTIVE", None)
    assert "The next incremental run writes ACTIVE" in free.outlook[-1]

    update_account_types(allow_mass_change=["cellar"], reason="archived", engine=engine)
    build.set_type(lost[0], "ACTIVE")
    released = today_of(engine, lost[0])
    assert (released.account_type, released.held_since) == ("PROSPECT", None)
    assert "The next incremental run writes PROSPECT" in released.outlook[-1]


def test_a_date_alone_that_differs_is_reported_unless_dates_are_left_to_the_crm(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=2),))
    update_account_types(engine=engine)
    ordered = ago(days=1)
    build.order(tenant, customer, ordered)

    reported, left = (today_of(engine, customer, write_dates=write) for write in (True, False))

    assert reported.explanation == left.explanation
    assert f"run writes the last order date {ordered:%Y-%m-%d};" in reported.outlook[-1]
    assert not any("writes" in line for line in left.outlook)


# Transitions.


def test_every_transition_is_reported_with_its_cause_in_words(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    update_account_types(as_of=ago(days=300), engine=engine)
    ordered = ago(days=300)
    order = build.order(tenant, customer, ordered)
    update_account_types(as_of=ago(days=290), engine=engine)
    update_account_types(engine=engine)
    build.set_type(customer, "PROSPECT")
    update_account_types(engine=engine)
    build.cancel(order)
    update_account_types(engine=engine)
    build.run("UPDATE leora_pipeline.customer_state SET synced_type = NULL")
    build.set_type(customer, "ACTIVE")
    update_customer_account_type(customer, engine=engine)
    build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)

    reported = read_history(engine, customer).transitions

    assert [(t.from_type, t.to_type, t.cause, t.explanation) for t in reported] == [
        (None, "PROSPECT", "nightly", "first classification (found by a full run)"),
        ("PROSPECT", "ACTIVE", "order", "the last order date moved forward"),
        ("ACTIVE", "TARGET", "age", "too long without a newer order"),
        (
            "PROSPECT",
            "TARGET",
            "by hand",
            "somebody had set PROSPECT by hand; corrected to TARGET",
        ),
        (
            "TARGET",
            "PROSPECT",
            "order removed",
            "the last order date went back: an order is gone, or no longer counts",
        ),
        (
            "ACTIVE",
            "PROSPECT",
            "hook",
            "asked for, for this customer; before that somebody had set ACTIVE by hand",
        ),
    ]
    assert [t.is_set_by_hand for t in reported] == [False, False, False, True, False, True]
    assert [t.last_order_at for t in reported] == [None, ordered, ordered, ordered, None, None]
    logged = build.run(
        "SELECT recorded_at, as_of, run_id FROM leora_pipeline.account_type_transition "
        "WHERE customer_id = :id ORDER BY transition_id",
        id=customer,
    )
    assert [(t.recorded_at, t.as_of, t.run_id) for t in reported] == [tuple(row) for row in logged]


def test_a_cause_that_is_not_known_is_reported_as_it_is_logged(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.run("UPDATE leora_pipeline.account_type_transition SET cause = 'moonshine'")
    assert read_history(engine, customer).transitions[0].explanation == "moonshine"


def test_a_customer_who_moved_keeps_the_transitions_of_both_tenants(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)
    other = build.tenant("market")
    build.run('UPDATE "Customer" SET "tenantId" = :t, "lastOrderDate" = NULL', t=other)
    update_account_types(engine=engine)

    history = read_history(engine, customer)

    assert (history.tenant_id, history.tenant_slug) == (other, "market")
    assert [(t.tenant_id, t.tenant_slug, t.to_type) for t in history.transitions] == [
        (tenant, "cellar", "ACTIVE"),
        (other, "market", "PROSPECT"),
    ]
    assert not any(t.is_set_by_hand for t in history.transitions)
    [order] = history.orders
    assert (order.counts, order.exclusion) == (False, "it belongs to another tenant")


# Orders.


def test_each_order_says_whether_it_counts_and_if_not_why(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    latest, older, due = ago(days=200), ago(days=300), ago(days=-2)
    expected: dict[UUID, tuple[datetime | None, str | None]] = {
        build.order(tenant, customer, latest): (latest, None),
        build.order(tenant, customer, older): (older, None),
        build.order(tenant, customer, older, "DRAFT"): (older, "DRAFT does not count"),
        build.order(tenant, customer, due, "CANCELLED"): (due, "CANCELLED does not count"),
        build.order(tenant, customer, None): (None, "it has no date"),
        build.order(tenant, customer, due): (
            due,
            "it is dated in the future, and counts from then on",
        ),
    }
    for date in ("infinity", "-infinity", "0044-03-15 00:00:00 BC", "10000-01-01 00:00:00"):
        order = build.order(tenant, customer, latest)
        build.run(
            'UPDATE "Order" SET "orderedAt" = CAST(:date AS timestamp) WHERE id = :id',
            date=date,
            id=order,
        )
        expected[order] = (None, f"its date, {date}, is none that can be read")
    update_account_types(engine=engine)

    history = read_history(engine, customer)

    found = {order.order_id: (order.ordered_at, order.exclusion) for order in history.orders}
    assert found == expected
    assert all(order.counts == (order.exclusion is None) for order in history.orders)
    [deciding] = [order for order in history.orders if order.makes_last_order_date]
    assert deciding.ordered_at == latest
    dates = [order.ordered_at or datetime.min.replace(tzinfo=UTC) for order in history.orders]
    assert dates == sorted(dates, reverse=True), "newest first, those without a date last"
    assert history.today is not None
    assert history.today.next_order_at == due
    assert history.today.outlook == (
        f"A date in the future, {due:%Y-%m-%d %H:%M:%S} UTC, counts from then on.",
    )


def test_the_orders_that_count_are_those_that_the_rule_counts(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    statuses = build.run('SELECT unnest(enum_range(NULL::"OrderStatus"))::text')
    for days, (status,) in enumerate(statuses):
        build.order(tenant, customer, ago(days=days - 1.5), status)

    passed = 0
    while (history := read_history(engine, customer)).today and history.today.last_order_at:
        newest = next(order for order in history.orders if order.counts)
        assert newest.makes_last_order_date
        assert newest.ordered_at == history.today.last_order_at
        build.cancel(newest.order_id)
        passed += 1

    assert passed == len(statuses) - 3, "all but DRAFT, CANCELLED and the one of the future"
    assert not any(order.counts for order in history.orders)


def test_orders_are_limited_but_for_the_one_that_makes_the_last_order_date(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    newer = [build.order(tenant, customer, ago(days=days), "DRAFT") for days in range(1, 6)]
    deciding = build.order(tenant, customer, ago(days=10))
    build.order(tenant, customer, ago(days=11))

    history = read_history(engine, customer, limit=2)

    assert [order.order_id for order in history.orders] == [*newer[:2], deciding]
    assert history.orders_total == 7
    assert history.orders[-1].makes_last_order_date


def test_numbers_and_totals_are_shown_where_the_crm_has_them_and_not_required(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    build.run('UPDATE "Order" SET "orderNumber" = \'W-7\', total = 12.5')

    [full] = read_history(engine, customer).orders
    build.run('ALTER TABLE "Order" DROP COLUMN "orderNumber", DROP COLUMN total')
    [bare] = read_history(engine, customer).orders

    assert (full.order_number, full.total) == ("W-7", "12.50")
    assert (bare.order_number, bare.total, bare.status) == (None, None, "FULFILLED")


# Customers that are gone, and others.


def test_a_deleted_customer_keeps_its_transitions(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.run('DELETE FROM "Customer"')

    history = read_history(engine, customer)

    assert (history.name, history.today) == (None, None)
    assert (history.orders, history.orders_total) == ((), 0)
    assert (history.tenant_id, history.tenant_slug) == (tenant, "cellar")
    assert [t.to_type for t in history.transitions] == ["ACTIVE"]

    build.run('DELETE FROM "Tenant"')
    update_account_types(engine=engine)
    history = read_history(engine, customer)
    assert (history.tenant_id, history.tenant_slug) == (tenant, None)
    assert [t.tenant_slug for t in history.transitions] == [None]


def test_a_deleted_customer_is_known_by_its_state_alone(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, "PROSPECT")
    update_account_types(engine=engine)
    build.run('DELETE FROM "Customer"')

    history = read_history(engine, customer)

    assert (history.today, history.transitions) == (None, ())
    assert (history.tenant_id, history.tenant_slug) == (tenant, "cellar")


NOBODY = UUID("00000000-0000-4000-8000-000000000000")


@pytest.mark.parametrize("customer", [NOBODY, str(NOBODY), "nobody"])
def test_an_id_that_nobody_has_or_that_is_none_is_wrong_usage(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customer: UUID | str
) -> None:
    build.customer(tenant)
    with pytest.raises(WrongUsageError, match=str(customer)):
        read_history(engine, customer)


def test_all_is_read_at_one_instant(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
    customer = build.customer(tenant)
    ordered: list[UUID] = []

    @sa.event.listens_for(engine, "after_cursor_execute")
    def _order_in_between(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
        if "account_type_transition" in sql and not ordered:
            ordered.append(uuid4())
            build.order(tenant, customer, ago(days=1))

    assert read_history(engine, customer).orders == ()
    assert ordered
    assert len(read_history(engine, customer).orders) == 1


def test_dates_in_the_crm_that_no_client_can_read_are_passed_over(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant)
    ordered = ago(days=1)
    build.order(tenant, customer, ordered)
    update_account_types(engine=engine)
    build.run('UPDATE "Customer" SET "lastOrderDate" = \'infinity\'')

    today = today_of(engine, customer)

    assert today.crm_order_at is None
    assert f"writes the last order date {ordered:%Y-%m-%d}" in today.outlook[-1]
