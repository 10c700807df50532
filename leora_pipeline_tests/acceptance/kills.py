"""What tests need that kill commands, servers and daemons: locks to stand at, and who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.acceptance.conftest import Crm
from leora_pipeline_tests.acceptance.servers import REPOSITORY, Server
from leora_pipeline_tests.processes import (
    wait_until,
)

DEADLINE = 30.0


def eventually(condition: Callable[[], Any], what: str) -> None:
    wait_until(condition, seconds=DEADLINE, what=what, every=0.02)


@contextmanager
def locked(crm: Crm, lock: str) -> Iterator[None]:
    """Holds a lock for as long as the block lasts."""
    with transaction(crm.engine) as connection:
        connection.execute(sa.text(lock))
        yield


def stands_at(crm: Crm, query: str) -> bool:
    """Returns whether somebody waits for a lock in a statement like that."""
    return bool(
        crm.run(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event_type = 'Lock' AND query LIKE :query",
            query=query,
        )
    )


JOB = "incremental_account_types"


RUNS = (
    "query Runs($job: String!) { runsOrError(filter: {pipelineName: $job}) { ... on Runs { "
    "results { runId status tags { key value } } } } }"
)


TICKS = (
    "query Ticks($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) { "
    "... on Sensor { sensorState { ticks(limit: 5) { timestamp status skipReason } } } } }"
)


@dataclass(frozen=True)
class Dev:
    """``leora dev --no-listener`` in a copy of the project, on an embedded server of its own.

    Attributes:
        root: The copy.
        server: Its web server.
        crm: Its CRM.
        dagster_url: The database of Dagster's storage.
        customers: Two customers of type TARGET whom an order would make ACTIVE, with their tenant.
        mark: What its processes have in their environment.
    """

    root: Path
    server: Server
    crm: Crm
    dagster_url: str
    customers: Sequence[tuple[UUID, UUID]]
    mark: str

    def runs(self, job: str = JOB) -> list[dict[str, Any]]:
        """Returns a job's runs, the latest first."""
        found: list[dict[str, Any]] = self.server.post({"query": RUNS, "variables": {"job": job}})[
            "runsOrError"
        ]["results"]
        return found

    def skips(self, *, since: float = 0.0) -> set[str]:
        """Returns why the sensor's last ticks since then have launched nothing."""
        selector = {**REPOSITORY, "sensorName": "new_orders"}
        try:
            sensor = self.server.post({"query": TICKS, "variables": {"sensor": selector}})
        except OSError:
            return set()
        ticks = sensor["sensorOrError"].get("sensorState", {}).get("ticks", [])
        return {
            tick["skipReason"]
            for tick in ticks
            if tick["status"] == "SKIPPED" and tick["timestamp"] > since
        }


@dataclass(frozen=True)
class Killed:
    """A run whose worker died together with the code server.

    Attributes:
        run_id: The run.
        customer: The customer whose order it was about to take.
        since: When it died (seconds since the epoch).
    """

    run_id: str
    customer: UUID
    since: float
