"""The designed graph, and what a run left in Dagster's event log."""

from typing import Any

import dagster as dg

STEPS = (
    "last_order_dates",
    "account_type_changes",
    "crm_account_types",
    "account_type_distribution",
)


ASSETS = (*STEPS, "target_alerts")


CHECKS = {
    "last_order_dates": {
        "orders_of_own_tenant": "ERROR",
        "few_future_orders": "WARN",
        "state_matches_orders": "ERROR",
    },
    "account_type_changes": {"no_tenant_held": "ERROR"},
    "crm_account_types": {"crm_agrees_with_rule": "ERROR"},
    "account_type_distribution": {
        "high_churn": "ERROR",
        "poor_retention": "ERROR",
        "outside_healthy": "WARN",
        "fresh": "ERROR",
    },
}
"""design.md's table of checks: on which asset, of which severity."""


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """Returns the metadata of an asset's materialization, as plain values."""
    (event,) = (
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset)
    )
    return {
        key: shown.records if isinstance(shown, dg.TableMetadataValue) else shown.value
        for key, shown in event.materialization.metadata.items()
    }
