"""``leora check`` and ``leora status``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from leora_pipeline.sample import SampleTenant
from leora_pipeline_tests.acceptance.commands import HEALTHY, as_process, hold, json_of
from leora_pipeline_tests.acceptance.conftest import Crm, Leora

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]


DYING = SampleTenant("old-river", "Old River", "UTC", 30, 10, 60, 0)


def test_check_passes_a_healthy_crm_and_fails_a_dying_one(crm_of_user: Crm, leora: Leora) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0

    healthy = leora("check")
    healthy_json = leora("check", "--json")

    assert (healthy.code, healthy.err) == (0, "")
    assert "✅ high_churn" in healthy.out
    assert "❌" not in healthy.out
    assert healthy_json.code == 0
    assert json_of(healthy_json)["ok"] is True

    crm_of_user.load(DYING)
    assert leora("update").code == 0, "an unhealthy tenant is no failure of the run"
    dying = leora("check")
    dying_json = leora("check", "--json")

    assert dying.code == 1
    assert re.search(r"❌ high_churn: old-river: ACTIVE 30\.0 %", dying.out)
    assert dying_json.code == 1
    reported = json_of(dying_json)
    assert reported["ok"] is False
    failed = {
        (verdict["check_name"], verdict["tenant_slug"], verdict["severity"])
        for verdict in reported["results"]
        if verdict["status"] == "failed"
    }
    assert failed == {
        ("high_churn", "old-river", "error"),
        ("outside_healthy", "old-river", "warn"),
    }


def test_check_as_a_process_prints_nothing_but_its_verdicts(
    crm_of_user: Crm, runtime_url: str, leora: Leora
) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0

    outcome = as_process(runtime_url, "check", "--json")

    assert (outcome.code, outcome.err) == (0, "")
    assert json_of(outcome)["ok"] is True
    assert "\x1b" not in outcome.out


def test_status_is_0_when_all_is_well(crm_of_user: Crm, runtime_url: str, leora: Leora) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0

    outcome = as_process(runtime_url, "status")
    as_json = leora("status", "--json")

    assert (outcome.code, outcome.err) == (0, "")
    assert "hillside" in outcome.out
    assert "Nothing is wrong" in outcome.out
    reported = json_of(as_json)
    assert as_json.code == 0
    assert (reported["ok"], reported["problems"]) == (True, [])
    assert [tenant["tenant_slug"] for tenant in reported["tenants"]] == ["hillside"]
    finished = datetime.fromisoformat(reported["tenants"][0]["last_full_success"])
    assert timedelta(0) <= datetime.now(UTC) - finished < timedelta(minutes=5)


def test_status_names_the_tenant_whose_nightly_run_died_three_days_ago(
    crm_of_user: Crm, leora: Leora
) -> None:
    for slug in ("awake", "asleep"):
        crm_of_user.customer(crm_of_user.tenant(slug), None)
    assert leora("update").code == 0
    crm_of_user.run(
        "UPDATE leora_pipeline.tenant_run SET started_at = started_at - interval '3 days', "
        "finished_at = finished_at - interval '3 days' "
        "WHERE tenant_id = (SELECT id FROM \"Tenant\" WHERE slug = 'asleep')"
    )

    outcome = leora("status")
    reported = json_of(leora("status", "--json"))

    assert outcome.code == 1
    problems = [line for line in outcome.lines if "❌" in line]
    assert len(problems) == 1
    assert "asleep" in problems[0]
    assert reported["ok"] is False
    assert len(reported["problems"]) == 1
    assert reported["problems"][0].startswith("asleep: ")
    # Its next run is what cures it.
    assert leora("update", "--tenant-slug", "asleep").code == 0
    assert leora("status").code == 0


def test_status_names_a_tenant_that_never_ran_once_its_first_nights_are_missed(
    crm_of_user: Crm, leora: Leora
) -> None:
    tenant = crm_of_user.tenant("new")
    assert leora("status").code == 0
    crm_of_user.run(
        'UPDATE "Tenant" SET "createdAt" = now() - interval \'3 days\' WHERE id = :id', id=tenant
    )

    outcome = leora("status")

    assert outcome.code == 1
    assert re.search(r"❌ new: ", outcome.out)


def test_status_is_1_while_a_tenant_is_held_or_its_last_run_failed(
    crm_of_user: Crm, leora: Leora
) -> None:
    hold(crm_of_user, leora)
    held = leora("status")
    assert held.code == 1
    assert re.search(r"❌ cellar: held, 30 of 30 customers", held.out)
    assert leora("update", "--allow-mass-change", "--reason", "archived").code == 0
    assert leora("status").code == 0

    tenant = crm_of_user.tenant("broken")
    crm_of_user.customer(tenant, None)
    crm_of_user.break_tenant(tenant)
    assert leora("update").code == 1
    failed = leora("status")
    assert failed.code == 1
    assert re.search(r"❌ broken: .*the disk is made of cheese", failed.out)


def test_status_counts_who_still_is_unsynced(crm_of_user: Crm, leora: Leora) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant(), None)
    with crm_of_user.engine.connect() as someone, someone.begin():
        someone.exec_driver_sql(f"SELECT FROM \"Customer\" WHERE id = '{customer}' FOR UPDATE")
        assert leora("update").code == 0
        reported = json_of(leora("status", "--json"))
        assert reported["unsynced"] == 1
        # The role may not see the transactions of others, and says so.
        assert reported["sees_transactions"] is False
        assert "hidden from this role" in leora("status").out
        crm_of_user.run("GRANT pg_read_all_stats TO leora_runtime")
        reported = json_of(leora("status", "--json"))
        crm_of_user.run("REVOKE pg_read_all_stats FROM leora_runtime")
        assert reported["oldest_transaction_seconds"] > 0
