"""The web server and the daemon, as production starts them and as people and scripts use them.

One server for the module. The bodies sent to GraphQL are those that docs/launching.md quotes.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.settings import PROJECT_ROOT
from leora_pipeline.embedded import EmbeddedPostgres
from leora_pipeline.sample import SampleTenant
from leora_pipeline_tests.acceptance.browser import browse
from leora_pipeline_tests.acceptance.conftest import Crm, as_hosts_print
from leora_pipeline_tests.acceptance.servers import REPOSITORY, Server, launch_body
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import (
    BIN,
    environment,
    free_port,
    kill_all,
    processes_of,
    start,
    wait_until,
)
from leora_pipeline_tests.receivers import Webhook, webhook

HEALTHY = SampleTenant("hillside", "Hillside", "UTC", 68, 8, 24, 2)
OTHER = SampleTenant("riverside", "Riverside", "UTC", 30, 4, 9, 0)

STEPS = (
    "last_order_dates",
    "account_type_changes",
    "crm_account_types",
    "account_type_distribution",
)


@pytest.fixture(scope="module")
def served_crm(server: EmbeddedPostgres, templates: dict[str, str]) -> Iterator[Crm]:
    """The CRM behind the server, with two tenants whose types are out of date."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {templates['pipeline']}")
    engine = create_engine(server.url(name))
    crm = Crm(engine)
    crm.load(HEALTHY, OTHER)
    crm.tenant("newcomer")
    # As if the schema had come after the data: the sensor is to leave them to the tests.
    crm.run("DELETE FROM leora_pipeline.pending_customer")
    yield crm
    engine.dispose()


@pytest.fixture(scope="module")
def hook() -> Iterator[Webhook]:
    """A webhook to which the daemon's alerts go."""
    with webhook() as running:
        yield running


