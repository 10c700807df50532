"""Runs of the jobs on a real Dagster instance."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from leora_pipeline.core.alerting.sending import SEND_TIMEOUT_SECONDS
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.reporting.problems import find_problems
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline.core.settings import PROJECT_ROOT
from leora_pipeline.definitions import defs
from leora_pipeline.orchestration.alerts import TICK_SECONDS
from leora_pipeline.orchestration.resources import CrmDatabase
from leora_pipeline.sample import SampleTenant
from leora_pipeline_tests.acceptance.commands import hold
from leora_pipeline_tests.acceptance.conftest import Crm, Leora, as_hosts_print
from leora_pipeline_tests.acceptance.dagster_runs import ASSETS, CHECKS, STEPS, metadata
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import BIN, environment, run
from leora_pipeline_tests.receivers import webhook

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]


HEALTHY = SampleTenant("hillside", "Hillside", "UTC", 68, 8, 24, 2)


DYING = SampleTenant("old-river", "Old River", "UTC", 30, 10, 60, 0)


Launch = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture(scope="module")
def instance(
    dagster_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dg.DagsterInstance]:
    """A real instance: the project's dagster.yaml as it is, with storage in PostgreSQL."""
    home = tmp_path_factory.mktemp("dagster_home")
    shutil.copy(PROJECT_ROOT / "dagster.yaml", home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEORA_DAGSTER_DATABASE_URL", dagster_url)
        with dg.DagsterInstance.from_config(str(home)) as opened:
            yield opened


@pytest.fixture
def launch(
    instance: dg.DagsterInstance, runtime_url: str, monkeypatch: pytest.MonkeyPatch
) -> Launch:
    """Runs a job of the definitions that production loads, on the test's database."""
    monkeypatch.setenv("LEORA_DATABASE_URL", runtime_url)

    def launched(
        job: str = "refresh_account_types",
        *,
        assets: tuple[str, ...] = (),
        tags: dict[str, str] | None = None,
        **scope: object,
    ) -> dg.ExecuteInProcessResult:
        config: dict[str, Any] = {
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }
        if scope:
            config["resources"] = {"scope": {"config": scope}}
        selected: dict[str, Any] = {}
        if assets:
            selected["asset_selection"] = [dg.AssetKey(asset) for asset in assets]
        return defs.resolve_job_def(job).execute_in_process(
            instance=instance, run_config=config, tags=tags, raise_on_error=False, **selected
        )

    return launched


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """Returns the keys of the assets that a run materialized."""
    return {
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def tenants_shown(result: dg.ExecuteInProcessResult, asset: str) -> list[Any]:
    """Returns the tenants in the table that a materialization shows."""
    return [record.data["tenant"] for record in metadata(result, asset)["leora/tenants"]]


def errors(result: dg.ExecuteInProcessResult) -> list[str]:
    """Returns the descriptions of a run's step failures, as the UI puts them first."""
    reported = []
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            described = data.user_failure_data.description if data.user_failure_data else None
            reported.append(described or (data.error.message if data.error else ""))
    return reported


def runs_of(crm: Crm, run_id: str) -> dict[str, tuple[str, str]]:
    """Returns mode and status of a run for each tenant, as the pipeline's own table has them."""
    rows = crm.run(
        "SELECT t.slug, r.mode, r.status FROM leora_pipeline.tenant_run AS r "
        'JOIN "Tenant" AS t ON t.id = r.tenant_id WHERE r.run_id = :run_id',
        run_id=run_id,
    )
    return {row.slug: (row.mode, row.status) for row in rows}


def test_a_full_run_makes_all_tenants_right_publishes_and_judges_them(
    crm_of_user: Crm, launch: Launch, instance: dg.DagsterInstance
) -> None:
    crm_of_user.load(HEALTHY, DYING)

    result = launch()

    assert result.success, errors(result)
    assert materialized(result) == set(ASSETS)
    assert crm_of_user.counts("hillside") == {
        "ACTIVE": 68,
        "TARGET": 8,
        "PROSPECT": 24,
        "HOLD": 2,
    }
    assert crm_of_user.counts("old-river") == {"ACTIVE": 30, "TARGET": 10, "PROSPECT": 60}
    assert runs_of(crm_of_user, result.run_id) == {
        "hillside": ("full", "succeeded"),
        "old-river": ("full", "succeeded"),
    }
    published = crm_of_user.run(
        'SELECT t.slug, d.active, d.total FROM "Tenant" AS t '
        "JOIN leora_pipeline.account_type_distribution AS d ON d.tenant_id = t.id ORDER BY 1"
    )
    assert [tuple(row) for row in published] == [("hillside", 68, 100), ("old-river", 30, 100)]

    # The run is known to Dagster's storage with its materializations.
    record = instance.get_latest_materialization_event(dg.AssetKey("crm_account_types"))
    assert record
    assert record.run_id == result.run_id
    # A failing check of severity ERROR is said, and leaves the run a success.
    judged = {
        (e.asset_key.to_user_string(), e.check_name): (e.passed, e.severity.value)
        for e in result.get_asset_check_evaluations()
    }
    failing = {"high_churn", "outside_healthy"}
    assert judged == {
        (asset, name): (name not in failing, severity if name in failing else judged_severity)
        for asset, checks in CHECKS.items()
        for name, severity in checks.items()
        for judged_severity in [severity]
    }
    (churn,) = (e for e in result.get_asset_check_evaluations() if e.check_name == "high_churn")
    assert "old-river" in (churn.description or "")
    assert "30.0 %" in (churn.description or "")
    # The verdicts stand in the table that alerts and status read.
    recorded = {
        (row.check_name, row.slug): row.status
        for row in crm_of_user.run(
            "SELECT v.check_name, t.slug, v.status FROM leora_pipeline.health_verdict AS v "
            'JOIN "Tenant" AS t ON t.id = v.tenant_id WHERE v.run_id = :run_id',
            run_id=result.run_id,
        )
    }
    assert len(recorded) == 2 * sum(len(checks) for checks in CHECKS.values())
    assert recorded["high_churn", "old-river"] == "failed"
    assert recorded["high_churn", "hillside"] == "passed"

    again = launch()

    assert again.success, errors(again)
    assert metadata(again, "crm_account_types")["leora/processed"] == 0
    assert metadata(again, "account_type_changes")["dagster/row_count"] == 0


def test_a_run_for_one_tenant_changes_it_alone_and_shows_all(
    crm_of_user: Crm, launch: Launch
) -> None:
    tenants = {slug: crm_of_user.tenant(slug) for slug in ("north", "south")}
    customers = {slug: crm_of_user.customer(tenants[slug], None) for slug in tenants}
    crm_of_user.customer(tenants["north"], "TARGET", orders=(ago(days=200),))

    result = launch(tenants=["south"])

    assert result.success, errors(result)
    assert crm_of_user.type_of(customers["south"]) == "PROSPECT"
    assert crm_of_user.type_of(customers["north"]) is None
    assert runs_of(crm_of_user, result.run_id) == {"south": ("full", "succeeded")}
    shown = metadata(result, "crm_account_types")
    assert (shown["leora/processed"], shown["dagster/row_count"]) == (1, 3)
    assert (shown["leora/prospect"], shown["leora/target"]) == (1, 1)
    assert shown["leora/unclassified"] == 1
    for asset in ("last_order_dates", "account_type_changes", "crm_account_types"):
        assert tenants_shown(result, asset) == ["north", "south"], asset

    assert launch().success
    everything = launch()
    partly = launch(tenants=["north"])

    # What is plotted does not jump when a run covers less.
    for asset in ASSETS:
        all_of_it, part = metadata(everything, asset), metadata(partly, asset)
        assert tenants_shown(partly, asset) == ["north", "south"], asset
        assert part["dagster/row_count"] == all_of_it["dagster/row_count"], asset


def test_an_empty_crm_is_no_error(crm_of_user: Crm, launch: Launch) -> None:
    none_at_all = launch()
    assert none_at_all.success, errors(none_at_all)

    crm_of_user.tenant("first-press")
    without_customers = launch()
    assert without_customers.success, errors(without_customers)
    assert all(e.passed for e in without_customers.get_asset_check_evaluations())


def test_a_failing_tenant_fails_the_run_by_name_once_the_others_are_done(
    crm_of_user: Crm, launch: Launch
) -> None:
    broken, sound = crm_of_user.tenant("broken"), crm_of_user.tenant("sound")
    crm_of_user.customer(broken, None)
    crm_of_user.customer(sound, None)
    crm_of_user.break_tenant(broken)

    result = launch()

    assert not result.success
    reported = "\n".join(errors(result))
    assert "broken" in reported
    assert "the disk is made of cheese" in reported
    assert "sound" not in reported
    assert materialized(result) == set(ASSETS), "what was done for the others is shown"
    assert crm_of_user.counts("sound") == {"PROSPECT": 1}
    assert crm_of_user.counts("broken") == {None: 1}
    assert runs_of(crm_of_user, result.run_id) == {
        "broken": ("full", "failed"),
        "sound": ("full", "succeeded"),
    }
    published = crm_of_user.run(
        'SELECT t.slug FROM "Tenant" AS t '
        "JOIN leora_pipeline.account_type_distribution AS d ON d.tenant_id = t.id"
    )
    assert [row.slug for row in published] == ["sound"]


def full_job() -> dg.JobDefinition:
    """Returns the full job, for Dagster to find again."""
    return defs.resolve_job_def("refresh_account_types")


def test_a_run_re_executed_from_its_failure_is_no_full_success(
    crm_of_user: Crm, launch: Launch, instance: dg.DagsterInstance
) -> None:
    broken = crm_of_user.tenant("broken")
    crm_of_user.customer(broken, None)
    crm_of_user.break_tenant(broken)
    failed = launch()
    options = dg.ReexecutionOptions.from_failure(failed.run_id, instance)

    with dg.execute_job(
        dg.reconstructable(full_job),
        instance=instance,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        reexecution_options=options,
    ) as again:
        assert again.success, "only the last step was left to do"

    assert runs_of(crm_of_user, again.run_id) == {"broken": ("partial", "succeeded")}
    problems = find_problems(read_status(crm_of_user.engine))
    assert any("the last full run failed" in problem.message for problem in problems)


def test_a_nightly_run_reports_once_whom_to_win_back(crm_of_user: Crm, launch: Launch) -> None:
    crm_of_user.load(HEALTHY)

    first, second = launch(), launch()

    assert first.success, errors(first)
    [digest] = crm_of_user.run("SELECT * FROM leora_pipeline.alert_message WHERE kind = 'win_back'")
    became = metadata(first, "target_alerts")["leora/processed"]
    assert digest.title == f"[Leora] hillside: {became} customers to win back"
    assert metadata(second, "target_alerts")["leora/processed"] == 0
    assert metadata(second, "target_alerts")["dagster/row_count"] == 1
    assert tenants_shown(second, "target_alerts") == ["hillside"]


def test_preview_may_look_into_the_future(crm_of_user: Crm, launch: Launch) -> None:
    tenant = crm_of_user.tenant()
    crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=1),))

    assert launch("preview_account_types", as_of="2999-01-01").success

    [change] = crm_of_user.run("SELECT to_type FROM leora_pipeline.account_type_change")
    assert change.to_type == "PROSPECT"


