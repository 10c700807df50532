"""What the catalog says of each asset: description, columns and where they come from.

Open-source Dagster does not show column lineage, so each column's description names its source
too; the lineage metadata is for those who have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg

TENANTS = dg.AssetKey(["crm", "tenants"])
CUSTOMERS = dg.AssetKey(["crm", "customers"])
ORDERS = dg.AssetKey(["crm", "orders"])
LAST_ORDER_DATES = dg.AssetKey("last_order_dates")
ACCOUNT_TYPE_CHANGES = dg.AssetKey("account_type_changes")
CRM_ACCOUNT_TYPES = dg.AssetKey("crm_account_types")
ACCOUNT_TYPE_DISTRIBUTION = dg.AssetKey("account_type_distribution")
TARGET_ALERTS = dg.AssetKey("target_alerts")

STEPS = (LAST_ORDER_DATES, ACCOUNT_TYPE_CHANGES, CRM_ACCOUNT_TYPES, ACCOUNT_TYPE_DISTRIBUTION)
"""The assets that a run makes, in order: refresh, plan, apply, publish."""

Source = tuple[dg.AssetKey, str]


@dataclass(frozen=True)
class Column:
    """A column: its type, what it means, and the columns that it comes from."""

    type: str
    description: str
    sources: tuple[Source, ...] = ()


def table_metadata(table: str, columns: Mapping[str, Column]) -> dict[str, object]:
    """Returns the metadata of a table: its name, its columns, and their lineage."""
    described = []
    for name, column in columns.items():
        origin = ", ".join(f"{'/'.join(key.path)}.{source}" for key, source in column.sources)
        description = f"{column.description} (from {origin})" if origin else column.description
        described.append(dg.TableColumn(name=name, type=column.type, description=description))
    lineage = {
        name: [dg.TableColumnDep(asset_key=key, column_name=source) for key, source in c.sources]
        for name, c in columns.items()
        if c.sources
    }
    metadata: dict[str, object] = {
        "dagster/table_name": table,
        "dagster/column_schema": dg.TableSchema(columns=described),
    }
    if lineage:
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(deps_by_column=lineage)
    return metadata


_ORDER_SOURCES = (
    (ORDERS, "orderedAt"),
    (ORDERS, "status"),
    (CUSTOMERS, "lastOrderDate"),
)

CRM_ASSETS = [
    dg.AssetSpec(
        key,
        description=description,
        kinds={"postgres"},
        owners=["team:crm"],
        group_name="crm",
        metadata=table_metadata(table, columns),
    )
    for key, table, description, columns in (
        (
            TENANTS,
            'public."Tenant"',
            "The wholesalers that the CRM serves. Owned by the CRM.",
            {
                "id": Column("uuid", "Identifies the tenant"),
                "slug": Column("text", "The tenant's name in commands and reports"),
                "timezone": Column("text", "Where its days begin and end; not always valid"),
            },
        ),
        (
            CUSTOMERS,
            'public."Customer"',
            "The tenants' customers. Owned by the CRM; the pipeline writes account type, last "
            "order date and update time of those that differ, and nothing else.",
            {
                "id": Column("uuid", "Identifies the customer"),
                "tenantId": Column("uuid", "The customer's tenant"),
                "accountType": Column(
                    "AccountType", "ACTIVE, TARGET, PROSPECT, HOLD (set by people), or not yet set"
                ),
                "lastOrderDate": Column(
                    "timestamp(3)", "UTC; imported customers have one without an order"
                ),
            },
        ),
        (
            ORDERS,
            'public."Order"',
            "The customers' orders. Owned by the CRM; the pipeline only reads them.",
            {
                "id": Column("uuid", "Identifies the order"),
                "tenantId": Column("uuid", "The order's tenant"),
                "customerId": Column("uuid", "The order's customer"),
                "status": Column("OrderStatus", "DRAFT and CANCELLED orders do not count"),
                "orderedAt": Column("timestamp(3)", "UTC; may be missing, or lie in the future"),
            },
        ),
    )
]
"""The CRM's tables, which the pipeline does not make."""

