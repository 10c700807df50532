"""Incidents: opened once, reminded of at most daily, resolved once, whoever looks how often."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.alerting.incidents import Changes, sync_incidents
from leora_pipeline.core.os_user import os_user
from leora_pipeline.core.reporting.problems import find_problems
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline_tests.crm_builder import CrmBuilder, ago

Judge = Callable[..., None]
NOTHING = Changes()


@pytest.fixture
def cellar(engine: sa.Engine, build: CrmBuilder) -> UUID:
    """A tenant right after its nightly run; nothing is wrong with it."""
    tenant = build.tenant("cellar")
    build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)
    assert sync_incidents(engine) == NOTHING
    return tenant


@pytest.fixture
def judge(build: CrmBuilder) -> Judge:
    """Records a verdict, as a run's check does."""

    def record(tenant: UUID, status: str = "failed", check: str = "high_churn") -> None:
        build.run(
            "INSERT INTO leora_pipeline.health_verdict VALUES (:tenant, :check, "
            "clock_timestamp() + (SELECT count(*) FROM leora_pipeline.health_verdict) "
            "* interval '1 second', 'a run', :severity, :status, 'ACTIVE 30.0 %')",
            tenant=tenant,
            check=check,
            severity="warn" if check == "outside_healthy" else "error",
            status=status,
        )

    return record


def reported(build: CrmBuilder) -> list[tuple[str, str]]:
    """Returns kind and event of all messages, oldest first."""
    rows = build.run("SELECT kind, event FROM leora_pipeline.alert_message ORDER BY message_id")
    return [tuple(row) for row in rows]


def message(build: CrmBuilder) -> Any:
    """Returns the latest message."""
    return build.run("SELECT * FROM leora_pipeline.alert_message ORDER BY message_id DESC")[0]


def delivered(build: CrmBuilder, *, hours_ago: float = 0) -> None:
    """Makes all messages delivered, and as old as that."""
    build.run(
        "UPDATE leora_pipeline.alert_message AS m SET created_at = t.then, delivered_at = t.then, "
        "sent_at = t.then FROM (SELECT now() - CAST(:ago AS interval) AS then) AS t "
        "WHERE expired_at IS NULL",
        ago=f"{hours_ago} hours",
    )


