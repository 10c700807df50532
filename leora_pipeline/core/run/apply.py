"""Apply: writes all unsynced customers of a run's tenants to the CRM, batch by batch.

What does not belong here: what is written and how it is locked, which is `customers.write_back`'s.
"""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.customers.gate import evaluate_gate
from leora_pipeline.core.customers.write_back import (
    WRITE_BATCH,
    Applied,
    apply_customers,
    lock_customers,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.run.ledger import step
from leora_pipeline.core.run.run import Run


def apply(engine: sa.Engine, run: Run) -> Applied:
    """Writes what is unsynced of the run's tenants to the CRM.

    Returns:
        What was written, over all tenants that did not fail.
    """
    total = Applied()

    def apply_tenant(tenant: Tenant) -> None:
        nonlocal total
        after: UUID | None = None
        while True:
            with transaction(engine) as connection:
                customer_ids = lock_customers(connection, tenant.tenant_id, after=after)
                total += apply_customers(connection, run.writer, tenant.tenant_id, customer_ids)
            run.on_progress("apply", total.written)
            if len(customer_ids) < WRITE_BATCH:
                break
            after = customer_ids[-1]
        if tenant.tenant_id in run.writer.allow_mass_change:
            # Another path may have held the tenant during this run.
            with transaction(engine) as connection:
                evaluate_gate(connection, run.writer, tenant.tenant_id, may_release=True)

    with step(engine, run) as tenants:
        tenants.for_each_tenant(apply_tenant)
    return total
