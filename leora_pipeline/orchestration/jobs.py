"""The jobs, and the schedules that launch them.

What kind of run a job makes is a tag, set by its definition: configuration given at launch would
replace a job's own, and so lose it. By the tag, too, full runs queue one behind the other.
"""

from __future__ import annotations

import dagster as dg

from leora_pipeline.orchestration import catalog
from leora_pipeline.orchestration.assets import INCREMENTAL, MODE_TAG, PREVIEW
from leora_pipeline.orchestration.maintenance import clean_up

INCREMENTAL_MINUTES = 15
"""How long an incremental run may take. One that died with the code server is then ended by
Dagster's run monitoring, and the sensor launches the next, as after one that was only slow."""

refresh_account_types = dg.define_asset_job(
    "refresh_account_types",
    selection=dg.AssetSelection.assets(*catalog.STEPS, catalog.TARGET_ALERTS),
    description="The full run: looks at every customer of all tenants (or of those in the run "
    "configuration), writes what differs, publishes, checks, and lists the customers to win back.",
    tags={
        MODE_TAG: "full",
        "dagster/max_retries": "2",
        "dagster/retry_strategy": "ALL_STEPS",
    },
)

incremental_account_types = dg.define_asset_job(
    "incremental_account_types",
    selection=dg.AssetSelection.assets(*catalog.STEPS).without_checks(),
    description="The same run over the pending and the due customers alone: those that a change of "
    "the CRM concerns, and those that time has outdated. Costs what changed.",
    tags={MODE_TAG: INCREMENTAL, "dagster/max_runtime": str(60 * INCREMENTAL_MINUTES)},
)

preview_account_types = dg.define_asset_job(
    "preview_account_types",
    selection=dg.AssetSelection.assets(catalog.ACCOUNT_TYPE_CHANGES).without_checks(),
    description="The dry run: materializes the change set that a full run would make now, and "
    "touches neither the CRM nor the state.",
    tags={MODE_TAG: PREVIEW},
)

check_account_types = dg.define_asset_job(
    "check_account_types",
    selection=dg.AssetSelection.all_asset_checks(),
    description="All data-quality checks, without making anything.",
)

JOBS = [
    refresh_account_types,
    incremental_account_types,
    preview_account_types,
    check_account_types,
]


def schedules(timezone: str) -> list[dg.ScheduleDefinition]:
    """Returns the schedules, all on by default.

    Args:
        timezone: IANA name of the time zone in which the night is meant.
    """
    return [
        dg.ScheduleDefinition(
            name="nightly_account_types",
            job=refresh_account_types,
            cron_schedule="0 2 * * *",
            execution_timezone=timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Every night at 2:00: all customers of all tenants.",
        ),
        dg.ScheduleDefinition(
            name="hourly_checks",
            job=check_account_types,
            cron_schedule="15 * * * *",
            execution_timezone=timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Every hour at a quarter past: the data-quality checks.",
        ),
        dg.ScheduleDefinition(
            name="nightly_clean_up",
            job=clean_up,
            cron_schedule="30 3 * * *",
            execution_timezone=timezone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Every night at 3:30: deletes what is older than it is to be kept.",
        ),
    ]
