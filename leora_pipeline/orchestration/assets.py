"""The assets that a run makes, each around one step of the core's with a table of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
import sqlalchemy as sa

from leora_pipeline.core.alerting.digest import write_digests
from leora_pipeline.core.crm.requirements import functions_fingerprint
from leora_pipeline.core.errors import TenantsFailedError
from leora_pipeline.core.reporting.summary import summarize
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.ledger import finish_tenants
from leora_pipeline.core.run.plan import plan, plan_preview
from leora_pipeline.core.run.publish import publish
from leora_pipeline.core.run.refresh import refresh
from leora_pipeline.core.run.run import Mode, Run
from leora_pipeline.orchestration import catalog
from leora_pipeline.orchestration.resources import CrmDatabase, RunScope, as_failure
from leora_pipeline.orchestration.tables import table

MODE_TAG = "leora/mode"
"""The run tag by which a job's definition says how its assets are to be made."""

INCREMENTAL = "incremental"
"""The mode that takes only the customers that there is something to do for."""

PREVIEW = "preview"
"""The mode that plans off the orders and writes nothing but the plan."""


def _step_asset(
    key: dg.AssetKey,
    *,
    deps: Sequence[dg.AssetKey],
    description: str,
    table_name: str,
    columns: Mapping[str, catalog.Column],
) -> Callable[[Callable[..., object]], dg.AssetsDefinition]:
    """Returns the decorator of an asset that one step of the core's makes."""
    return dg.asset(
        key=key,
        deps=deps,
        description=description,
        metadata=catalog.table_metadata(table_name, columns),
        kinds={"postgres", "sql"},
        owners=["team:data"],
        group_name="account_types",
        # What an asset holds follows from the SQL functions: the UI shows when they changed.
        code_version=functions_fingerprint(),
    )


@contextmanager
def _step(
    context: dg.AssetExecutionContext, crm: CrmDatabase, scope: RunScope
) -> Iterator[tuple[sa.Engine, Run]]:
    """Opens the database for one step of a run, and ends the run after its last step.

    A run that leaves out steps, as one re-executed from its failure does, is a partial one: it does
    not count as the nightly success. Ending a run that publishes is the work of publishing.
    """
    selected = context.job_def.asset_layer.selected_asset_keys
    executed = context.run.step_keys_to_execute  # None: all of those selected.
    steps = [
        key
        for key in catalog.STEPS
        if key in selected and (executed is None or key.to_python_identifier() in executed)
    ]
    mode: Mode = "full" if len(steps) == len(catalog.STEPS) else "partial"
    if mode == "full" and context.run.tags.get(MODE_TAG) == INCREMENTAL:
        mode = "incremental"
    with crm.connect() as engine, as_failure():
        run = scope.resolve_run(engine, context.run, mode=mode)
        yield engine, run
        is_last = context.asset_key == steps[-1]
        if is_last and context.asset_key != catalog.ACCOUNT_TYPE_DISTRIBUTION:
            finish_tenants(engine, run)


Rows = list[dict[str, Any]]


def _describe(
    rows: Rows, *, processed: int, row_count: int | None = None, **numbers: int
) -> dict[str, Any]:
    """Returns a materialization's metadata.

    Args:
        rows: One for each tenant, all tenants.
        processed: This run's own share.
        row_count: The table's rows; by default the customers of all tenants.
        numbers: What is plotted over time; all tenants.
    """
    if row_count is None:
        row_count = sum(row["customers"] for row in rows)
    return {
        "dagster/row_count": row_count,
        "leora/processed": processed,
        "leora/tenants": table(list(rows[0]) if rows else ["tenant"], rows),
        **{f"leora/{name}": number for name, number in numbers.items()},
    }


def _totals(rows: Rows, *columns: str) -> dict[str, int]:
    return {column: sum(row[column] for row in rows) for column in columns}


@_step_asset(
    catalog.LAST_ORDER_DATES,
    deps=[catalog.TENANTS, catalog.CUSTOMERS, catalog.ORDERS],
    description="Each customer's last order date and the account type that the rule gives for it "
    "(refresh). Derived from the orders under lock, for the customers that anything outdated.",
    table_name="leora_pipeline.customer_state",
    columns=catalog.STATE_COLUMNS,
)
def last_order_dates(
    context: dg.AssetExecutionContext, crm: CrmDatabase, scope: RunScope
) -> dg.MaterializeResult[Any]:
    """Brings the state of all customers up to date."""
    with _step(context, crm, scope) as (engine, run):
        processed = refresh(engine, run)
        rows = summarize(engine, "states")
        return dg.MaterializeResult(
            metadata=_describe(
                rows, processed=processed, **_totals(rows, "active", "target", "prospect")
            )
        )


