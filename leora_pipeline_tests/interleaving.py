"""Forces an order of events between a run and other sessions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from leora_pipeline.core.customers import write_back
from leora_pipeline.core.run import apply as apply_step
from leora_pipeline.core.run import refresh as refresh_step
from leora_pipeline.core.run.run import Run
from leora_pipeline_tests.crm_builder import CrmBuilder

DEADLINE = 20.0


def state(build: CrmBuilder, customer: UUID) -> Any:
    return build.run(
        "SELECT * FROM leora_pipeline.customer_state WHERE customer_id = :id", id=customer
    )[0]


def make_batches(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Lets a run refresh and write so many customers a transaction."""
    monkeypatch.setattr(refresh_step, "REFRESH_BATCH", size)
    for module in (apply_step, write_back):
        monkeypatch.setattr(module, "WRITE_BATCH", size)


def add_customers(build: CrmBuilder, tenant: UUID, count: int) -> None:
    """Adds customers without a type, each with an order of today."""
    build.run(
        'WITH c AS (INSERT INTO "Customer" (id, "tenantId", name, "updatedAt") '
        "SELECT gen_random_uuid(), :tenant, 'Shop ' || n, now() - interval '1 year' "
        "FROM generate_series(1, :count) AS n RETURNING id) "
        'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
        "SELECT gen_random_uuid(), :tenant, id, 'FULFILLED', now() - interval '1 day', now() "
        "FROM c",
        tenant=tenant,
        count=count,
    )


def failed_run(build: CrmBuilder, run: Run) -> list[Any]:
    return build.run(
        "SELECT DISTINCT status, error FROM leora_pipeline.tenant_run WHERE run_id = :run",
        run=run.run_id,
    )
