"""The ledger: what becomes of each tenant of a run, recorded in ``tenant_run``.

Tenants are isolated from each other. One that fails is recorded with its error and left out by the
steps after it, while the others go on. What does not belong here: what the steps do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
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


class Step:
    """One step of a run; see `step`.

    Attributes:
        tenants: The tenants that the run has started and no step has failed for.
    """

    def __init__(self, engine: sa.Engine, run: Run) -> None:
        """Reads which of the run's tenants are still running."""
        self._engine = engine
        self._run = run
        with transaction(engine) as connection:
            recorded = _recorded(connection, run)
        self.tenants = [
            tenant
            for tenant in run.tenants
            if tenant.tenant_id in recorded and recorded[tenant.tenant_id].status == "running"
        ]

    @contextmanager
    def isolated(self, tenant: Tenant) -> Iterator[None]:
        """Keeps a tenant's failure from the others: it is recorded, logged, and goes no further."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, LeoraError) as error:
            logger.error("Tenant %s failed: %s", tenant.slug, one_line(error), exc_info=error)
            _fail(self._engine, self._run, [tenant.tenant_id], one_line(error))

    def for_each_tenant(self, work: Callable[[Tenant], None]) -> None:
        """Does work for one tenant after the other, each isolated."""
        for tenant in self.tenants:
            with self.isolated(tenant):
                work(tenant)


@contextmanager
def step(engine: sa.Engine, run: Run, tenant_ids: Sequence[UUID] | None = None) -> Iterator[Step]:
    """Opens a step: its tenants are recorded as running, and as failed where it breaks off.

    Args:
        engine: The CRM's database.
        run: The run.
        tenant_ids: The tenants that the step starts. By default all of the run's, which a step
            after the first finds done already; of an incremental run none, since its first step has
            named the tenants for which there is something to do.
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
                "allowed": list(run.writer.allow_mass_change),
            },
        )
    try:
        yield Step(engine, run)
    except Exception as error:
        _fail(engine, run, run.tenant_ids, one_line(error))
        raise
    except BaseException:  # Ctrl-C, or Dagster's way of ending a run.
        _fail(engine, run, run.tenant_ids, "the run was interrupted")
        raise


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
        connection.execute(SQL.finish_tenants, {"tenant_ids": run.tenant_ids, "run_id": run.run_id})
        recorded = _recorded(connection, run)
    failures = {
        tenant.slug: recorded[tenant.tenant_id].error
        for tenant in run.tenants
        if tenant.tenant_id in recorded and recorded[tenant.tenant_id].status == "failed"
    }
    if failures:
        raise TenantsFailedError(failures, results)


def _fail(engine: sa.Engine, run: Run, tenant_ids: list[UUID], error: str) -> None:
    with transaction(engine) as connection:
        connection.execute(
            SQL.fail_tenants, {"tenant_ids": tenant_ids, "run_id": run.run_id, "error": error}
        )


def _recorded(connection: sa.Connection, run: Run) -> dict[UUID, sa.Row[tuple[UUID, str, str]]]:
    """Returns the status and the error of each tenant that the run has started."""
    rows = connection.execute(SQL.tenants, {"tenant_ids": run.tenant_ids, "run_id": run.run_id})
    return {row.tenant_id: row for row in rows}
