"""Row level security at every door: where it filters the pipeline's role, nothing is written.

A door refuses, or (the hook, which never fails its caller) leaves the customers to the next run.
Row level security that is switched on while a run, a listener or a hook is at work has tests beside
those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import dagster as dg
import pytest
import sqlalchemy as sa

from leora_pipeline import (
    LeoraError,
    OrderCreated,
    after_order_create,
    update_account_types,
    update_customer_account_type,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.definitions import defs
from leora_pipeline.orchestration.resources import CrmDatabase
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import ago

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]

FILTERED = "row level security filters"

OWN = "(\"tenantId\"::text = current_setting('app.current_tenant_id', true))"

MODES = {
    "enabled": ['CREATE POLICY own ON "{0}" USING ' + OWN],
    "enabled, without a policy": [],
    "forced": [
        'ALTER TABLE "{0}" FORCE ROW LEVEL SECURITY',
        'CREATE POLICY own ON "{0}" USING ' + OWN,
    ],
    "restrictive": [
        'CREATE POLICY everybody ON "{0}" USING (true)',
        'CREATE POLICY own ON "{0}" AS RESTRICTIVE USING ' + OWN,
    ],
}

COMMANDS = [
    ("update",),
    ("update", "--incremental"),
    ("update", "--allow-mass-change", "--reason", "archived"),
    ("preview",),
    ("check",),
    ("status",),
    ("history", "CUSTOMER"),
    ("policy", "show"),
    ("policy", "set", "--tenant-slug", "cellar", "active-within=30", "--yes"),
    ("policy", "unset", "--tenant-slug", "cellar", "--yes"),
    ("alerts", "send"),
    ("alerts", "digest"),
    ("alerts", "show"),
    ("listen",),
]


@pytest.fixture
def customer(crm_of_user: Crm, leora: Leora) -> UUID:
    """A customer that an order has made ACTIVE since the last run."""
    tenant = crm_of_user.tenant("cellar")
    customer = crm_of_user.customer(tenant, "TARGET", orders=(ago(days=200),))
    assert leora("update").code == 0
    crm_of_user.order(tenant, customer, ago(days=1))
    return customer


def switch_on(crm: Crm, table: str, mode: str) -> None:
    crm.run(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY')
    for sql in MODES[mode]:
        crm.run(sql.format(table))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("table", ["Customer", "Order"])
def test_every_command_refuses_and_writes_nothing(
    crm_of_user: Crm, leora: Leora, customer: UUID, table: str, mode: str
) -> None:
    switch_on(crm_of_user, table, mode)
    before = crm_of_user.contents()

    for arguments in COMMANDS:
        outcome = leora(*(str(customer) if part == "CUSTOMER" else part for part in arguments))
        assert outcome.code == 1, arguments
        assert f'{FILTERED} "{table}"' in outcome.error, arguments
        assert "BYPASSRLS" in outcome.error, arguments

    assert crm_of_user.contents() == before


@pytest.mark.parametrize("mode", MODES)
def test_the_python_functions_refuse_or_leave_it_to_the_next_run(
    crm_of_user: Crm, engine: sa.Engine, customer: UUID, mode: str
) -> None:
    switch_on(crm_of_user, "Order", mode)
    before = crm_of_user.contents()
    event = OrderCreated(uuid4(), customer)

    doors: list[Callable[[], object]] = [
        lambda: update_account_types(engine=engine),
        lambda: update_customer_account_type(customer, engine=engine),
    ]
    for door in doors:
        with pytest.raises((LeoraError, sa.exc.ProgrammingError), match=r"row.level security"):
            door()
    through_python = after_order_create(event, engine=engine)
    with transaction(engine) as connection:
        as_caller = after_order_create(event, connection=connection)
        in_sql = connection.execute(
            sa.text("SELECT outcome FROM leora_pipeline.after_order_create(ARRAY[:id]::uuid[])"),
            {"id": customer},
        ).scalar_one()

    assert (through_python.deferred, as_caller.deferred, in_sql) == (1, 1, "deferred")
    assert "row-level security" in (through_python.error or "")
    assert crm_of_user.contents() == before


@pytest.mark.parametrize("mode", MODES)
def test_dagsters_runs_and_sensors_refuse(
    crm_of_user: Crm,
    runtime_url: str,
    customer: UUID,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    assert customer
    monkeypatch.setenv("LEORA_DATABASE_URL", runtime_url)
    switch_on(crm_of_user, "Order", mode)
    before = crm_of_user.contents()

    with dg.DagsterInstance.ephemeral() as instance:
        for job in (
            "refresh_account_types",
            "incremental_account_types",
            "preview_account_types",
            "check_account_types",
            "clean_up",
        ):
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance, raise_on_error=False
            )
            assert not result.success, job
            reported = " ".join(str(event.event_specific_data) for event in result.all_events)
            assert FILTERED in reported, job
        for name in ("new_orders", "alerts"):
            sensor: Any = defs.resolve_sensor_def(name)
            with (
                dg.build_sensor_context(
                    instance=instance, resources={"crm": CrmDatabase()}
                ) as context,
                pytest.raises(Exception, match=FILTERED),
            ):
                sensor.evaluate_tick(context)

    assert crm_of_user.contents() == before
