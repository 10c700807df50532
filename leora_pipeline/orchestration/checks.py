"""The core's data-quality checks as Dagster's asset checks: the same verdicts, shown there."""

import dagster as dg

from leora_pipeline.core.quality.catalog import CHECKS
from leora_pipeline.core.quality.checks import Check, run_check
from leora_pipeline.core.text import visible
from leora_pipeline.orchestration.resources import CrmDatabase
from leora_pipeline.orchestration.tables import table

_SEVERITIES = {"error": dg.AssetCheckSeverity.ERROR, "warn": dg.AssetCheckSeverity.WARN}


def _asset_check(check: Check) -> dg.AssetChecksDefinition:
    """Returns the asset check that runs one of the core's."""

    @dg.asset_check(name=check.name, asset=check.asset, description=check.description)
    def evaluate(context: dg.AssetCheckExecutionContext, crm: CrmDatabase) -> dg.AssetCheckResult:
        with crm.connect() as engine:
            verdicts = run_check(engine, check, run_id=context.run.run_id)
        failed = [verdict for verdict in verdicts if verdict.status == "failed"]
        return dg.AssetCheckResult(
            passed=not failed,
            severity=_SEVERITIES[check.severity],
            description="; ".join(visible(f"{v.tenant_slug}: {v.message}") for v in failed)
            or f"{sum(v.status == 'passed' for v in verdicts)} tenants pass",
            metadata={
                "leora/tenants": table(
                    ["tenant", "status", "message"],
                    [
                        {"tenant": v.tenant_slug, "status": v.status, "message": v.message}
                        for v in verdicts
                    ],
                ),
                "leora/failed": len(failed),
            },
        )

    return evaluate


ASSET_CHECKS = [_asset_check(check) for check in CHECKS]
