"""The catalog of checks: for each, the asset it speaks of, what it reads, and what has to be true.

None of the checks blocks a run: the gate is what blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.gate import describe_order_loss, read_tenant_holds
from leora_pipeline.core.database.connection import now, transaction, tune_for_whole_tables
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.quality.checks import Check, Library, Row
from leora_pipeline.core.quality.expectations import Expectations
from leora_pipeline.core.quality.verdicts import STALE_AFTER_HOURS, Verdict

SQL = statements(__name__)


SAMPLE = 200
"""Customers of each tenant whose state is derived anew to compare."""


INSPECTED = 1_000
"""Disagreeing customers of each tenant that are looked at a second time."""


def read_verdicts(engine: sa.Engine, run_id: str) -> list[Verdict]:
    """Returns the verdicts that a run recorded, in the order of checks and slugs."""
    order = [check.name for check in CHECKS]
    with transaction(engine) as connection:
        rows = connection.execute(SQL.verdicts_of_run, {"run_id": run_id}).all()
    verdicts = [Verdict(**row._mapping) for row in rows]
    return sorted(verdicts, key=lambda verdict: order.index(verdict.check_name))


def _reader(
    name: str, *, is_heavy: bool = False, **parameters: object
) -> Callable[[sa.Engine], list[Row]]:
    """Returns what reads the rows of a named statement; a heavy one reads whole tables."""

    def read(engine: sa.Engine) -> list[Row]:
        with transaction(engine) as connection:
            if is_heavy:
                tune_for_whole_tables(connection)
            return _rows(connection, name, **parameters)

    return read


def _rows(connection: sa.Connection, name: str, **parameters: object) -> list[Row]:
    return [dict(row) for row in connection.execute(SQL[name], parameters).mappings()]


def read_freshness(connection: sa.Connection) -> list[Row]:
    """Returns for each tenant how many hours ago its last full run succeeded.

    ``unjudged`` says why a tenant cannot be stale yet.
    """
    return _rows(connection, "hours_since_full_run", stale_after=STALE_AFTER_HOURS)


def _read_freshness(engine: sa.Engine) -> list[Row]:
    with transaction(engine) as connection:
        return read_freshness(connection)


def _read_holds(engine: sa.Engine) -> list[Row]:
    with transaction(engine) as connection:
        return [
            {**row, "unjudged": None, "holds": int(row["held_at"] is not None)}
            for row in read_tenant_holds(connection)
        ]


def _read_disagreements(engine: sa.Engine) -> list[Row]:
    """Counts the customers whose type disagrees with the rule, inspected twice.

    One that a writer was about to sync the first time is right the second time. A held tenant is
    not judged, since its downward moves are withheld on purpose.
    """
    with transaction(engine) as connection:
        tenants = read_tenant_holds(connection)
    suspects: list[UUID] | None = None
    for _ in range(2):
        with transaction(engine, snapshot=True) as connection:
            tune_for_whole_tables(connection)
            wrong = _rows(
                connection,
                "disagreements",
                tenant_ids=[tenant["tenant_id"] for tenant in tenants],
                customer_ids=suspects,
                as_of=now(connection).astimezone(UTC),
                inspected=INSPECTED,
            )
        suspects = [row["customer_id"] for row in wrong]
        if not suspects:
            break
    counts = Counter(row["tenant_id"] for row in wrong)
    return [
        {
            **tenant,
            "unjudged": None if tenant["held_at"] is None else "held by the gate",
            "wrong": counts[tenant["tenant_id"]],
        }
        for tenant in tenants
    ]


def _is_zero(column: str) -> Expectations:
    return lambda gxe: [gxe.ExpectColumnValuesToBeBetween(column=column, min_value=0, max_value=0)]


def _at_least(column: str, least: str) -> Expectations:
    return lambda gxe: [_pair(gxe, column, least)]


def _at_most(column: str, most: str) -> Expectations:
    return lambda gxe: [_pair(gxe, most, column)]


def _pair(gxe: Library, greater: str, smaller: str) -> Library:
    return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
        column_A=greater, column_B=smaller, or_equal=True
    )


def _within_healthy(gxe: Library) -> list[Library]:
    return [
        _pair(gxe, *sides)
        for kind in ("active", "target", "prospect")
        for sides in (
            (f"{kind}_pct", f"healthy_{kind}_min"),
            (f"healthy_{kind}_max", f"{kind}_pct"),
        )
    ]


def _healthy_message(row: Row) -> str:
    return ", ".join(
        f"{kind.upper()} {row[f'{kind}_pct']:.1f} % "
        f"(healthy: {row[f'healthy_{kind}_min']:g}-{row[f'healthy_{kind}_max']:g} %)"
        for kind in ("active", "target", "prospect")
    )


def _fresh_message(row: Row) -> str:
    if row["hours_since"] > 24 * 365 * 100:
        return "no full run has succeeded yet"
    return f"last successful full run {row['hours_since']:.1f} hours ago"


CHECKS: tuple[Check, ...] = (
    Check(
        name="orders_of_own_tenant",
        asset="last_order_dates",
        severity="error",
        description="No order belongs to another tenant than its customer does. Such an order "
        "counts for no customer.",
        read=_reader("orders_of_other_tenants", is_heavy=True),
        expectations=_is_zero("orders"),
        message=lambda row: f"{row['orders']} orders of customers of another tenant",
    ),
    Check(
        name="few_future_orders",
        asset="last_order_dates",
        severity="warn",
        description="Few orders are dated in the future. They count from their date on; many of "
        "them are the mark of a wrong clock or a wrong time zone.",
        read=_reader("future_orders", is_heavy=True),
        expectations=_at_most("future_pct", "future_orders_above"),
        message=lambda row: (
            f"{row['future_pct']:.1f} % of orders are dated in the future "
            f"(at most {row['future_orders_above']:g} %)"
        ),
    ),
    Check(
        name="state_matches_orders",
        asset="last_order_dates",
        severity="error",
        description=f"For a sample of up to {SAMPLE} customers of each tenant, the stored last "
        "order date is the one that their orders give now.",
        read=_reader("state_sample", sample=SAMPLE),
        expectations=_is_zero("wrong"),
        message=lambda row: (
            f"{row['wrong']} of {row['sampled']} sampled customers have another "
            "last order date by their orders"
        ),
    ),
    Check(
        name="no_tenant_held",
        asset="account_type_changes",
        severity="error",
        description="No tenant is held by the gate. Of one that is, too many customers would be "
        "demoted because orders are gone: look for missing orders; if they are meant to be gone, "
        "run with allow_mass_change and the reason.",
        read=_read_holds,
        expectations=_is_zero("holds"),
        message=lambda row: (
            f"held since {row['held_at']:%Y-%m-%d %H:%M} UTC: "
            + describe_order_loss(row["order_loss_customers"], row["classified_customers"])
            if row["holds"]
            else "not held"
        ),
    ),
    Check(
        name="crm_agrees_with_rule",
        asset="crm_account_types",
        severity="error",
        description="The CRM has the type that the rule gives for every customer that is neither "
        "pinned nor of a held tenant. Only customers that are still wrong on a second look count.",
        read=_read_disagreements,
        expectations=_is_zero("wrong"),
        message=lambda row: (
            f"{row['wrong']}{' or more' if row['wrong'] >= INSPECTED else ''} customers have "
            "another type than the rule gives"
        ),
    ),
    Check(
        name="high_churn",
        asset="account_type_distribution",
        severity="error",
        description="Enough of a tenant's customers are ACTIVE (the alert threshold of its "
        "policy, 50 % by default).",
        read=_reader("distributions"),
        expectations=_at_least("active_pct", "high_churn_below"),
        message=lambda row: (
            f"ACTIVE {row['active_pct']:.1f} % (high churn below {row['high_churn_below']:g} %)"
        ),
    ),
    Check(
        name="poor_retention",
        asset="account_type_distribution",
        severity="error",
        description="Not too many of a tenant's customers are TARGET (the alert threshold of its "
        "policy, 20 % by default).",
        read=_reader("distributions"),
        expectations=_at_most("target_pct", "poor_retention_above"),
        message=lambda row: (
            f"TARGET {row['target_pct']:.1f} % "
            f"(poor retention above {row['poor_retention_above']:g} %)"
        ),
    ),
    Check(
        name="outside_healthy",
        asset="account_type_distribution",
        severity="warn",
        description="A tenant's distribution is within the healthy ranges of its policy "
        "(by default ACTIVE 60-75 %, TARGET 5-15 %, PROSPECT 15-30 %).",
        read=_reader("distributions"),
        expectations=_within_healthy,
        message=_healthy_message,
    ),
    Check(
        name="fresh",
        asset="account_type_distribution",
        severity="error",
        description=f"Each tenant's last successful full run is at most {STALE_AFTER_HOURS} hours "
        "ago. An older one is a system issue: the nightly run is dead, or fails for this tenant.",
        read=_read_freshness,
        expectations=lambda gxe: [
            gxe.ExpectColumnValuesToBeBetween(column="hours_since", max_value=STALE_AFTER_HOURS)
        ],
        message=_fresh_message,
    ),
)
"""All checks, in the order of the assets."""
