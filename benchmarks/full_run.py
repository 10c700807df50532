"""How long `leora update` takes, beside the read that it cannot do without, and in how much memory.

For each size it loads a sample CRM into an embedded PostgreSQL with default settings, and runs the
command as a user does. The read beside it is what one would write by hand to find the customers
whose type is wrong: one pass over "Order" and "Customer", and nothing of what makes it safe.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables, load, scaled_tenants

TENANTS = 10

HAND_WRITTEN = """
SELECT count(*)
FROM "Customer" AS c
LEFT JOIN (
  SELECT "customerId", max("orderedAt") AS last
  FROM "Order"
  WHERE status NOT IN ('DRAFT', 'CANCELLED') AND "orderedAt" <= now() AT TIME ZONE 'UTC'
  GROUP BY "customerId"
) AS o ON o."customerId" = c.id
WHERE c."accountType"::text IS DISTINCT FROM CASE
  WHEN o.last >= now() AT TIME ZONE 'UTC' - interval '180 days' THEN 'ACTIVE'
  WHEN o.last >= now() AT TIME ZONE 'UTC' - interval '365 days' THEN 'TARGET'
  ELSE 'PROSPECT'
END
"""


def main() -> None:
    """Runs the benchmark for each size asked for."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--customers", type=int, nargs="+", default=[10_000, 1_000_000])
    arguments.add_argument("--orders", type=int, default=11, help="orders a customer, on average")
    given = arguments.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="leora-benchmark-") as folder,
        embedded_postgres(Path(folder)) as server,
    ):
        for customers in given.customers:
            measure(server, customers, given.orders)


def measure(server: EmbeddedPostgres, customers: int, orders: int) -> None:
    """Loads one CRM and prints what running the pipeline on it takes."""
    url = server.url(f"crm_{customers}")
    engine = create_engine(url)
    begun = time.monotonic()
    with transaction(engine) as connection:
        create_tables(connection)
        load(
            connection,
            scaled_tenants(TENANTS, customers),
            anchor=datetime.now(UTC),
            orders_per_customer=orders,
        )
    install_schema(engine)
    engine.dispose()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        row = connection.execute('SELECT count(*) FROM "Order"').fetchone()
    loaded = row[0] if row else 0
    seconds = time.monotonic() - begun
    print(f"\n{customers:,} customers, {loaded:,} orders, {TENANTS} tenants (load {seconds:.0f} s)")
    for label in ("first run", "second run"):
        report(label, url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    for _ in range(3):
        report("steady run", url)
        begun = time.monotonic()
        with psycopg.connect(url) as connection:
            connection.execute("SET work_mem = '128MB'")
            connection.execute(HAND_WRITTEN)
        print(f"  hand-written read: {time.monotonic() - begun:6.2f} s")


def report(label: str, url: str) -> None:
    """Runs `leora update` in a process of its own and prints its time and peak memory."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "leora"), "update", "--json"],
        env={**os.environ, "LEORA_DATABASE_URL": url},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    told = json.load(process.stdout)
    _, status, usage = os.wait4(process.pid, 0)
    changed = sum(sum(result["changed"].values()) for result in told["results"])
    print(
        f"  {label:17}: {time.monotonic() - begun:6.2f} s in all, "
        f"{told['duration_ms'] / 1000:6.2f} s of it the run; {changed:,} types changed; "
        f"peak memory {usage.ru_maxrss / 1024:.0f} MiB; "
        f"exit code {os.waitstatus_to_exitcode(status)}"
    )


if __name__ == "__main__":
    main()