def test_a_breach_is_reported_once_over_five_runs_and_its_recovery_once(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    assert sync_incidents(engine) == Changes(opened=1)
    opening = message(build)
    assert opening.title == "[Leora] cellar: high churn"
    assert opening.severity == "error"
    assert "ACTIVE 30.0 %" in opening.body
    for _ in range(5):
        judge(cellar)
        assert sync_incidents(engine) == NOTHING
    judge(cellar, "passed")
    assert sync_incidents(engine) == Changes(resolved=1)
    assert sync_incidents(engine) == NOTHING
    assert reported(build) == [("high_churn", "opened"), ("high_churn", "resolved")]
    assert message(build).title == "[Leora] cellar: high churn (resolved)"
    assert "ACTIVE 30.0 %" in message(build).body


def test_a_second_breach_is_an_incident_of_its_own(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    for status in ("failed", "passed", "failed"):
        judge(cellar, status)
        sync_incidents(engine)
    assert [event for _, event in reported(build)] == ["opened", "resolved", "opened"]


def test_a_reminder_comes_a_day_after_people_last_heard_of_it(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    sync_incidents(engine)
    build.run("UPDATE leora_pipeline.alert_message SET created_at = now() - interval '9 days'")
    assert sync_incidents(engine) == NOTHING, "they have not even heard that it opened"

    delivered(build, hours_ago=23.9)
    assert sync_incidents(engine) == NOTHING
    delivered(build, hours_ago=24.1)
    build.run("UPDATE leora_pipeline.alert_message SET delivered_at = now() - interval '1 hour'")
    assert sync_incidents(engine) == NOTHING, "it was on its way for long"
    delivered(build, hours_ago=24.1)
    assert sync_incidents(engine) == Changes(reminded=1)
    assert sync_incidents(engine) == NOTHING, "a reminder is on its way"
    assert message(build).title == "[Leora] cellar: high churn (reminder)"
    delivered(build, hours_ago=1)
    assert sync_incidents(engine) == NOTHING


def test_reminders_that_reach_nobody_do_not_pile_up(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    sync_incidents(engine)
    for _ in range(3):
        # One address gets all of it, and another has got nothing for days.
        build.run(
            "UPDATE leora_pipeline.alert_message SET created_at = created_at - interval '25 hours',"
            " delivered_at = now() - interval '25 hours'"
        )
        assert sync_incidents(engine) == Changes(reminded=1)
    waiting = build.run(
        "SELECT event FROM leora_pipeline.alert_message "
        "WHERE sent_at IS NULL AND expired_at IS NULL ORDER BY message_id"
    )
    assert [row.event for row in waiting] == ["opened", "reminder"]


def test_what_happened_before_anybody_heard_is_reported_whole(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    sync_incidents(engine)
    judge(cellar, "passed")
    sync_incidents(engine)
    assert [event for _, event in reported(build)] == ["opened", "resolved"]
    assert read_status(engine).unsent_messages == 2


def test_many_at_once_open_one_incident(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    together = Barrier(6)

    def look(_: int) -> Changes:
        together.wait()
        return sync_incidents(engine)

    with ThreadPoolExecutor(6) as pool:
        opened = sum(changes.opened for changes in pool.map(look, range(6)))
    assert opened == 1
    assert reported(build) == [("high_churn", "opened")]


def test_an_incident_without_its_message_cannot_be(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    build.run(
        "ALTER TABLE leora_pipeline.alert_message ADD CONSTRAINT refuse CHECK (event <> 'opened')"
    )
    with pytest.raises(sa.exc.IntegrityError):
        sync_incidents(engine)
    assert build.run("SELECT FROM leora_pipeline.incident") == []


def test_what_follows_from_something_graver_is_not_reported_beside_it(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    judge(cellar, check="outside_healthy")
    sync_incidents(engine)
    assert reported(build) == [("high_churn", "opened")]
    # Better, but not yet well.
    judge(cellar, "passed")
    sync_incidents(engine)
    assert reported(build)[1:] == [("high_churn", "resolved"), ("outside_healthy", "opened")]
    assert message(build).severity == "warn"
    # And worse again: nothing recovers by that.
    judge(cellar)
    sync_incidents(engine)
    assert reported(build)[3:] == [("high_churn", "opened")]


def test_a_warning_is_reported_and_leaves_the_status_sound(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar, check="outside_healthy")
    assert sync_incidents(engine) == Changes(opened=1)
    (problem,) = find_problems(read_status(engine))
    assert (problem.kind, problem.severity) == ("outside_healthy", "warn")


def test_tenants_have_incidents_of_their_own(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    other = build.tenant("vine")
    judge(cellar)
    judge(other)
    assert sync_incidents(engine) == Changes(opened=2)
    judge(other, "passed")
    assert sync_incidents(engine) == Changes(resolved=1)
    assert message(build).title == "[Leora] vine: high churn (resolved)"


def test_the_incidents_of_a_tenant_that_goes_end(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, judge: Judge
) -> None:
    judge(cellar)
    sync_incidents(engine)
    build.run('DELETE FROM "Tenant" WHERE id = :id', id=cellar)
    assert sync_incidents(engine) == Changes(resolved=1)
    assert message(build).title == "[Leora] cellar: high churn (resolved)"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("tenant_run SET finished_at = now() - interval '3 days'", "pipeline_stale"),
        ("tenant_run SET status = 'failed', error = 'it broke'", "run_failed"),
        (
            "tenant_run SET status = 'running', finished_at = NULL, "
            "started_at = now() - interval '3 hours'",
            "run_stuck",
        ),
    ],
)
def test_a_night_that_went_wrong_is_reported_until_one_goes_well(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, change: str, kind: str
) -> None:
    build.run('UPDATE "Tenant" SET "createdAt" = now()')
    build.run(f"UPDATE leora_pipeline.{change}")
    assert sync_incidents(engine) == Changes(opened=1)
    # Another run at work has not yet gone well.
    build.run(
        "INSERT INTO leora_pipeline.tenant_run SELECT tenant_id, 'another', mode, "
        "now(), NULL, 'running', NULL, false FROM leora_pipeline.tenant_run"
    )
    assert sync_incidents(engine) == NOTHING
    build.run(
        "UPDATE leora_pipeline.tenant_run SET status = 'succeeded', finished_at = now() "
        "WHERE run_id = 'another'"
    )
    assert sync_incidents(engine) == Changes(resolved=1)
    assert reported(build) == [(kind, "opened"), (kind, "resolved")]


def test_a_failed_incremental_run_is_reported_until_any_run_heals_it(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    failed = (
        "INSERT INTO leora_pipeline.tenant_run VALUES "
        "(:id, :run, 'incremental', now(), now(), 'failed', 'it broke', false)"
    )
    build.run(failed, id=cellar, run="one")
    assert sync_incidents(engine) == Changes(opened=1)
    assert "the last incremental run failed: it broke" in message(build).body
    build.run(failed, id=cellar, run="two")
    assert sync_incidents(engine) == NOTHING
    update_account_types(engine=engine)
    assert sync_incidents(engine) == Changes(resolved=1)


def test_pending_customers_that_do_not_drain_are_reported(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    build.customer(cellar)
    assert sync_incidents(engine) == NOTHING
    build.run("UPDATE leora_pipeline.pending_customer SET captured_at = now() - interval '1 hour'")
    assert sync_incidents(engine) == Changes(opened=1)
    update_account_types(engine=engine)
    assert sync_incidents(engine) == Changes(resolved=1)
    assert reported(build) == [
        ("pending_not_draining", "opened"),
        ("pending_not_draining", "resolved"),
    ]


def test_pending_changes_of_a_tenant_that_is_gone_alarm_nobody(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    build.run(
        "INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id, captured_at) "
        "VALUES (gen_random_uuid(), gen_random_uuid(), now() - interval '1 hour')"
    )
    status = read_status(engine)
    assert (status.pending, find_problems(status)) == (1, [])
    assert sync_incidents(engine) == NOTHING


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_tenant_held_and_released_is_reported_step_by_step(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, by_hand: bool
) -> None:
    for _ in range(30):
        build.customer(cellar, orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.run("UPDATE \"Order\" SET status = 'CANCELLED'")
    update_account_types(engine=engine)
    assert sync_incidents(engine) == Changes(opened=1)
    assert message(build).title == "[Leora] cellar: held"
    assert "--allow-mass-change" in message(build).body
    (incident,) = read_status(engine).incidents
    assert (incident.kind, incident.resolved_at) == ("tenant_held", None)

    if by_hand:
        update_account_types(
            ["cellar"], allow_mass_change=["cellar"], reason="archived", engine=engine
        )
    else:
        build.run("UPDATE \"Order\" SET status = 'FULFILLED'")
        update_account_types(engine=engine)
    assert sync_incidents(engine) == Changes(resolved=1)
    assert message(build).title == "[Leora] cellar: held (resolved)"
    how = f"released by hand, by {os_user()}: archived" if by_hand else "found the orders back"
    assert how in message(build).body
    (incident,) = read_status(engine).incidents
    assert incident.resolved_at is not None
