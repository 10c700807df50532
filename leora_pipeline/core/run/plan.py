"""Plan: the change set, and the gate's word on it, before anything is written to the CRM.

A run's plan is taken from the state that refresh has just brought up to date. A preview's plan is
the same read off the orders directly, since a preview refreshes nothing.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.gate import evaluate_gate
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.run.ledger import failing_all, isolated, running_tenants, start_tenants
from leora_pipeline.core.run.run import Run

SQL = statements(__name__)


def plan(engine: sa.Engine, run: Run) -> int:
    """Materializes the change set of the run's tenants, and holds or releases them.

    Returns:
        How many customers are to be changed.
    """
    start_tenants(engine, run)
    count = 0
    with failing_all(engine, run):
        for tenant in running_tenants(engine, run):
            with isolated(engine, run, tenant):
                with transaction(engine) as connection:
                    # On its own, since whoever applies waits for the gate with customers locked.
                    evaluate_gate(connection, run, tenant.tenant_id, may_release=run.mode == "full")
                with transaction(engine) as connection:
                    count += _replace_plan(connection, run, tenant.tenant_id, "plan_from_state")
                run.on_progress("plan", count)
    return count


def plan_preview(engine: sa.Engine, run: Run) -> int:
    """Materializes what a full run would change now, and touches nothing else.

    Returns:
        How many customers would be changed.
    """
    count = 0
    for tenant in run.tenants:
        with transaction(engine) as connection:
            count += _replace_plan(connection, run, tenant.tenant_id, "plan_from_orders")
    return count


def _replace_plan(connection: sa.Connection, run: Run, tenant_id: UUID, source: str) -> int:
    """Puts a tenant's new plan in the place of its latest."""
    parameters = {
        "tenant_id": tenant_id,
        "run_id": run.run_id,
        "as_of": run.as_of or now(connection),
        "write_dates": run.write_dates,
    }
    connection.execute(SQL.lock_plan, parameters)
    connection.execute(SQL.delete_plan, parameters)
    return connection.execute(SQL[source], parameters).rowcount
