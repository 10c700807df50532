"""Publish: counts the customers by type, as they stand in the CRM, and keeps it for history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.run.ledger import finish_tenants, step
from leora_pipeline.core.run.run import Run

SQL = statements(__name__)


@dataclass(frozen=True)
class AccountTypeUpdateResult:
    """What a run made of one tenant: counts as they stand in the CRM afterwards.

    Attributes:
        tenant_id: ``"Tenant".id``.
        tenant_slug: The tenant's name in commands and reports.
        active: Customers of type ACTIVE.
        target: Customers of type TARGET.
        prospect: Customers of type PROSPECT.
        pinned: Customers of any other type, such as HOLD: counted apart.
        total: active + target + prospect.
        changed: How many customers the run moved into each type, from no type included.
        held: Whether the gate stops the tenant's downward moves.
    """

    tenant_id: UUID
    tenant_slug: str
    active: int
    target: int
    prospect: int
    pinned: int
    total: int
    changed: dict[str, int]
    held: bool


def publish(engine: sa.Engine, run: Run) -> list[AccountTypeUpdateResult]:
    """Publishes the distribution of the run's tenants, a row a tenant and day, and ends the run.

    Returns:
        A result for each tenant that the run concerned, in the order of slugs.

    Raises:
        TenantsFailedError: Some tenants failed, here or in an earlier step. The others are done
            and published, and the error carries their results.
    """
    published = []
    with step(engine, run) as tenants:
        with transaction(engine) as connection:
            as_of = run.writer.as_of or now(connection)
        results = {
            result.tenant_id: result
            for result in read_results(engine, replace(run, tenants=tuple(tenants.tenants)))
        }

        def publish_tenant(tenant: Tenant) -> None:
            result = results[tenant.tenant_id]
            with transaction(engine) as connection:
                connection.execute(
                    SQL.publish_distribution,
                    {
                        "tenant_id": tenant.tenant_id,
                        "day": tenant.day_of(as_of),
                        "as_of": as_of,
                        "active": result.active,
                        "target": result.target,
                        "prospect": result.prospect,
                        "pinned": result.pinned,
                    },
                )
            published.append(result)

        tenants.for_each_tenant(publish_tenant)
    finish_tenants(engine, run, published)
    return published


def read_results(engine: sa.Engine, run: Run) -> list[AccountTypeUpdateResult]:
    """Returns how the run's tenants stand in the CRM now, and what the run has moved so far."""
    with transaction(engine) as connection:
        rows = connection.execute(
            SQL.results,
            {"tenant_ids": run.tenant_ids, "run_id": run.run_id},
        ).all()
    slugs = {tenant.tenant_id: tenant.slug for tenant in run.tenants}
    return [
        AccountTypeUpdateResult(
            tenant_id=row.tenant_id,
            tenant_slug=slugs[row.tenant_id],
            active=row.active,
            target=row.target,
            prospect=row.prospect,
            pinned=row.pinned,
            total=row.active + row.target + row.prospect,
            changed={
                "ACTIVE": row.to_active,
                "TARGET": row.to_target,
                "PROSPECT": row.to_prospect,
            },
            held=row.held,
        )
        for row in rows
    ]
