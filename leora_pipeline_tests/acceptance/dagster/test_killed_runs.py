"""What a kill of Dagster's processes leaves behind."""

from __future__ import annotations

import time

import psutil
import psycopg
import pytest

from leora_pipeline.orchestration.jobs import INCREMENTAL_MINUTES
from leora_pipeline_tests.acceptance.kills import Dev, Killed, locked, stands_at
from leora_pipeline_tests.processes import processes_of, wait_until


def test_without_a_listener_the_sensor_launches_a_run_for_an_order(
    dev: Dev, request: pytest.FixtureRequest
) -> None:
    assert dev.runs() == []
    tenant, customer = dev.customers[0]
    url = dev.crm.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
            "VALUES (gen_random_uuid(), %s, %s, 'FULFILLED', now() AT TIME ZONE 'UTC', now())",
            [tenant, customer],
        )
        committed = time.monotonic()
        wait_until(
            lambda: dev.crm.type_of(customer) == "ACTIVE",
            seconds=90,
            what="the order is taken",
            every=0.02,
        )
        seconds = round(time.monotonic() - committed, 2)
    # Told, not judged; the fixture `record_property` does the same, but warns where JUnit reports.
    request.node.user_properties.append(("seconds_from_commit_to_new_type", seconds))

    [launched] = dev.runs()
    assert dev.server.finished(launched["runId"]) == "SUCCESS"
    assert {"key": "dagster/sensor_name", "value": "new_orders"} in launched["tags"]
    log = dev.crm.run("SELECT customer_id, run_id FROM leora_pipeline.account_type_transition")
    assert [tuple(row) for row in log] == [(customer, launched["runId"])]
    assert dev.crm.run("SELECT FROM leora_pipeline.listener") == []


def test_a_full_run_whose_process_is_killed_is_run_again_whole(dev: Dev) -> None:
    with locked(dev.crm, "LOCK TABLE leora_pipeline.customer_state IN SHARE MODE"):
        killed = dev.server.launch()
        wait_until(lambda: stands_at(dev.crm, "%customer_state%"), seconds=90, what="it is at work")
        [proxy] = [pid for pid, line in processes_of(dev.mark).items() if " code-server " in line]
        [server] = psutil.Process(proxy).children()
        workers = [p for p in server.children() if "spawn_main" in " ".join(p.cmdline())]
        assert len(workers) == 1, workers
        workers[0].kill()

    assert dev.server.finished(killed) == "FAILURE"
    again = wait_until(
        lambda: [run for run in dev.runs("refresh_account_types") if run["runId"] != killed],
        seconds=90,
        what="it is run again",
    )
    assert dev.server.finished(again[0]["runId"]) == "SUCCESS"
    assert {"key": "dagster/parent_run_id", "value": killed} in again[0]["tags"]


def test_a_run_killed_with_its_code_server_stays_in_flight_and_the_sensor_waits_for_it(
    dev: Dev, killed: Killed
) -> None:
    wait_until(lambda: dev.skips(since=killed.since), seconds=90, what="the sensor looks again")

    assert dev.skips(since=killed.since) == {"an incremental run is in flight"}
    assert dev.server.status(killed.run_id) == "STARTED"
    assert dev.crm.type_of(killed.customer) == "TARGET"
    assert dev.crm.log(killed.customer) == []


def test_a_killed_run_older_than_the_maximum_is_not_waited_for(dev: Dev, killed: Killed) -> None:
    with psycopg.connect(dev.dagster_url) as connection:
        connection.execute(
            "UPDATE runs SET create_timestamp = create_timestamp - make_interval(mins => %s), "
            "start_time = start_time - 60 * %s WHERE run_id = %s",
            [INCREMENTAL_MINUTES, INCREMENTAL_MINUTES, killed.run_id],
        )

    # Dagster's run monitoring looks once a minute, and what failed is retried after half of one.
    wait_until(
        lambda: dev.crm.type_of(killed.customer) == "ACTIVE",
        seconds=200,
        what="the next run takes the order",
    )

    successor = dev.runs()[0]["runId"]
    assert successor != killed.run_id
    assert dev.server.finished(successor) == "SUCCESS"
    assert dev.crm.log(killed.customer) == [("TARGET", "ACTIVE", "order")]
    assert dev.server.status(killed.run_id) == "FAILURE", "Dagster has ended it"