STATE_COLUMNS = {
    "tenant_id": Column("uuid", "The customer's tenant", ((CUSTOMERS, "tenantId"),)),
    "customer_id": Column("uuid", "The customer", ((CUSTOMERS, "id"),)),
    "last_order_at": Column(
        "timestamptz(3)",
        "Date of the last order that counts, or the imported date of a customer without any",
        _ORDER_SOURCES,
    ),
    "next_order_at": Column(
        "timestamptz(3)", "When the next order dated in the future comes due", _ORDER_SOURCES
    ),
    "account_type": Column(
        "text", "The type that the rule gives: ACTIVE, TARGET or PROSPECT", _ORDER_SOURCES
    ),
    "needs_sync": Column(
        "boolean", "Whether the CRM still needs a sync", ((CUSTOMERS, "accountType"),)
    ),
}

CHANGE_COLUMNS = {
    "run_id": Column("text", "The run that planned it"),
    "tenant_id": Column("uuid", "The customer's tenant", ((LAST_ORDER_DATES, "tenant_id"),)),
    "customer_id": Column("uuid", "The customer", ((LAST_ORDER_DATES, "customer_id"),)),
    "from_type": Column("text", "The type in the CRM", ((CUSTOMERS, "accountType"),)),
    "to_type": Column(
        "text",
        "The type that it is to have; the same where only the date differs",
        ((LAST_ORDER_DATES, "account_type"),),
    ),
    "last_order_at": Column(
        "timestamptz(3)", "The last order date", ((LAST_ORDER_DATES, "last_order_at"),)
    ),
    "reason": Column("text", "Why, for people", ((LAST_ORDER_DATES, "last_order_at"),)),
}

WRITTEN_COLUMNS = {
    "accountType": Column("AccountType", "The account type", ((ACCOUNT_TYPE_CHANGES, "to_type"),)),
    "lastOrderDate": Column(
        "timestamp(3)", "The last order date, UTC", ((ACCOUNT_TYPE_CHANGES, "last_order_at"),)
    ),
    "updatedAt": Column("timestamp(3)", "When the row was written, UTC"),
}

DISTRIBUTION_COLUMNS = {
    "tenant_id": Column("uuid", "The tenant", ((TENANTS, "id"),)),
    "day": Column("date", "The day of as_of where the tenant is", ((TENANTS, "timezone"),)),
    "as_of": Column("timestamptz(3)", "When the customers were counted"),
    **{
        name: Column("integer", description, ((CRM_ACCOUNT_TYPES, "accountType"),))
        for name, description in (
            ("active", "Customers of type ACTIVE"),
            ("target", "Customers of type TARGET"),
            ("prospect", "Customers of type PROSPECT"),
            ("pinned", "Customers of another type, such as HOLD; no part of total"),
            ("total", "active + target + prospect"),
        )
    },
    **{
        f"{name}_pct": Column(
            "numeric(5,2)",
            f"Share of {name.upper()} in total; null where there are no customers",
            ((CRM_ACCOUNT_TYPES, "accountType"),),
        )
        for name in ("active", "target", "prospect")
    },
}

DIGEST_COLUMNS = {
    "tenant_id": Column("uuid", "The tenant", ((TENANTS, "id"),)),
    "kind": Column("text", "win_back; the table holds the messages of other alerts, too"),
    "title": Column("text", "Tenant and number of customers", ((TENANTS, "slug"),)),
    "body": Column(
        "text",
        "The customers that became TARGET, by sales rep: name, city, last order",
        ((CRM_ACCOUNT_TYPES, "accountType"), (LAST_ORDER_DATES, "last_order_at")),
    ),
    "created_at": Column("timestamptz(3)", "When the digest was written"),
    "sent_at": Column("timestamptz(3)", "When all of its addresses had got it"),
}
