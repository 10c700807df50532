"""The refresh of a run: finds the customers whose state is outdated, and has them derived anew.

A snapshot decides which customers are looked at (`customers_to_refresh`). What is written is
derived afterwards, under lock, by `customers.refresh`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from tempfile import SpooledTemporaryFile
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.customers.actionable import find_actionable_tenants
from leora_pipeline.core.customers.refresh import enqueue_customers, refresh_customers
from leora_pipeline.core.database.connection import (
    now,
    stream_rows,
    transaction,
    tune_for_whole_tables,
)
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.run.ledger import step
from leora_pipeline.core.run.run import Run

SQL = statements(__name__)


REFRESH_BATCH = 20_000
"""Customers a transaction. Only states are locked here, never rows of the CRM, so that large sets,
which read their orders at a fraction of the cost, block no writer of the CRM."""


MANY = 1_000
"""Customers from which on a batch reads its orders with the memory of a whole table's read, and
a refresh leaves statistics behind that are too old for the steps after it."""


def refresh(engine: sa.Engine, run: Run) -> int:
    """Refreshes all customers of the run's tenants whose state the orders or the CRM outdated.

    Returns:
        How many customers were looked at more closely.
    """
    is_incremental = run.mode == "incremental"
    count = 0
    with step(engine, run, actionable_tenants(engine, run) if is_incremental else None) as tenants:
        if not is_incremental:
            delete_states_of_deleted_customers(engine, run)
        running = {tenant.tenant_id: tenant for tenant in tenants.tenants}
        for tenant_id, batches in groupby(customers_to_refresh(engine, run), key=itemgetter(0)):
            if tenant_id not in running:
                continue
            with tenants.isolated(running[tenant_id]):
                for _, customer_ids in batches:
                    with transaction(engine) as connection:
                        if len(customer_ids) >= MANY:
                            tune_for_whole_tables(connection)
                        locked = refresh_customers(connection, run.writer, tenant_id, customer_ids)
                        if not is_incremental:  # Which finds them again by itself.
                            skipped = set(customer_ids).difference(locked)
                            enqueue_customers(connection, tenant_id, sorted(skipped))
                    count += len(customer_ids)
                    run.on_progress("refresh", count)
        if count >= MANY:
            with transaction(engine) as connection:
                connection.execute(SQL.analyze_states)
    return count


def actionable_tenants(engine: sa.Engine, run: Run) -> list[UUID]:
    """Returns the run's tenants for which an incremental run has something to do."""
    return find_actionable_tenants(engine, run.writer.as_of, run.tenant_ids, or_pending=True)


def customers_to_refresh(engine: sa.Engine, run: Run) -> Iterator[tuple[UUID, list[UUID]]]:
    """Finds, in one read over all tenants of the run, the customers to refresh.

    For an incremental run those are the pending and the due; for any other it is a look at all.

    The read ends before the first batch is handed out. Were it still open then, a migration of the
    CRM would wait for it, and a refresh, on another connection, behind the migration: for ever. The
    ids wait in a file where they are many.

    Yields:
        A tenant's id and up to `REFRESH_BATCH` ids of its customers, ascending, tenant by tenant.
    """
    query = "changed_customers" if run.mode == "incremental" else "outdated_customers"
    with SpooledTemporaryFile(max_size=2**20) as waiting:
        counts: Counter[UUID] = Counter()
        with transaction(engine) as connection:
            as_of = run.writer.as_of or now(connection)
            tune_for_whole_tables(connection)
            for tenant_id, customer_id in stream_rows(
                connection,
                SQL.for_driver(query),
                {
                    "tenant_ids": run.tenant_ids,
                    "as_of": as_of,
                    "write_dates": run.writer.write_dates,
                },
                size=REFRESH_BATCH,
            ):
                assert isinstance(tenant_id, UUID)
                assert isinstance(customer_id, UUID)
                waiting.write(customer_id.bytes)
                counts[tenant_id] += 1
        waiting.seek(0)
        for tenant_id, count in counts.items():
            for start in range(0, count, REFRESH_BATCH):
                size = min(REFRESH_BATCH, count - start)
                yield tenant_id, [UUID(bytes=waiting.read(16)) for _ in range(size)]


def delete_states_of_deleted_customers(engine: sa.Engine, run: Run) -> None:
    """Deletes the states of deleted customers, and what is pending for deleted tenants."""
    with transaction(engine) as connection:
        connection.execute(SQL.delete_pending_of_deleted_tenants)
        connection.execute(SQL.delete_reclassifications_of_deleted_customers)
        connection.execute(
            SQL.delete_states_of_deleted_customers,
            {"tenant_ids": run.tenant_ids},
        )