@_step_asset(
    catalog.ACCOUNT_TYPE_CHANGES,
    deps=[catalog.LAST_ORDER_DATES],
    description="The change set of the latest plan: every customer that the CRM has otherwise than "
    "the state, with from, to and why; and the gate's word on it. Materialized before anything is "
    "written to the CRM. As `preview_account_types`, a dry run.",
    table_name="leora_pipeline.account_type_change",
    columns=catalog.CHANGE_COLUMNS,
)
def account_type_changes(
    context: dg.AssetExecutionContext, crm: CrmDatabase, scope: RunScope
) -> dg.MaterializeResult[Any]:
    """Plans what to write, and holds tenants whose orders seem to be missing."""
    if context.run.tags.get(MODE_TAG) == PREVIEW:
        with crm.connect() as engine, as_failure():
            run = scope.resolve_run(engine, context.run, mode="partial", allow_future=True)
            return _described_changes(engine, plan_preview(engine, run))
    with _step(context, crm, scope) as (engine, run):
        return _described_changes(engine, plan(engine, run))


def _described_changes(engine: sa.Engine, processed: int) -> dg.MaterializeResult[Any]:
    rows = summarize(engine, "changes")
    return dg.MaterializeResult(
        metadata=_describe(
            rows,
            processed=processed,
            **_totals(rows, "to_active", "to_target", "to_prospect", "date_only", "held"),
        )
    )


@_step_asset(
    catalog.CRM_ACCOUNT_TYPES,
    deps=[catalog.ACCOUNT_TYPE_CHANGES],
    description="The account types in the CRM, written back where they differ, each change of type "
    "recorded in leora_pipeline.account_type_transition (apply). Pinned types are never changed, "
    "and a row that another session holds stays for the next run.",
    table_name='public."Customer"',
    columns=catalog.WRITTEN_COLUMNS,
)
def crm_account_types(
    context: dg.AssetExecutionContext, crm: CrmDatabase, scope: RunScope
) -> dg.MaterializeResult[Any]:
    """Tells the CRM what the state says."""
    with _step(context, crm, scope) as (engine, run):
        applied = apply(engine, run)
        rows = summarize(engine, "customers")
        metadata = _describe(
            rows,
            processed=applied.written,
            **_totals(rows, "active", "target", "prospect", "pinned", "unclassified"),
        )
        metadata |= {"leora/moved": applied.moved, "leora/withheld": applied.withheld}
        return dg.MaterializeResult(metadata=metadata)


@_step_asset(
    catalog.ACCOUNT_TYPE_DISTRIBUTION,
    deps=[catalog.CRM_ACCOUNT_TYPES, catalog.TENANTS],
    description="Customers by account type and their shares, a row a tenant and day, kept for "
    "history (publish). Its checks raise the alerts: high churn, poor retention, system issue.",
    table_name="leora_pipeline.account_type_distribution",
    columns=catalog.DISTRIBUTION_COLUMNS,
)
def account_type_distribution(
    context: dg.AssetExecutionContext, crm: CrmDatabase, scope: RunScope
) -> Iterator[dg.MaterializeResult[Any]]:
    """Publishes the distribution; fails, once all else is done, where a tenant has failed."""
    with _step(context, crm, scope) as (engine, run):
        failure: TenantsFailedError | None = None
        try:
            processed = len(publish(engine, run))
        except TenantsFailedError as error:
            failure = error
            processed = len(run.tenants) - len(error.errors)
        rows = summarize(engine, "distributions")
        yield dg.MaterializeResult(
            metadata=_describe(
                rows,
                processed=processed,
                row_count=summarize(engine, "published_days")[0]["days"],
                **_totals(rows, "active", "target", "prospect", "pinned", "total"),
            )
        )
        if failure:
            raise failure


@_step_asset(
    catalog.TARGET_ALERTS,
    deps=[catalog.CRM_ACCOUNT_TYPES],
    description="The win-back digest: the customers that became TARGET since the last one, by "
    "sales rep, a message a tenant. Written into the outbox; the sensor `alerts` delivers it.",
    table_name="leora_pipeline.alert_message",
    columns=catalog.DIGEST_COLUMNS,
)
def target_alerts(
    context: dg.AssetExecutionContext, crm: CrmDatabase, scope: RunScope
) -> dg.MaterializeResult[Any]:
    """Takes each transition to TARGET once, and lists the customers that still are."""
    with crm.connect() as engine, as_failure():
        run = scope.resolve_run(engine, context.run, mode="partial")
        processed = sum(write_digests(engine, run.tenants).values())
        rows = summarize(engine, "digests")
        return dg.MaterializeResult(
            metadata=_describe(
                rows, processed=processed, row_count=_totals(rows, "digests")["digests"]
            )
        )


ASSETS = [
    last_order_dates,
    account_type_changes,
    crm_account_types,
    account_type_distribution,
    target_alerts,
]