def test_preview_changes_the_plan_and_nothing_else(crm_of_user: Crm, launch: Launch) -> None:
    crm_of_user.load(HEALTHY)
    before = crm_of_user.contents()

    result = launch("preview_account_types")

    assert result.success, errors(result)
    assert materialized(result) == {"account_type_changes"}
    after = crm_of_user.contents()
    assert {table for table in after if after[table] != before[table]} == {
        "leora_pipeline.account_type_change",
        "leora_pipeline.work_lock",  # A row, that keeps two plans of a tenant apart.
    }
    planned = metadata(result, "account_type_changes")
    moves = sum(planned[f"leora/to_{name}"] for name in ("active", "target", "prospect"))
    assert moves > 0
    assert planned["dagster/row_count"] == moves + planned["leora/date_only"]

    done = launch()

    # The run then plans the same, and does it.
    assert (
        metadata(done, "account_type_changes")["dagster/row_count"]
        == (planned["dagster/row_count"])
    )
    assert metadata(done, "crm_account_types")["leora/moved"] == moves


def test_preview_may_look_at_one_tenant(crm_of_user: Crm, launch: Launch) -> None:
    for slug in ("north", "south"):
        crm_of_user.customer(crm_of_user.tenant(slug), None)

    result = launch("preview_account_types", tenants=["south"])

    assert result.success, errors(result)
    rows = crm_of_user.run(
        "SELECT t.slug FROM leora_pipeline.account_type_change AS c "
        'JOIN "Tenant" AS t ON t.id = c.tenant_id'
    )
    assert [row.slug for row in rows] == ["south"]


