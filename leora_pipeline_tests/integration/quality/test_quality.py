"""The checks: each fails where what it speaks of is not true, for that tenant alone."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.quality.catalog import CHECKS, read_verdicts
from leora_pipeline.core.quality.checks import run_check
from leora_pipeline.core.quality.expectations import CheckErroredError, failing_keys
from leora_pipeline.core.quality.verdicts import Verdict
from leora_pipeline_tests.crm_builder import CrmBuilder, ago

CHECK = {check.name: check for check in CHECKS}


def judge(engine: sa.Engine, name: str) -> dict[str, Verdict]:
    """Runs a check and returns its verdicts by tenant."""
    return {verdict.tenant_slug: verdict for verdict in run_check(engine, CHECK[name])}


def statuses(engine: sa.Engine, name: str) -> dict[str, str]:
    return {slug: verdict.status for slug, verdict in judge(engine, name).items()}


def distribution(build: CrmBuilder, tenant: UUID, active: int, target: int, prospect: int) -> None:
    """Publishes a distribution as a run would."""
    build.run(
        "INSERT INTO leora_pipeline.account_type_distribution "
        "(tenant_id, day, as_of, active, target, prospect, pinned) "
        "VALUES (:tenant, current_date, now(), :active, :target, :prospect, 0)",
        tenant=tenant,
        active=active,
        target=target,
        prospect=prospect,
    )


@pytest.mark.parametrize(
    ("check", "shares", "status"),
    [
        ("high_churn", (500, 200, 300), "passed"),
        ("high_churn", (49_999, 20_000, 30_001), "failed"),
        ("poor_retention", (500, 200, 300), "passed"),
        ("poor_retention", (49_999, 20_001, 30_000), "failed"),
        ("outside_healthy", (60, 15, 25), "passed"),
        ("outside_healthy", (75, 5, 20), "passed"),
        ("outside_healthy", (76, 5, 19), "failed"),
        ("outside_healthy", (66, 4, 30), "failed"),
        ("outside_healthy", (60, 9, 31), "failed"),
        ("high_churn", (0, 0, 19), "not judged"),
        ("high_churn", (0, 0, 20), "failed"),
        ("high_churn", (0, 0, 0), "not judged"),
    ],
)
def test_a_distribution_is_judged_by_its_exact_shares(
    engine: sa.Engine,
    build: CrmBuilder,
    check: str,
    shares: tuple[int, int, int],
    status: str,
) -> None:
    distribution(build, build.tenant("cellar"), *shares)
    assert statuses(engine, check) == {"cellar": status}


def test_thresholds_are_the_tenants_own(engine: sa.Engine, build: CrmBuilder) -> None:
    for slug in ("cellar", "vine"):
        distribution(build, build.tenant(slug), 45, 15, 40)
    build.run(
        'INSERT INTO leora_pipeline.tenant_policy SELECT p.* FROM "Tenant" t, '
        "leora_pipeline.effective_policy(t.id) p WHERE t.slug = 'vine'"
    )
    build.run("UPDATE leora_pipeline.tenant_policy SET high_churn_below = 40")

    verdicts = judge(engine, "high_churn")

    assert {slug: v.status for slug, v in verdicts.items()} == {
        "cellar": "failed",
        "vine": "passed",
    }
    assert verdicts["cellar"].message == "ACTIVE 45.0 % (high churn below 50 %)"


def test_the_latest_distribution_of_a_tenant_counts(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant("cellar")
    distribution(build, tenant, 0, 0, 100)
    build.run(
        "UPDATE leora_pipeline.account_type_distribution "
        "SET day = day - 1, as_of = as_of - interval '1 day'"
    )
    distribution(build, tenant, 70, 10, 20)
    assert statuses(engine, "high_churn") == {"cellar": "passed"}


def test_an_order_of_another_tenants_customer_is_found(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    cellar, vine = build.tenant("cellar"), build.tenant("vine")
    build.order(vine, build.customer(cellar), ago(days=1))
    verdicts = judge(engine, "orders_of_own_tenant")
    assert verdicts["vine"].status == "failed"
    assert verdicts["cellar"].status == "passed"


def test_many_orders_dated_in_the_future_are_found(engine: sa.Engine, build: CrmBuilder) -> None:
    few, many = build.tenant("few"), build.tenant("many")
    build.customer(few, orders=(*[ago(days=1)] * 19, ago(days=-1)))
    build.customer(many, orders=(*[ago(days=1)] * 18, ago(days=-1)))
    build.tenant("none")
    assert statuses(engine, "few_future_orders") == {
        "few": "passed",
        "many": "failed",
        "none": "not judged",
    }


def test_an_order_that_no_run_has_seen_is_found_and_a_run_mends_it(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    build.without_capture()
    tenant = build.tenant("cellar")
    customer = build.customer(tenant, orders=(ago(days=300),))
    update_account_types(engine=engine)
    assert statuses(engine, "state_matches_orders") == {"cellar": "passed"}
    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "passed"}

    build.order(tenant, customer, ago(days=1))
    assert statuses(engine, "state_matches_orders") == {"cellar": "failed"}
    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "failed"}

    update_account_types(engine=engine)
    assert statuses(engine, "state_matches_orders") == {"cellar": "passed"}
    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "passed"}


def test_a_type_set_by_hand_is_found_but_hold_is_respected(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    build.without_capture()
    customer = build.customer(build.tenant("cellar"), orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.set_type(customer, "PROSPECT")
    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "failed"}
    build.set_type(customer, "HOLD")
    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "passed"}


def test_a_customer_who_is_pending_is_left_to_the_next_run(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant("cellar")
    customer = build.customer(tenant, orders=(ago(days=300),))
    update_account_types(engine=engine)
    build.order(tenant, customer, ago(days=1))
    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "passed"}
    assert statuses(engine, "state_matches_orders") == {"cellar": "passed"}


def test_a_customer_whom_only_time_has_outdated_is_left_to_the_next_run(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant("cellar")
    build.customer(tenant, orders=(ago(days=180.5),))
    build.customer(tenant, orders=(ago(days=0.5), ago(days=400)))
    update_account_types(as_of=ago(days=1), engine=engine)
    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "passed"}
    assert statuses(engine, "state_matches_orders") == {"cellar": "passed"}


def test_a_customer_who_is_right_at_the_second_look_is_not_counted(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.without_capture()
    customer = build.customer(build.tenant("cellar"), orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.set_type(customer, "TARGET")
    looks = []

    @sa.event.listens_for(engine, "after_cursor_execute")
    def mend(conn, cursor, text, parameters, context, executemany) -> None:
        if "derive_customers" in text and not looks:
            looks.append(1)
            build.set_type(customer, "ACTIVE")

    assert statuses(engine, "crm_agrees_with_rule") == {"cellar": "passed"}
    assert looks


def test_freshness_asks_for_a_successful_full_run_of_each_tenant(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    for slug in ("fresh", "stale", "partial", "failing"):
        build.tenant(slug)
    update_account_types(engine=engine)
    build.tenant("new")
    build.tenant("deleted")
    build.run('UPDATE "Tenant" SET "createdAt" = now() - interval \'3 days\'')
    build.run('UPDATE "Tenant" SET "createdAt" = now() WHERE slug = \'new\'')
    for change, slug in (
        ("finished_at = now() - interval '49 hours'", "stale"),
        ("mode = 'partial'", "partial"),
        ("status = 'failed', error = 'it broke'", "failing"),
    ):
        build.run(
            f"UPDATE leora_pipeline.tenant_run SET {change} "
            'WHERE tenant_id = (SELECT id FROM "Tenant" WHERE slug = :slug)',
            slug=slug,
        )
    assert statuses(engine, "fresh") == {
        "failing": "failed",
        "deleted": "failed",
        "fresh": "passed",
        "new": "not judged",
        "partial": "failed",
        "stale": "failed",
    }


def test_verdicts_are_recorded_under_their_run(engine: sa.Engine, build: CrmBuilder) -> None:
    build.tenant("vine")
    build.tenant("cellar")
    verdicts = run_check(engine, CHECK["no_tenant_held"], run_id="tonight")
    assert read_verdicts(engine, "tonight") == verdicts
    assert [verdict.tenant_slug for verdict in verdicts] == ["cellar", "vine"]
    assert read_verdicts(engine, "another night") == []


def test_a_check_that_cannot_be_evaluated_is_neither_passed_nor_failed() -> None:
    with pytest.raises(CheckErroredError):
        failing_keys(
            [{"tenant_id": uuid4(), "share": 1.0}],
            lambda gxe: [gxe.ExpectColumnValuesToBeBetween(column="missing", max_value=1)],
            key="tenant_id",
        )


def test_a_crm_without_tenants_has_nothing_to_judge(engine: sa.Engine) -> None:
    for check in CHECKS:
        assert run_check(engine, check) == []
