"""What the steps leave behind: the change set, the log, the distribution, a preview beside them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from leora_pipeline import WrongUsageError, update_account_types, update_customer_account_type
from leora_pipeline.core.account_types import Transition
from leora_pipeline.core.reporting.preview import preview
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline_tests.crm_builder import CrmBuilder, ago


def test_results_count_the_customers_as_they_stand_and_the_moves_of_the_run(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    vine, cellar = build.tenant("vine"), build.tenant("cellar")
    build.customer(vine, None, orders=(ago(days=1),))
    build.customer(vine, "TARGET", orders=(ago(days=1),))
    build.customer(vine, "ACTIVE", orders=(ago(days=200),))
    build.customer(vine, "PROSPECT")
    build.customer(vine, "HOLD", orders=(ago(days=1),))

    first, second = update_account_types(engine=engine)

    assert (first.tenant_slug, first.tenant_id, first.total) == ("cellar", cellar, 0)
    assert (second.tenant_slug, second.tenant_id) == ("vine", vine)
    assert (second.active, second.target, second.prospect) == (2, 1, 1)
    assert (second.pinned, second.total, second.held) == (1, 4, False)
    assert second.changed == {"ACTIVE": 2, "TARGET": 1, "PROSPECT": 0}
    again = update_account_types(["vine"], engine=engine)
    assert [result.changed for result in again] == [{"ACTIVE": 0, "TARGET": 0, "PROSPECT": 0}]


def test_the_change_set_says_who_from_to_and_why(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    dates = (ago(days=12.5), ago(days=212.5), ago(days=400.5))
    people = [build.customer(tenant, "HOLD", orders=dates[:1])]
    people += [build.customer(tenant, None, orders=(date,)) for date in dates]
    people += [build.customer(tenant, "ACTIVE")]
    build.customer(tenant, "ACTIVE", orders=dates[:1], last_order=dates[0])

    update_account_types(engine=engine)

    rows = build.run("SELECT * FROM leora_pipeline.account_type_change")
    assert {
        row.customer_id: (row.from_type, row.to_type, row.last_order_at, row.reason) for row in rows
    } == {
        people[0]: ("HOLD", "HOLD", dates[0], "Only the last order date changes"),
        people[1]: (None, "ACTIVE", dates[0], "Ordered 12 days ago (within 180 days)"),
        people[2]: (None, "TARGET", dates[1], "Ordered 212 days ago (180-365 days)"),
        people[3]: (None, "PROSPECT", dates[2], "Ordered 400 days ago (over 365 days)"),
        people[4]: ("ACTIVE", "PROSPECT", None, "Never ordered"),
    }
    update_account_types(engine=engine)
    assert build.run("SELECT * FROM leora_pipeline.account_type_change") == []


def test_each_transition_is_logged_with_its_cause(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, None)
    update_account_types(engine=engine)
    order = build.order(tenant, customer, ago(days=100))
    update_account_types(engine=engine)
    build.set_type(customer, "PROSPECT")
    update_account_types(engine=engine)
    build.cancel(order)
    update_account_types(engine=engine)
    build.order(tenant, customer, ago(days=300))
    assert update_customer_account_type(customer, engine=engine).account_type == "TARGET"
    assert build.log(customer) == [
        (None, "PROSPECT", "nightly"),
        ("PROSPECT", "ACTIVE", "order"),
        ("PROSPECT", "ACTIVE", "by hand"),
        ("ACTIVE", "PROSPECT", "order removed"),
        ("PROSPECT", "TARGET", "order"),
    ]


def test_age_is_the_cause_when_a_threshold_passes(engine: sa.Engine, build: CrmBuilder) -> None:
    customer = build.customer(build.tenant(), None, orders=(ago(days=200),))
    update_account_types(as_of=ago(days=30), engine=engine)
    update_account_types(engine=engine)
    assert build.log(customer)[1:] == [("ACTIVE", "TARGET", "age")]


def test_a_preview_shows_what_the_run_after_it_does(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant("cellar")
    build.customer(tenant, None, orders=(ago(days=212.5),), name="Vine & Dine")
    build.customer(tenant, "ACTIVE", orders=(ago(days=1),))
    build.customer(tenant, "HOLD")
    empty = build.tenant("empty")

    seen = preview(engine, resolve_run(engine).tenants)

    cellar, nothing = sorted(seen.tenants, key=lambda t: t.tenant_slug)
    assert (cellar.total, cellar.correct, cellar.incorrect, cellar.pinned) == (2, 1, 1, 1)
    assert cellar.current == {"ACTIVE": 1, "UNCLASSIFIED": 1}
    assert cellar.expected == {"ACTIVE": 1, "TARGET": 1}
    assert cellar.transitions == [Transition(None, "TARGET", 1)]
    [customer] = cellar.misclassified
    assert (customer.name, customer.current, customer.expected) == ("Vine & Dine", None, "TARGET")
    assert customer.reason == "Ordered 212 days ago (180-365 days)"
    assert (nothing.total, nothing.incorrect) == (0, 0), empty
    [result] = update_account_types(["cellar"], engine=engine)
    assert {t.to_type: t.count for t in cellar.transitions} == {
        name: count for name, count in result.changed.items() if count
    }


def test_the_distribution_is_kept_a_row_a_tenant_and_day_of_its_own_time_zone(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    for slug, timezone in (("east", "Asia/Tokyo"), ("west", "America/New_York"), ("lost", "Napa")):
        build.customer(build.tenant(slug, timezone), orders=(datetime(2026, 1, 1, tzinfo=UTC),))
    build.tenant("empty")
    evening = datetime(2026, 2, 1, 20, tzinfo=UTC)
    for as_of in (evening, evening.replace(hour=21), evening.replace(day=2)):
        update_account_types(as_of=as_of, engine=engine)
    rows = build.run(
        "SELECT slug, day::text, as_of, total, active_pct, target_pct, prospect_pct "
        'FROM leora_pipeline.account_type_distribution JOIN "Tenant" ON id = tenant_id '
        "ORDER BY slug, day"
    )
    assert [(row.slug, row.day) for row in rows] == [
        ("east", "2026-02-02"),
        ("east", "2026-02-03"),
        ("empty", "2026-02-01"),
        ("empty", "2026-02-02"),
        ("lost", "2026-02-01"),
        ("lost", "2026-02-02"),
        ("west", "2026-02-01"),
        ("west", "2026-02-02"),
    ]
    assert rows[0].as_of == evening.replace(hour=21), "of two runs a day, the later stands"
    assert tuple(rows[2][3:]) == (0, None, None, None)
    assert tuple(rows[0][3:]) == (1, 100, 0, 0)


def test_a_later_distribution_is_not_replaced_by_an_earlier_instant(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    build.customer(build.tenant(), orders=(datetime(2026, 1, 1, tzinfo=UTC),))
    noon = datetime(2026, 2, 1, 12, tzinfo=UTC)
    update_account_types(as_of=noon, engine=engine)
    update_account_types(as_of=noon.replace(hour=6), engine=engine)
    [row] = build.run("SELECT as_of FROM leora_pipeline.account_type_distribution")
    assert row.as_of == noon


def test_one_customer_is_brought_up_to_date_alone(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    date = ago(days=10)
    one, other = (build.customer(tenant, None, orders=(date,)) for _ in range(2))

    updated = update_customer_account_type(one, engine=engine)

    assert (updated.account_type, updated.last_order_at, updated.is_changed) == (
        "ACTIVE",
        date,
        True,
    )
    assert build.type_of(other) is None
    assert not update_customer_account_type(one, engine=engine).is_changed


def test_an_unknown_customer_is_wrong_usage(engine: sa.Engine, build: CrmBuilder) -> None:
    with pytest.raises(WrongUsageError, match="no customer"):
        update_customer_account_type(build.tenant(), engine=engine)


def test_without_a_database_configured_the_python_interface_says_so() -> None:
    with pytest.raises(WrongUsageError, match="LEORA_DATABASE_URL is not set"):
        update_account_types()


def test_a_deleted_customers_state_goes_with_the_next_run_and_the_log_stays(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    customer = build.customer(build.tenant(), None, orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.run('DELETE FROM "Customer"')
    update_account_types(engine=engine)
    assert build.run("SELECT * FROM leora_pipeline.customer_state") == []
    assert build.log(customer) == [(None, "ACTIVE", "order")]


def test_one_tenant_may_be_named_without_a_list(engine: sa.Engine, build: CrmBuilder) -> None:
    build.tenant("cellar")
    build.tenant("vine")
    assert [r.tenant_slug for r in update_account_types("vine", engine=engine)] == ["vine"]


def test_what_is_no_id_is_no_customer(engine: sa.Engine) -> None:
    with pytest.raises(WrongUsageError, match="UUID"):
        update_customer_account_type("17", engine=engine)
