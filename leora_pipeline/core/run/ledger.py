"""The ledger: what becomes of each tenant of a run, recorded in ``tenant_run``.

Tenants are isolated from each other. One that fails is recorded with its error and left out by the
steps after it, while the others go on. What does not belong here: what the steps do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import LeoraError, TenantsFailedError, one_line
from leora_pipeline.core.run.run import Run

SQL = statements(__name__)

logger = logging.getLogger(__name__)


def start_tenants(engine: sa.Engine, run: Run, tenant_ids: Sequence[UUID] | None = None) -> None:
    """Records tenants as running; a step after the first finds that done already.

    Args:
        engine: The CRM's database.
        run: The run.
        tenant_ids: The tenants; by default all of the run's, and of an incremental run none, since
            its first step has named those for whom there is something to do.
    """
    if tenant_ids is None:
        tenant_ids = [] if run.mode == "incremental" else run.tenant_ids
    with transaction(engine) as connection:
        connection.execute(
            SQL.start_tenants,
            {
                "tenant_ids": list(tenant_ids),
                "run_id": run.run_id,
                "mode": run.mode,
                "allowed": list(run.allow_mass_change),
            },
        )


def running_tenants(engine: sa.Engine, run: Run) -> list[Tenant]:
    """Returns the tenants that the run has started and no step has failed for."""
    with transaction(engine) as connection:
        running = set(
            connection.execute(
                SQL.running,
                {"tenant_ids": run.tenant_ids, "run_id": run.run_id},
            ).scalars()
        )
    return [tenant for tenant in run.tenants if tenant.tenant_id in running]


def finish_tenants(engine: sa.Engine, run: Run, results: Sequence[object] = ()) -> None:
    """Records the tenants that are still running as done.

    Args:
        engine: The CRM's database.
        run: The run that ends.
        results: What was done, for the error to carry.

    Raises:
        TenantsFailedError: Some tenants failed, in this step or in one before it.
    """
    with transaction(engine) as connection:
        connection.execute(
            SQL.finish_tenants,
            {"tenant_ids": run.tenant_ids, "run_id": run.run_id},
        )
        failures = _failures(connection, run)
    if failures:
        raise TenantsFailedError(failures, results)


@contextmanager
def isolated(engine: sa.Engine, run: Run, tenant: Tenant) -> Iterator[None]:
    """Keeps one tenant's failure from the others: it is recorded, logged, and goes no further."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, LeoraError) as error:
        logger.error("Tenant %s failed: %s", tenant.slug, one_line(error), exc_info=error)
        _fail(engine, run, [tenant.tenant_id], one_line(error))


@contextmanager
def failing_all(engine: sa.Engine, run: Run) -> Iterator[None]:
    """Records the run's tenants as failed where a step breaks off as a whole, or is interrupted."""
    try:
        yield
    except Exception as error:
        _fail(engine, run, run.tenant_ids, one_line(error))
        raise
    except BaseException:  # Ctrl-C, or Dagster's way of ending a run.
        _fail(engine, run, run.tenant_ids, "the run was interrupted")
        raise


def _fail(engine: sa.Engine, run: Run, tenant_ids: list[UUID], error: str) -> None:
    with transaction(engine) as connection:
        connection.execute(
            SQL.fail_tenants,
            {"tenant_ids": tenant_ids, "run_id": run.run_id, "error": error},
        )


def _failures(connection: sa.Connection, run: Run) -> dict[str, str]:
    """Returns the errors of the run's failed tenants, by slug."""
    errors = {
        row.tenant_id: row.error
        for row in connection.execute(
            SQL.failures,
            {"tenant_ids": run.tenant_ids, "run_id": run.run_id},
        )
    }
    return {
        tenant.slug: errors[tenant.tenant_id]
        for tenant in run.tenants
        if tenant.tenant_id in errors
    }
