"""What capturing a change costs the CRM, and what an incremental run costs, at two sizes of tables.

Inserts are timed with the triggers and with them switched off, in turns within one run, on an
embedded PostgreSQL with default settings. An incremental run is timed over 0, 1, 100 and 10,000
customers who have got an order.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import sqlalchemy as sa
from loading import TENANTS, load_crm

from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres

ROUNDS = 5
SINGLES = 400
BULK = 100_000

INSERT = """
INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt")
SELECT gen_random_uuid(), "tenantId", id, 'SUBMITTED', now() AT TIME ZONE 'UTC', now()
FROM (SELECT "tenantId", id FROM "Customer" ORDER BY id OFFSET %(start)s LIMIT %(count)s) AS c
"""


def main() -> None:
    """Runs the benchmark for each size asked for."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--customers", type=int, nargs="+", default=[10_000, 1_000_000])
    with (
        tempfile.TemporaryDirectory(prefix="leora-benchmark-") as folder,
        embedded_postgres(Path(folder)) as server,
    ):
        for customers in arguments.parse_args().customers:
            measure(server, customers)


def measure(server: EmbeddedPostgres, customers: int) -> None:
    """Loads one CRM, brings it up to date, and prints what changes to it cost."""
    url, engine = load_crm(server, customers)
    with psycopg.connect(url, autocommit=True) as connection:
        print(f"\n{customers:,} customers, {TENANTS} tenants")
        capture(connection, customers)
        run_all_steps(engine, resolve_run(engine, mode="incremental"))
        connection.execute("VACUUM ANALYZE")
        for changed in (0, 1, 100, 10_000):
            incremental(connection, engine, changed)
    engine.dispose()


def capture(connection: psycopg.Connection, customers: int) -> None:
    """Prints what the triggers add to an insert of one order, and of many."""
    ids = connection.execute('SELECT "tenantId", id FROM "Customer" LIMIT %s', [SINGLES]).fetchall()
    single: dict[str, list[float]] = {"ENABLE": [], "DISABLE": []}
    bulk: dict[str, list[float]] = {"ENABLE": [], "DISABLE": []}
    count = min(BULK, customers)
    for _ in range(ROUNDS):
        for state in ("DISABLE", "ENABLE"):  # Enabled in the end.
            for name in ("insert", "update", "delete"):
                connection.execute(f'ALTER TABLE "Order" {state} TRIGGER leora_pipeline_{name}')
            for tenant_id, customer_id in ids:
                single[state].append(
                    timed(
                        lambda t=tenant_id, c=customer_id: connection.execute(
                            'INSERT INTO "Order" (id, "tenantId", "customerId", status, '
                            '"orderedAt", "updatedAt") VALUES (gen_random_uuid(), %s, %s, '
                            "'SUBMITTED', now() AT TIME ZONE 'UTC', now())",
                            [t, c],
                        )
                    )
                )
            bulk[state].append(
                timed(lambda: connection.execute(INSERT, {"start": 0, "count": count}))
            )
    for label, times in ((f"insert of {count:,} orders", bulk), ("insert of one order", single)):
        bare, captured = (statistics.median(times[state]) for state in ("DISABLE", "ENABLE"))
        print(
            f"  {label:24}: {1000 * bare:9.2f} ms bare, {1000 * captured:9.2f} ms captured: "
            f"{captured / bare:.2f} times"
        )


def incremental(connection: psycopg.Connection, engine: sa.Engine, changed: int) -> None:
    """Prints how long an incremental run takes after some customers have got an order."""
    times = []
    for turn in range(3):
        if changed:
            start = turn * changed % 7_919 if changed < 10_000 else 0
            connection.execute(INSERT, {"start": start, "count": changed})
        times.append(timed(lambda: run_all_steps(engine, resolve_run(engine, mode="incremental"))))
    print(f"  incremental run of {changed:6,}: {1000 * statistics.median(times):9.1f} ms")


def timed(work: Callable[[], object]) -> float:
    """Returns how many seconds a piece of work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
