"""The sensor on the order table: launches an incremental run where there is something to do."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import dagster as dg

from leora_pipeline.core.backoff import Backoff
from leora_pipeline.core.run.refresh import actionable_tenants
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.text import visible
from leora_pipeline.orchestration.jobs import incremental_account_types
from leora_pipeline.orchestration.resources import CrmDatabase

PAUSES = Backoff(first=30, longest=1800)
"""How long no run is launched after failed ones."""


def reason_to_skip(
    now: datetime,
    last_runs: Sequence[tuple[dg.DagsterRun, datetime | None]],
    waiting: Sequence[str],
) -> str | None:
    """Decides whether a tick launches a run.

    Args:
        now: The tick's time (aware).
        last_runs: The last incremental runs, latest first, each with its end (aware), if any.
        waiting: The slugs of the tenants that there is something to do for.

    Returns:
        Why the tick launches none, or None where it launches one. No run has a key: a key is spent
        by a failed run too, and what waits would then wait for ever.
    """
    # One that died with its worker is ended by Dagster's run monitoring, after its maximum.
    if not all(run.is_finished for run, _ in last_runs):
        return "an incremental run is in flight"
    if not waiting:
        return "no customer is pending or due"
    failures = len(
        list(takewhile(lambda last: last[0].status == dg.DagsterRunStatus.FAILURE, last_runs))
    )
    if failures:
        ended_at = last_runs[0][1] or now
        retry_at = ended_at + timedelta(seconds=PAUSES.after(failures))
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
        run = resolve_run(engine, mode="incremental")
        waiting_ids = set(actionable_tenants(engine, run))
    waiting = [tenant.slug for tenant in run.tenants if tenant.tenant_id in waiting_ids]
    records = context.instance.get_run_records(
        dg.RunsFilter(job_name=incremental_account_types.name), limit=20
    )
    last_runs = [
        (
            record.dagster_run,
            datetime.fromtimestamp(record.end_time, UTC) if record.end_time else None,
        )
        for record in records
    ]
    reason = reason_to_skip(datetime.now(UTC), last_runs, waiting)
    if reason:
        return dg.SkipReason(reason)
    named = visible(", ".join(waiting[:5])) + (
        f" and {len(waiting) - 5} more" if waiting[5:] else ""
    )
    return dg.RunRequest(tags={"leora/waiting": named})


SENSORS = [new_orders]
