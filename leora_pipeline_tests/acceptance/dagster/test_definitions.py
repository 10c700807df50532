"""The definitions as Dagster loads them: assets, checks, jobs, schedules."""

import sys

import dagster as dg
import pytest

from leora_pipeline.definitions import build_defs, defs
from leora_pipeline_tests.acceptance.conftest import Crm
from leora_pipeline_tests.acceptance.dagster_runs import ASSETS, CHECKS, STEPS
from leora_pipeline_tests.processes import environment, run

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]


def test_definitions_load_quickly_connect_to_nothing_and_leave_out_what_is_heavy() -> None:
    program = """
import socket, sys, time
def refuse(*arguments, **named):
    raise AssertionError("the definitions connect")
socket.socket.connect = socket.create_connection = refuse
import psycopg
psycopg.connect = psycopg.Connection.connect = refuse
begun = time.process_time()
import leora_pipeline.definitions
print(time.process_time() - begun)
print([name for name in ("great_expectations", "matplotlib", "scipy") if name in sys.modules])
"""
    reported = run(
        sys.executable,
        "-c",
        program,
        env=environment(LEORA_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere"),
    )

    assert (reported.code, reported.err) == (0, "")
    seconds, heavy = reported.lines
    assert heavy == "[]"
    assert float(seconds) < 5


def test_the_asset_graph_is_the_designs() -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}

    seen = {
        key: (
            {dep.asset_key.to_user_string() for dep in spec.deps},
            spec.group_name,
            list(spec.owners),
            spec.metadata["dagster/table_name"],
        )
        for key, spec in specs.items()
    }

    crm = {"crm/tenants", "crm/customers", "crm/orders"}
    ours = ("account_types", ["team:data"])
    assert seen == {
        "crm/tenants": (set(), "crm", ["team:crm"], 'public."Tenant"'),
        "crm/customers": (set(), "crm", ["team:crm"], 'public."Customer"'),
        "crm/orders": (set(), "crm", ["team:crm"], 'public."Order"'),
        "last_order_dates": (crm, *ours, "leora_pipeline.customer_state"),
        "account_type_changes": (
            {"last_order_dates"},
            *ours,
            "leora_pipeline.account_type_change",
        ),
        "crm_account_types": ({"account_type_changes"}, *ours, 'public."Customer"'),
        "account_type_distribution": (
            {"crm_account_types", "crm/tenants"},
            *ours,
            "leora_pipeline.account_type_distribution",
        ),
        "target_alerts": ({"crm_account_types"}, *ours, "leora_pipeline.alert_message"),
    }
    for key, spec in specs.items():
        assert "postgres" in spec.kinds, key
        assert len(spec.description or "") > 20, key


def test_the_crms_tables_are_external_and_no_asset_is_partitioned() -> None:
    graph = defs.resolve_asset_graph()

    assert {key.to_user_string() for key in graph.external_asset_keys} == {
        "crm/tenants",
        "crm/customers",
        "crm/orders",
    }
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == set(ASSETS)
    for key in graph.materializable_asset_keys:
        assert graph.get(key).partitions_def is None


def test_every_column_is_described_names_its_source_and_exists(crm_of_user: Crm) -> None:
    existing: dict[str, set[str]] = {}
    for schema, table, column in crm_of_user.run(
        "SELECT table_schema, table_name, column_name FROM information_schema.columns "
        "WHERE table_schema IN ('public', 'leora_pipeline')"
    ):
        name = f'{schema}."{table}"' if schema == "public" else f"{schema}.{table}"
        existing.setdefault(name, set()).add(column)
    specs = {spec.key: spec for spec in defs.resolve_all_asset_specs()}
    schemas = {key: spec.metadata["dagster/column_schema"].columns for key, spec in specs.items()}

    for key, spec in specs.items():
        columns = {column.name: column for column in schemas[key]}
        assert columns, key
        assert set(columns) <= existing[spec.metadata["dagster/table_name"]], key
        assert all(column.description for column in columns.values()), key
        lineage = spec.metadata.get("dagster/column_lineage")
        assert bool(lineage) == (key.to_user_string() in ASSETS)
        for name, sources in (lineage.deps_by_column if lineage else {}).items():
            for source in sources:
                known = {column.name for column in schemas[source.asset_key]}
                assert source.column_name in known, f"{key}.{name}"
                origin = f"{'/'.join(source.asset_key.path)}.{source.column_name}"
                assert origin in columns[name].description


