"""The sensor's decision: when a tick launches a run, and what it says when it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from leora_pipeline.orchestration.sensors import pause_after, reason_to_skip

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FAILURE, SUCCESS, STARTED = (
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.STARTED,
)


def ended(status: dg.DagsterRunStatus, **ago: float):
    """A run that ended so long ago."""
    end = NOW - timedelta(**ago)
    return (status, end - timedelta(seconds=5), end)


def test_a_run_is_launched_when_somebody_waits() -> None:
    assert reason_to_skip(NOW, [], ["cellar"]) is None
    assert reason_to_skip(NOW, [ended(SUCCESS, seconds=1)], ["cellar"]) is None


def test_nobody_waiting_is_said() -> None:
    assert reason_to_skip(NOW, [], []) == "no customer is pending or due"


@pytest.mark.parametrize(
    "status",
    [STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED],
)
def test_one_run_at_a_time(status: dg.DagsterRunStatus) -> None:
    in_flight = (status, NOW - timedelta(minutes=119), None)
    assert reason_to_skip(NOW, [in_flight], ["cellar"]) == "an incremental run is in flight"


def test_a_run_that_died_blocks_no_longer_than_the_maximum() -> None:
    dead = (STARTED, NOW - timedelta(minutes=121), None)
    assert reason_to_skip(NOW, [dead], ["cellar"]) is None


def test_a_failed_run_is_retried_after_growing_pauses_without_a_new_order() -> None:
    assert [pause_after(n).total_seconds() for n in (1, 2, 3, 6, 7, 50)] == [
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