@pytest.fixture(scope="module")
def dagster(
    served_crm: Crm, dagster_url: str, hook: Webhook, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Web server, daemon and code server, on the project's own dagster.yaml and workspace.yaml."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(PROJECT_ROOT / "dagster.yaml", home)
    url = served_crm.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    port = free_port()
    log = home / "dagster.log"
    mark = f"dagster-server-{uuid4().hex}"
    process = start(
        BIN / "dagster",
        "dev",
        *("-w", PROJECT_ROOT / "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)),
        env=environment(
            DAGSTER_HOME=str(home),
            LEORA_DATABASE_URL=as_hosts_print(url),
            LEORA_ALERT_URLS=hook.url,
            LEORA_DAGSTER_DATABASE_URL=as_hosts_print(dagster_url),
            TEST_MARK=mark,
        ),
        cwd=home,
        log=log,
    )
    server = Server(f"http://127.0.0.1:{port}", served_crm)

    names = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"

    def is_loaded() -> bool:
        assert process.poll() is None, f"the server ended:\n{log.read_text()}"
        try:
            found = server.post({"query": names})
        except OSError:
            return False
        return bool(found["repositoriesOrError"].get("nodes"))

    try:
        wait_until(is_loaded, seconds=90, what="the server answers", every=0.3)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
            wait_until(lambda: not processes_of(mark), seconds=10, what="all of it ends")
        finally:
            kill_all(mark)


def test_a_run_launched_through_graphql_makes_every_tenant_right(dagster: Server) -> None:
    for_one = dagster.launch(tenants=["riverside"])
    assert dagster.finished(for_one) == "SUCCESS"
    assert dagster.crm.counts("riverside") == {"ACTIVE": 30, "TARGET": 4, "PROSPECT": 9}
    assert dagster.crm.counts("hillside") != {"ACTIVE": 68, "TARGET": 8, "PROSPECT": 24, "HOLD": 2}

    for_all = dagster.launch()
    assert dagster.finished(for_all) == "SUCCESS"

    assert dagster.crm.counts("hillside") == {"ACTIVE": 68, "TARGET": 8, "PROSPECT": 24, "HOLD": 2}
    runs = dagster.crm.run(
        "SELECT r.run_id, t.slug FROM leora_pipeline.tenant_run AS r "
        'JOIN "Tenant" AS t ON t.id = r.tenant_id '
        "WHERE r.status = 'succeeded' AND r.mode = 'full'"
    )
    assert {tuple(row) for row in runs} == {
        (for_one, "riverside"),
        (for_all, "hillside"),
        (for_all, "newcomer"),
        (for_all, "riverside"),
    }


def test_an_order_in_the_database_is_enough_for_the_sensor(dagster: Server) -> None:
    [tenant] = dagster.crm.run("SELECT id FROM \"Tenant\" WHERE slug = 'newcomer'")[0]
    customer = dagster.crm.customer(tenant, None)
    dagster.crm.order(tenant, customer, ago(days=1))

    wait_until(
        lambda: dagster.crm.type_of(customer) == "ACTIVE", seconds=90, what="the sensor acts"
    )

    wait_until(
        lambda: dagster.crm.run(
            "SELECT FROM leora_pipeline.tenant_run "
            "WHERE tenant_id = :tenant AND mode = 'incremental' AND status = 'succeeded'",
            tenant=tenant,
        ),
        seconds=30,
        what="the run publishes and ends",
    )
    assert dagster.crm.pending() == set()


def test_what_is_wrong_is_taken_by_the_daemon_and_so_is_its_end(
    dagster: Server, hook: Webhook
) -> None:
    title = "[Leora] newcomer: poor retention"
    for status, expected in (("failed", title), ("passed", f"{title} (resolved)")):
        dagster.crm.run(
            "INSERT INTO leora_pipeline.health_verdict SELECT id, 'poor_retention', "
            "clock_timestamp(), NULL, 'error', :status, 'TARGET 25.0 %' "
            "FROM \"Tenant\" WHERE slug = 'newcomer'",
            status=status,
        )
        wait_until(lambda title=expected: title in hook.titles, seconds=90, what=expected)
    assert hook.titles.count(title) == hook.titles.count(f"{title} (resolved)") == 1


def test_a_run_of_an_unknown_tenant_fails_with_a_line_that_names_it(dagster: Server) -> None:
    run_id = dagster.launch("preview_account_types", tenants=["hilside"])

    assert dagster.finished(run_id) == "FAILURE"
    query = (
        "query Failures($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { "
        "... on ExecutionStepFailureEvent { failureMetadata { description } } } } } }"
    )
    events = dagster.post({"query": query, "variables": {"id": run_id}})["logsForRun"]["events"]
    reported = [event["failureMetadata"]["description"] for event in events if event]
    assert reported == ["unknown tenant hilside; known are: hillside, newcomer, riverside"]


def test_configuration_that_does_not_exist_is_refused_at_launch(dagster: Server) -> None:
    config = {"resources": {"scope": {"config": {"tenant": ["hillside"]}}}}

    refused = dagster.post(launch_body("refresh_account_types", config))["launchRun"]

    assert refused["__typename"] == "RunConfigValidationInvalid"
    assert "tenant" in refused["errors"][0]["message"]


def test_the_schedules_run_without_anyone_turning_them_on(dagster: Server) -> None:
    query = (
        "query Schedules($repository: RepositorySelector!) { schedulesOrError("
        "repositorySelector: $repository) { ... on Schedules { results { name cronSchedule "
        "executionTimezone pipelineName scheduleState { status } } } } }"
    )
    found = dagster.post({"query": query, "variables": {"repository": REPOSITORY}})
    schedules = {
        schedule["name"]: (
            schedule["pipelineName"],
            schedule["cronSchedule"],
            schedule["executionTimezone"],
            schedule["scheduleState"]["status"],
        )
        for schedule in found["schedulesOrError"]["results"]
    }

    assert schedules["nightly_account_types"] == (
        "refresh_account_types",
        "0 2 * * *",
        "America/New_York",
        "RUNNING",
    )
    assert schedules["hourly_checks"][0] == "check_account_types"
    assert schedules["hourly_checks"][3] == "RUNNING"


def test_the_daemons_that_the_schedules_need_are_healthy(dagster: Server) -> None:
    query = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"

    def healthy() -> bool:
        statuses = dagster.post({"query": query})["instance"]["daemonHealth"]["allDaemonStatuses"]
        needed = {status["daemonType"] for status in statuses if status["required"]}
        assert {"SCHEDULER", "QUEUED_RUN_COORDINATOR", "MONITORING"} <= needed
        return all(status["healthy"] for status in statuses if status["required"])

    wait_until(healthy, seconds=60, what="all daemons are healthy", every=0.3)


def test_the_asset_graph_stands_in_the_server_with_its_lineage(dagster: Server) -> None:
    nodes = dagster.post(
        {"query": "{ assetNodes { assetKey { path } dependencyKeys { path } isExecutable } }"}
    )["assetNodes"]

    graph = {
        "/".join(node["assetKey"]["path"]): {"/".join(k["path"]) for k in node["dependencyKeys"]}
        for node in nodes
    }
    assert graph == {
        "crm/tenants": set(),
        "crm/customers": set(),
        "crm/orders": set(),
        "last_order_dates": {"crm/tenants", "crm/customers", "crm/orders"},
        "account_type_changes": {"last_order_dates"},
        "crm_account_types": {"account_type_changes"},
        "account_type_distribution": {"crm_account_types", "crm/tenants"},
        "target_alerts": {"crm_account_types"},
    }
    made = {"/".join(n["assetKey"]["path"]) for n in nodes if n["isExecutable"]}
    assert made == {*STEPS, "target_alerts"}


def test_a_person_sees_the_lineage_and_a_run_in_the_browser(
    dagster: Server, chromium: str, tmp_path: Path
) -> None:
    run_id = dagster.launch("preview_account_types")
    assert dagster.finished(run_id) == "SUCCESS"
    # Dagster greets each new instance with an invitation that covers the page.
    dagster.post({"query": "mutation { setNuxSeen }"})
    group = "/locations/leora_pipeline/asset-groups/account_types/lineage"

    lineage = browse(chromium, f"{dagster.url}{group}", tmp_path / "lineage.png")
    shown = browse(chromium, f"{dagster.url}/runs/{run_id}", tmp_path / "run.png")

    for asset in (*STEPS, "tenants", "customers", "orders"):
        assert asset in lineage, f"{asset} is not on the lineage page"
    for part in ("preview_account_types", "account_type_changes", "RUN_SUCCESS", run_id[:8]):
        assert part in shown, f"{part} is not on the run's page"
    for picture in ("lineage.png", "run.png"):
        assert (tmp_path / picture).stat().st_size > 20_000, f"{picture} is empty"
