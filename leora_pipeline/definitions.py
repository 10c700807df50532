"""Dagster's entry: all definitions, put together.

Loading this module connects to nothing and imports nothing heavy, so that the daemon, the web
server and each run start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.settings import DEFAULT_SCHEDULE_TIMEZONE, Settings
from leora_pipeline.orchestration.alerts import alerts
from leora_pipeline.orchestration.assets import ASSETS
from leora_pipeline.orchestration.catalog import CRM_ASSETS
from leora_pipeline.orchestration.checks import ASSET_CHECKS
from leora_pipeline.orchestration.jobs import JOBS, schedules
from leora_pipeline.orchestration.maintenance import clean_up
from leora_pipeline.orchestration.resources import CrmDatabase, NothingHandedOn, RunScope
from leora_pipeline.orchestration.sensors import SENSORS


def build_defs(resource_overrides: Mapping[str, object] | None = None) -> dg.Definitions:
    """Returns the definitions; production and tests differ in resources alone.

    Args:
        resource_overrides: Resources to put in the place of production's, by name.
    """
    return dg.Definitions(
        assets=[*CRM_ASSETS, *ASSETS],
        asset_checks=ASSET_CHECKS,
        jobs=[*JOBS, clean_up],
        schedules=schedules(_timezone()),
        sensors=[*SENSORS, alerts],
        resources={
            "crm": CrmDatabase(),
            "io_manager": NothingHandedOn(),
            "scope": RunScope.configure_at_launch(),
            **(resource_overrides or {}),
        },
        # A run has few, short steps: a process for each would cost more than all of them.
        executor=dg.in_process_executor,
    )


def _timezone() -> str:
    """Returns the time zone of the schedules; a wrong one must not stop the nights.

    `leora status` and the sensor `alerts` say that it is wrong.
    """
    try:
        return Settings.from_environment().schedule_timezone
    except WrongUsageError:
        return DEFAULT_SCHEDULE_TIMEZONE


defs = build_defs()
