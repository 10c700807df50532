"""Keeping house: the job that keeps Dagster's event log and the pipeline's tables from growing.

Dagster deletes old ticks by itself, but runs and their events only on request; and the sensor
launches a run for every burst of changes.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from leora_pipeline.core.retention import delete_older_than
from leora_pipeline.core.settings import Settings
from leora_pipeline.orchestration.resources import CrmDatabase, as_failure

LATEST_KEPT = 20
"""Runs of each job that stay however old they are, so that its last ones can be looked at, and an
asset that is rarely made does not seem never to have been."""

PAGE = 1_000
"""Runs in memory at a time."""

_OVER = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


@dg.op(
    description="Deletes the runs, with their events, that were over long enough ago "
    "(LEORA_KEEP_RUN_DAYS), but for the latest of each job."
)
def delete_old_runs(context: dg.OpExecutionContext) -> None:
    """Deletes one by one, so that what is deleted stays so wherever the job is interrupted."""
    with as_failure():
        keep_days = Settings.from_environment().keep_run_days
    filters = dg.RunsFilter(
        statuses=_OVER, created_before=datetime.now(UTC) - timedelta(days=keep_days)
    )
    deleted = 0
    for job_name, run_ids in _by_job(context.instance, filters).items():
        latest = context.instance.get_run_ids(dg.RunsFilter(job_name=job_name), limit=LATEST_KEPT)
        for run_id in set(run_ids).difference(latest):
            context.instance.delete_run(run_id)
            deleted += 1
    context.log.info("%d runs older than %d days are deleted", deleted, keep_days)


def _by_job(instance: dg.DagsterInstance, filters: dg.RunsFilter) -> dict[str, list[str]]:
    """Returns the ids of runs by the name of their job."""
    found: dict[str, list[str]] = {}
    cursor: str | None = None
    while page := instance.get_runs(filters, cursor=cursor, limit=PAGE):
        for run in page:
            found.setdefault(run.job_name, []).append(run.run_id)
        cursor = page[-1].run_id
    return found


@dg.op(
    description="Deletes what is too old of the pipeline's tables: the history of customers and "
    "tenants (LEORA_KEEP_HISTORY_DAYS), and how runs and checks went (LEORA_KEEP_RUN_DAYS)."
)
def delete_old_rows(context: dg.OpExecutionContext, crm: CrmDatabase) -> None:
    """Keeps what is needed to know where things stand."""
    settings = Settings.from_environment()
    with crm.connect() as engine:
        deleted = delete_older_than(
            engine,
            history_days=settings.keep_history_days,
            record_days=settings.keep_run_days,
        )
    context.log.info("Deleted: %s", ", ".join(f"{count} {name}" for name, count in deleted.items()))


@dg.job(description="Deletes what is older than it is to be kept, of Dagster and of the pipeline.")
def clean_up() -> None:
    """Both, side by side: neither needs the other."""
    delete_old_runs()
    delete_old_rows()
