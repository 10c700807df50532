"""The sensor that notifies people of what is wrong: a thin shell around the core's incidents."""

import dagster as dg

from leora_pipeline.core.alerting.delivery import deliver_messages
from leora_pipeline.core.alerting.incidents import sync_incidents
from leora_pipeline.core.settings import Settings
from leora_pipeline.core.text import visible
from leora_pipeline.orchestration.resources import CrmDatabase

TICK_SECONDS = 15
"""How long a tick begins deliveries; the last of them may take its own time limit, another sender's
may hold the tick up for as long, and a tick has 60 s."""


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Opens, reminds of and resolves incidents, and delivers the messages about them "
    "to LEORA_ALERT_URLS and the tenants' own addresses. Launches nothing; what cannot be "
    "delivered is tried again after growing pauses.",
)
def alerts(context: dg.SensorEvaluationContext, crm: CrmDatabase) -> dg.SkipReason:
    """Finds what is wrong, and delivers the messages about it."""
    settings = Settings.from_environment()
    with crm.connect() as engine:
        changes = sync_incidents(engine)
        delivery = deliver_messages(engine, settings.alert_urls, seconds=TICK_SECONDS)
    faults = settings.faults()
    for problem in (*faults, *delivery.errors):
        context.log.warning(problem)
    return dg.SkipReason(
        f"alerts: {changes.opened} opened, {changes.reminded} reminded of, "
        f"{changes.resolved} resolved; messages: {delivery.sent} delivered, "
        f"{delivery.failed} to be tried again" + "".join(f"; {visible(fault)}" for fault in faults)
    )
