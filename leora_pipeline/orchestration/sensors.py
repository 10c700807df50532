"""The sensor on the order table: launches an incremental run where there is something to do."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from leora_pipeline.core.reporting.status import STUCK_AFTER_HOURS
from leora_pipeline.core.run.refresh import actionable_tenants
from leora_pipeline.core.run.run import plan_run
from leora_pipeline.orchestration.jobs import incremental_account_types
from leora_pipeline.orchestration.resources import CrmDatabase

FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=30)

_IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def pause_after(failures: int) -> timedelta:
    """Returns how long to wait after so many failed runs in a row: twice as long each time."""
    doublings = min(failures - 1, 20)
    return min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def reason_to_skip(
    now: datetime,
    last_runs: Sequence[tuple[dg.DagsterRunStatus, datetime, datetime | None]],
    waiting: Sequence[str],
) -> str | None:
    """Decides whether a tick launches a run.

    Args:
        now: The tick's time (aware).
        last_runs: Status, creation and end (aware) of the last incremental runs, latest first.
        waiting: The slugs of the tenants for whom there is something to do.

    Returns:
        Why the tick launches none, or None where it launches one. No run has a key: a key is spent
        by a failed run too, and what waits would then wait for ever.
    """
    # A run that died with its worker stays in flight for good; older than the maximum, it is dead.
    oldest = now - timedelta(hours=STUCK_AFTER_HOURS)
    if any(status in _IN_FLIGHT and created > oldest for status, created, _ in last_runs):
        return "an incremental run is in flight"
    if not waiting:
        return "no customer is pending or due"
    failures = 0
    for status, _, _ in last_runs:
        if status != dg.DagsterRunStatus.FAILURE:
            break
        failures += 1
    if failures:
        ended = last_runs[0][2] or last_runs[0][1]
        retry_at = ended + pause_after(failures)
        if now < retry_at:
            return f"the last {failures} run(s) failed; the next try is at {retry_at:%H:%M:%S} UTC"
    return None


@dg.sensor(
    name="new_orders",
    job=incremental_account_types,
    # Less than the daemon's own rhythm of 5 s: a tick that comes a little early counts as well.
    minimum_interval_seconds=3,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches an incremental run when orders or customers changed, or a threshold "
    "passed; one at a time. A failed run is retried after growing pauses.",
)
def new_orders(
    context: dg.SensorEvaluationContext, crm: CrmDatabase
) -> dg.RunRequest | dg.SkipReason:
    """Looks once, by index ranges, at what waits."""
    with crm.connect() as engine:
        run = plan_run(engine, mode="incremental")
        waiting_ids = set(actionable_tenants(engine, run))
    waiting = [tenant.slug for tenant in run.tenants if tenant.tenant_id in waiting_ids]
    records = context.instance.get_run_records(
        dg.RunsFilter(job_name=incremental_account_types.name), limit=20
    )
    last_runs = [
        (
            record.dagster_run.status,
            record.create_timestamp,
            datetime.fromtimestamp(record.end_time, UTC) if record.end_time else None,
        )
        for record in records
    ]
    reason = reason_to_skip(datetime.now(UTC), last_runs, waiting)
    if reason:
        return dg.SkipReason(reason)
    named = ", ".join(waiting[:5]) + (f" and {len(waiting) - 5} more" if waiting[5:] else "")
    return dg.RunRequest(tags={"leora/waiting": named})


SENSORS = [new_orders]