def test_the_check_job_makes_nothing_and_records_verdicts(
    crm_of_user: Crm, launch: Launch, leora: Leora
) -> None:
    crm_of_user.load(DYING)
    assert leora("update").code == 0
    before = crm_of_user.contents()

    result = launch("check_account_types")

    assert result.success, errors(result)
    assert materialized(result) == set()
    severities = {
        e.check_name: (e.passed, e.severity.value) for e in result.get_asset_check_evaluations()
    }
    assert len(severities) == sum(len(checks) for checks in CHECKS.values())
    assert severities["high_churn"] == (False, "ERROR")
    assert severities["outside_healthy"] == (False, "WARN")
    after = crm_of_user.contents()
    assert {table for table in after if after[table] != before[table]} == {
        "leora_pipeline.health_verdict"
    }
    assert leora("status").code == 1, "status reads the verdicts that Dagster recorded"


def test_a_run_of_some_assets_is_no_full_success(crm_of_user: Crm, launch: Launch) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant(), None)

    refreshed = launch(assets=("last_order_dates",))
    assert refreshed.success, errors(refreshed)
    assert runs_of(crm_of_user, refreshed.run_id) == {"cellar": ("partial", "succeeded")}
    assert crm_of_user.type_of(customer) is None

    written = launch(assets=("account_type_changes", "crm_account_types"))
    assert written.success, errors(written)
    assert runs_of(crm_of_user, written.run_id) == {"cellar": ("partial", "succeeded")}
    assert crm_of_user.type_of(customer) == "PROSPECT"

    published = launch(assets=("account_type_distribution",))
    assert published.success, errors(published)
    assert runs_of(crm_of_user, published.run_id) == {"cellar": ("partial", "succeeded")}


