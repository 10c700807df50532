"""The sensor's decision: when a tick launches a run, and what it says when it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from unittest.mock import Mock

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import RemoteJobOrigin

from leora_pipeline.core.reporting.status import STUCK_AFTER_HOURS
from leora_pipeline.core.settings import PROJECT_ROOT
from leora_pipeline.orchestration.sensors import PAUSES, reason_to_skip

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FAILURE, SUCCESS = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS
FINISHED = (FAILURE, SUCCESS, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.MANAGED)
"""MANAGED stands for runs outside Dagster, which this job has none of."""


def run_of(status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run of a status, launched from somewhere."""
    origin = Mock(spec=RemoteJobOrigin)
    return dg.DagsterRun(job_name="incremental", status=status, remote_job_origin=origin)


def ended(status: dg.DagsterRunStatus, **ago: float):
    """A run that ended so long ago."""
    return (run_of(status), NOW - timedelta(**ago))


def test_a_run_is_launched_when_somebody_waits() -> None:
    assert reason_to_skip(NOW, [], ["cellar"]) is None
    assert reason_to_skip(NOW, [ended(SUCCESS, seconds=1)], ["cellar"]) is None


def test_nobody_waiting_is_said() -> None:
    assert reason_to_skip(NOW, [], []) == "no customer is pending or due"


@pytest.mark.parametrize(
    "status",
    [status for status in dg.DagsterRunStatus if status not in FINISHED],
)
def test_one_run_at_a_time(status: dg.DagsterRunStatus) -> None:
    in_flight = (run_of(status), None)
    assert reason_to_skip(NOW, [in_flight], ["cellar"]) == "an incremental run is in flight"


def test_a_run_that_died_blocks_no_longer_than_the_maximum() -> None:
    """Dagster's run monitoring ends it, which the project's instance has to have on."""
    monitoring = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())["run_monitoring"]
    assert monitoring["enabled"] is True
    assert monitoring["max_runtime_seconds"] == STUCK_AFTER_HOURS * 3600


def test_a_failed_run_is_retried_after_growing_pauses_without_a_new_order() -> None:
    assert [PAUSES.after(n) for n in (1, 2, 3, 6, 7, 50)] == [
        30,
        60,
        120,
        960,
        1800,
        1800,
    ]
    twice = [ended(FAILURE, seconds=59), ended(FAILURE, seconds=200), ended(SUCCESS, seconds=300)]
    assert reason_to_skip(NOW, twice, ["cellar"]) == (
        "the last 2 run(s) failed; the next try is at 12:00:01 UTC"
    )
    assert reason_to_skip(NOW + timedelta(seconds=1), twice, ["cellar"]) is None


def test_a_success_ends_the_pauses() -> None:
    runs = [ended(SUCCESS, seconds=1), ended(FAILURE, seconds=5), ended(FAILURE, seconds=9)]
    assert reason_to_skip(NOW, runs, ["cellar"]) is None
