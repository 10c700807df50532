"""The job that keeps Dagster's event log and the pipeline's tables within their age."""

from pathlib import Path
from uuid import uuid4

import dagster as dg
import psycopg
import pytest

from leora_pipeline.definitions import defs
from leora_pipeline.orchestration.maintenance import LATEST_KEPT
from leora_pipeline.orchestration.resources import CrmDatabase
from leora_pipeline_tests.acceptance.conftest import Crm
from leora_pipeline_tests.crm_builder import ago


@pytest.fixture
def instance(
    dagster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dg.DagsterInstance:
    """A real instance, with storage in PostgreSQL."""
    (tmp_path / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: {env: LEORA_DAGSTER_DATABASE_URL}}}\n"
        "telemetry: {enabled: false}\n"
    )
    monkeypatch.setenv("LEORA_DAGSTER_DATABASE_URL", dagster_url)
    return dg.DagsterInstance.from_config(str(tmp_path))


QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def clean_up(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return run(instance, "clean_up")


def run(
    instance: dg.DagsterInstance, job: str, *, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, run_config=QUIET, raise_on_error=raise_on_error
    )


def events_of(dagster_url: str, run_id: str) -> int:
    with psycopg.connect(dagster_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM event_logs WHERE run_id = %s", [run_id]
        ).fetchone()
    return int(row[0]) if row else 0


def test_it_deletes_old_runs_with_their_events_but_for_the_latest_of_each_job(
    instance: dg.DagsterInstance,
    dagster_url: str,
    runtime_url: str,
    crm_of_user: Crm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", runtime_url)
    crm_of_user.tenant()
    job = "incremental_account_types"
    first = run(instance, job)
    over, started = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED
    # One that hangs, and more that are over than stay.
    in_flight = instance.add_run(dg.DagsterRun(job_name=job, run_id=str(uuid4()), status=started))
    latest = [
        instance.add_run(dg.DagsterRun(job_name=job, run_id=str(uuid4()), status=over)).run_id
        for _ in range(LATEST_KEPT)
    ]
    other = instance.add_run(
        dg.DagsterRun(job_name="preview_account_types", run_id=str(uuid4()), status=over)
    )
    assert events_of(dagster_url, first.run_id) > 0
    with psycopg.connect(dagster_url) as connection:
        connection.execute("UPDATE runs SET create_timestamp = create_timestamp - interval '31 d'")

    result = clean_up(instance)

    left = set(instance.get_run_ids())
    assert first.run_id not in left
    assert events_of(dagster_url, first.run_id) == 0
    assert left == {in_flight.run_id, *latest, other.run_id, result.run_id}


def test_it_keeps_what_is_younger_than_the_configured_age(
    instance: dg.DagsterInstance,
    dagster_url: str,
    runtime_url: str,
    crm_of_user: Crm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", runtime_url)
    monkeypatch.setenv("LEORA_KEEP_RUN_DAYS", "60")
    tenant = crm_of_user.tenant()
    customer = crm_of_user.customer(tenant, orders=(ago(days=1),))
    for days in (20, 45, 90):
        crm_of_user.run(
            "INSERT INTO leora_pipeline.health_verdict SELECT :tenant, 'fresh', clock_timestamp() "
            "- make_interval(days => :days), NULL, 'error', 'passed', '' ",
            tenant=tenant,
            days=days,
        )
        crm_of_user.run(
            "INSERT INTO leora_pipeline.account_type_transition (tenant_id, customer_id, to_type, "
            "as_of, cause, run_id, recorded_at) SELECT :tenant, :customer, 'ACTIVE', t, 'order', "
            "'r', t FROM (SELECT clock_timestamp() - make_interval(days => 20 * :days)) AS n (t)",
            tenant=tenant,
            customer=customer,
            days=days,
        )

    clean_up(instance)

    verdicts = crm_of_user.run("SELECT checked_at FROM leora_pipeline.health_verdict")
    assert len(verdicts) == 2, "the one of 90 days ago is gone"
    log = crm_of_user.run("SELECT recorded_at FROM leora_pipeline.account_type_transition")
    assert len(log) == 2, "history stays for three years"


def test_a_variable_that_means_nothing_stops_the_clean_up_alone_and_the_sensor_says_so(
    instance: dg.DagsterInstance,
    runtime_url: str,
    crm_of_user: Crm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", runtime_url)
    monkeypatch.setenv("LEORA_KEEP_RUN_DAYS", "never")
    crm_of_user.customer(crm_of_user.tenant(), orders=(ago(days=1),))
    fault = "LEORA_KEEP_RUN_DAYS is 'never'; set it to a number of days, from 7 to 36500"

    ended = run(instance, "clean_up", raise_on_error=False)

    failures = [e for e in ended.all_events if e.is_step_failure]
    assert {e.step_failure_data.user_failure_data.description for e in failures} == {fault}
    assert run(instance, "incremental_account_types").success
    with dg.build_sensor_context(instance, resources={"crm": CrmDatabase()}) as context:
        said = defs.resolve_sensor_def("alerts").evaluate_tick(context)
    assert said.skip_message.endswith(f"; {fault}")