def test_a_held_tenant_leaves_the_run_a_success_and_its_check_says_so(
    crm_of_user: Crm, launch: Launch, leora: Leora
) -> None:
    """Its messages are tested in `test_alerts`; here are Dagster and the story of a customer."""
    tenant = crm_of_user.tenant()
    crm_of_user.customers(tenant, 30, "ACTIVE", ago(days=1))
    assert leora("update").code == 0
    crm_of_user.lose_orders(tenant)

    held = launch()

    assert held.success, errors(held)
    (check,) = (e for e in held.get_asset_check_evaluations() if e.check_name == "no_tenant_held")
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert "cellar" in (check.description or "")
    assert metadata(held, "account_type_changes")["leora/held"] == 1
    assert metadata(held, "crm_account_types")["leora/withheld"] == 30
    assert crm_of_user.counts("cellar") == {"ACTIVE": 30}
    customer = str(crm_of_user.run('SELECT id FROM "Customer" LIMIT 1')[0].id)
    story = leora("history", customer).out
    assert "ACTIVE in the CRM, but by the rule PROSPECT" in story
    assert "The gate has stopped it since" in story

    allowed = launch(allow_mass_change=["cellar"], reason="the old shop is archived")

    assert allowed.success, errors(allowed)
    (check,) = (
        e for e in allowed.get_asset_check_evaluations() if e.check_name == "no_tenant_held"
    )
    assert check.passed
    assert crm_of_user.counts("cellar") == {"PROSPECT": 30}
    story = leora("history", customer).out
    assert "ACTIVE\tPROSPECT" in story
    assert "the last order date went back" in story
    assert "The gate" not in story


@pytest.mark.parametrize("tags", [{}, {"user": "ann"}])
def test_who_lets_a_mass_change_pass_is_recorded_with_the_reason(
    crm_of_user: Crm, launch: Launch, leora: Leora, tags: dict[str, str]
) -> None:
    hold(crm_of_user, leora)

    allowed = launch(
        assets=("account_type_changes",),
        tags=tags,
        allow_mass_change=["cellar"],
        reason="the old shop is archived",
    )

    assert allowed.success, errors(allowed)
    [(released_by,)] = crm_of_user.run("SELECT released_by FROM leora_pipeline.tenant_hold")
    who = tags.get("user", f"Dagster run {allowed.run_id}")
    assert released_by == f"{who}: the old shop is archived"


@pytest.mark.parametrize(
    ("job", "scope", "named"),
    [
        ("refresh_account_types", {"tenants": ["celar"]}, "celar"),
        ("refresh_account_types", {"allow_mass_change": ["nobody"]}, "nobody"),
        ("refresh_account_types", {"allow_mass_change": ["cellar"]}, "`reason`"),
        ("refresh_account_types", {"allow_mass_change": ["cellar"], "reason": " "}, "`reason`"),
        ("refresh_account_types", {"as_of": "yesterday"}, "yesterday"),
        ("refresh_account_types", {"as_of": "2999-01-01"}, "future"),
        ("preview_account_types", {"tenants": ["celar"]}, "celar"),
        ("preview_account_types", {"as_of": "yesterday"}, "yesterday"),
    ],
)
def test_bad_configuration_fails_the_run_with_one_clear_line(
    crm_of_user: Crm, launch: Launch, job: str, scope: dict[str, object], named: str
) -> None:
    crm_of_user.tenant("cellar")
    before = crm_of_user.contents()

    result = launch(job, **scope)

    assert not result.success
    failures = [reported for reported in errors(result) if reported]
    assert named in failures[0]
    assert "\n" not in failures[0]
    assert materialized(result) == set()
    assert crm_of_user.contents() == before


