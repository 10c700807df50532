"""Apply: tells the CRM what the state says. Nothing else writes the CRM.

The customers and their states are locked together, passing over whoever somebody else holds: a run
never waits for the CRM, and those customers stay to be told in the next round. Only then, in later
statements of the same transaction, is it read what there is to write, so that it is the truth of
that moment; the log is written with it.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.gate import evaluate_gate
from leora_pipeline.core.customers.write_back import BATCH, Applied, apply_customers, lock_customers
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.run.ledger import failing_all, isolated, running_tenants, start_tenants
from leora_pipeline.core.run.run import Run


def apply(engine: sa.Engine, run: Run) -> Applied:
    """Tells the CRM all that waits to be told for the run's tenants.

    Returns:
        What was written, over all tenants that did not fail.
    """
    start_tenants(engine, run)
    total = Applied()
    with failing_all(engine, run):
        for tenant in running_tenants(engine, run):
            with isolated(engine, run, tenant):
                after: UUID | None = None
                while True:
                    with transaction(engine) as connection:
                        customer_ids = lock_customers(connection, tenant.tenant_id, after=after)
                        total += apply_customers(
                            connection, run, tenant.tenant_id, customer_ids, path=run.path
                        )
                    run.on_progress("apply", total.written)
                    if len(customer_ids) < BATCH:
                        break
                    after = customer_ids[-1]
                if tenant.tenant_id in run.allow_mass_change:
                    # Another path may have held the tenant while this run was at it.
                    with transaction(engine) as connection:
                        evaluate_gate(connection, run, tenant.tenant_id, may_release=True)
    return total
