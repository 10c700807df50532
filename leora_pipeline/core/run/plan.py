"""Plan: the change set, and the gate's word on it, before anything is written to the CRM.

A run's plan is taken from the state that refresh has just brought up to date. A preview's plan is
the same read off the orders directly, since a preview refreshes nothing.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.customers.gate import evaluate_gate
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import lock, now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.run.ledger import step
from leora_pipeline.core.run.run import Run

SQL = statements(__name__)


def plan(engine: sa.Engine, run: Run) -> int:
    """Materializes the change set of the run's tenants, and holds or releases them.

    Returns:
        How many customers are to be changed.
    """
    count = 0

    def plan_tenant(tenant: Tenant) -> None:
        nonlocal count
        with transaction(engine) as connection:
            # In a transaction of its own: what applies waits for the gate with customers locked.
            evaluate_gate(connection, run.writer, tenant.tenant_id, may_release=run.mode == "full")
        with transaction(engine) as connection:
            count += _replace_plan(connection, run.writer, tenant.tenant_id, "plan_from_state")
        run.on_progress("plan", count)

    with step(engine, run) as tenants:
        tenants.for_each_tenant(plan_tenant)
    return count


def plan_preview(engine: sa.Engine, run: Run) -> int:
    """Materializes what a full run would change now, and touches nothing else.

    Returns:
        How many customers would be changed.
    """
    count = 0
    for tenant in run.tenants:
        with transaction(engine) as connection:
            count += _replace_plan(connection, run.writer, tenant.tenant_id, "plan_from_orders")
    return count


def _replace_plan(connection: sa.Connection, writer: Writer, tenant_id: UUID, source: str) -> int:
    """Puts a tenant's new plan in the place of its latest."""
    parameters = {
        "tenant_id": tenant_id,
        "run_id": writer.run_id,
        "as_of": writer.as_of or now(connection),
        "write_dates": writer.write_dates,
    }
    lock(connection, "plan", tenant_id)
    connection.execute(SQL.delete_plan, parameters)
    return connection.execute(SQL[source], parameters).rowcount