def test_the_tables_that_others_may_read_are_described_whole(crm_of_user: Crm) -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    for key in ("account_type_changes", "account_type_distribution"):
        schema, table = specs[key].metadata["dagster/table_name"].split(".")
        rows = crm_of_user.run(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_schema = :schema AND table_name = :table",
            schema=schema,
            table=table,
        )
        described = {c.name for c in specs[key].metadata["dagster/column_schema"].columns}
        assert described == {row.column_name for row in rows}


def test_the_checks_stand_where_the_design_puts_them_and_none_blocks() -> None:
    graph = defs.resolve_asset_graph()

    assert {(k.asset_key.to_user_string(), k.name) for k in graph.asset_check_keys} == {
        (asset, name) for asset, checks in CHECKS.items() for name in checks
    }
    for key in graph.asset_check_keys:
        node = graph.get(key)
        assert not node.blocking, f"{key.name} blocks; the gate is what blocks"
        assert len(node.description or "") > 20, key.name


def test_the_jobs_cover_what_their_names_say() -> None:
    selected = {
        job.name: {key.to_user_string() for key in job.asset_layer.selected_asset_keys}
        for job in (
            defs.resolve_job_def(name)
            for name in (
                "refresh_account_types",
                "incremental_account_types",
                "preview_account_types",
                "check_account_types",
            )
        )
    }

    assert selected == {
        "refresh_account_types": set(ASSETS),
        "incremental_account_types": set(STEPS),
        "preview_account_types": {"account_type_changes"},
        "check_account_types": set(),
    }
    checks = {
        name: len(defs.resolve_job_def(name).asset_layer.asset_graph.asset_check_keys)
        for name in selected
    }
    assert checks["preview_account_types"] == 0
    assert checks["check_account_types"] == sum(len(of_asset) for of_asset in CHECKS.values())
    assert defs.resolve_job_def("refresh_account_types").tags["leora/mode"] == "full"


def test_what_a_run_connects_to_is_no_part_of_its_configuration() -> None:
    """Whoever can launch a run can set every field of its configuration."""

    def fields_of(schema: dg.Field) -> dict[str, dg.Field]:
        return getattr(schema.config_type, "fields", {})

    configurable = {
        job.name: {
            resource: set(fields_of(fields_of(field)["config"]))
            for resource, field in fields_of(
                job.run_config_schema.run_config_schema_type.fields["resources"]
            ).items()
        }
        for job in defs.get_repository_def().get_all_jobs()
    }

    assert len(configurable) >= 6
    scope = {"tenants", "as_of", "allow_mass_change", "reason"}
    for name, by_resource in configurable.items():
        assert {r: fields for r, fields in by_resource.items() if fields} == {"scope": scope}, name


@pytest.mark.parametrize("resource", ["crm", "io_manager"])
def test_a_run_that_would_connect_elsewhere_is_refused_before_it_starts(resource: str) -> None:
    config = {"resources": {resource: {"config": {"url": "postgresql://elsewhere/crm"}}}}

    for job in defs.get_repository_def().get_all_jobs():
        with pytest.raises(dg.DagsterInvalidConfigError, match="url"):
            dg.validate_run_config(job, config)


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (None, "America/New_York"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("", "America/New_York"),
        ("Mars/Olympus", "America/New_York"),
    ],
)
def test_the_schedules_run_by_themselves_in_the_configured_time_zone(
    monkeypatch: pytest.MonkeyPatch, configured: str | None, expected: str
) -> None:
    if configured is not None:
        monkeypatch.setenv("LEORA_SCHEDULE_TIMEZONE", configured)
    repository = build_defs().get_repository_def()

    seen = {
        schedule.name: (
            schedule.job_name,
            schedule.cron_schedule,
            schedule.execution_timezone,
            schedule.default_status,
        )
        for schedule in repository.schedule_defs
    }

    running = dg.DefaultScheduleStatus.RUNNING
    assert seen["nightly_account_types"] == (
        "refresh_account_types",
        "0 2 * * *",
        expected,
        running,
    )
    job, cron, timezone, status = seen["hourly_checks"]
    assert (job, timezone, status) == ("check_account_types", expected, running)
    assert cron.split()[1:] == ["*", "*", "*", "*"], "once an hour"