def test_an_unknown_field_of_the_configuration_is_refused_before_the_run(
    crm_of_user: Crm, launch: Launch
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="tenant_slugs"):
        launch(tenant_slugs=["cellar"])


def test_a_missing_or_unfit_database_fails_the_run_with_the_way_out(
    launch: Launch, crm_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, way_out in (
        (crm_url, "leora migrate"),
        ("", "LEORA_DATABASE_URL"),
        ("postgresql://leora:s3cret@127.0.0.1:1/crm", "LEORA_DATABASE_URL"),
    ):
        monkeypatch.setenv("LEORA_DATABASE_URL", url)
        result = launch(assets=("last_order_dates",))
        assert not result.success
        reported = errors(result)[0]
        assert way_out in reported
        assert "\n" not in reported
        everything = "\n".join(str(event) for event in result.all_events)
        assert "s3cret" not in everything


def test_the_sensor_reports_what_is_wrong_and_launches_nothing(
    crm_of_user: Crm, leora: Leora, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = crm_of_user.tenant("broken")
    crm_of_user.customer(broken, None)
    crm_of_user.break_tenant(broken)
    assert leora("update").code == 1
    sensor = defs.get_repository_def().get_sensor_def("alerts")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert not sensor.targets
    assert (sensor.minimum_interval_seconds or 0) >= 30

    def tick() -> str:
        with dg.build_sensor_context(instance, resources={"crm": CrmDatabase()}) as context:
            data = sensor.evaluate_tick(context)
        assert data.run_requests == []
        return data.skip_message or ""

    with webhook() as hook:
        monkeypatch.setenv("LEORA_ALERT_URLS", hook.url)
        hook.status = 503
        assert "1 opened" in tick()
        hook.status = 200
        assert "0 delivered, 0 to be tried again" in tick(), "it keeps the pause"
        crm_of_user.run("UPDATE leora_pipeline.alert_message SET retry_at = now()")
        assert "1 delivered" in tick()
        tick()
        assert hook.titles == ["[Leora] broken: run failed"]


def test_a_tick_of_the_alerts_ends_in_time() -> None:
    assert TICK_SECONDS + 2 * SEND_TIMEOUT_SECONDS < 60


def test_dagsters_storage_is_named_like_any_database_and_a_bad_url_is_not_shown(
    dagster_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("LEORA_DAGSTER_DATABASE_URL", as_hosts_print(dagster_url))
    with (
        dg.DagsterInstance.from_config(str(tmp_path)) as here,
        # As a run's worker opens it.
        dg.DagsterInstance.from_ref(here.get_ref()) as there,
    ):
        assert type(there.event_log_storage) is type(here.event_log_storage)
        assert there.get_runs_count() >= 0

    monkeypatch.setenv("LEORA_DAGSTER_DATABASE_URL", "postgresql://u:Zq1x@Zq2x/Zq3x@host/dagster")
    with pytest.raises(WrongUsageError, match="LEORA_DAGSTER_DATABASE_URL") as refused:
        dg.DagsterInstance.from_config(str(tmp_path))
    assert "Zq" not in str(refused.value)


def test_dg_check_defs_and_dg_list_defs_accept_the_project(
    dagster_url: str, tmp_path: Path
) -> None:
    # `dg check defs` opens the instance that dagster.yaml describes, so it needs its variable.
    env = environment(LEORA_DAGSTER_DATABASE_URL=dagster_url, HOME=str(tmp_path))
    checked = run(BIN / "dg", "check", "defs", env=env, cwd=PROJECT_ROOT)
    listed = run(BIN / "dg", "list", "defs", "--json", env=env, cwd=PROJECT_ROOT)

    assert checked.code == 0, checked.err
    assert listed.code == 0, listed.err
    for name in (*STEPS, "refresh_account_types", "nightly_account_types", "high_churn"):
        assert name in listed.out
