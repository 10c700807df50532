"""How soon an order makes its customer's type right, what the hook takes, and what waiting costs.

A CRM in an embedded PostgreSQL with default settings but one: the server keeps the time of each
commit. Orders come at random, one a customer, whatever became of those before. From the commit of
an order to that of its customer's new type is the latency; both are read from the rows afterwards,
so that nothing is measured while it happens.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random
from uuid import UUID

import psycopg
import sqlalchemy as sa
from loading import TENANTS, load_crm

from leora_pipeline import OrderCreated, after_order_create
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres

RATES = ((1, 60), (10, 300), (100, 3_000))
"""Orders a second, and how many of them."""

CALLS = 500
IDLE_SECONDS = 60
TICKS = os.sysconf("SC_CLK_TCK")

Customers = Iterator[tuple[UUID, UUID]]

INSERT = """
INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt")
VALUES (gen_random_uuid(), %s, %s, 'SUBMITTED', clock_timestamp() AT TIME ZONE 'UTC', now())
"""

LATENCIES = """
SELECT 1000 * extract(epoch FROM
  pg_xact_commit_timestamp(c.xmin) - pg_xact_commit_timestamp(o.xmin))::double precision
FROM "Customer" AS c
JOIN "Order" AS o ON o."customerId" = c.id AND o."createdAt" >= %s
WHERE c.id = ANY (%s)
"""

IS_QUIET = """
SELECT NOT EXISTS (SELECT FROM leora_pipeline.pending_customer)
AND NOT EXISTS (SELECT FROM leora_pipeline.customer_state WHERE needs_sync)
"""


def main() -> None:
    """Runs the benchmark."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--customers", type=int, default=1_000_000)
    with (
        tempfile.TemporaryDirectory(prefix="leora-benchmark-") as folder,
        embedded_postgres(Path(folder), {"track_commit_timestamp": "on"}) as server,
    ):
        measure(server, arguments.parse_args().customers)


def measure(server: EmbeddedPostgres, customers: int) -> None:
    """Loads a CRM and prints what its orders and its listener take."""
    url, engine = load_crm(server, customers)
    print(f"{customers:,} customers, {TENANTS} tenants")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        waiting = iter(
            connection.execute(
                'SELECT "tenantId", id FROM "Customer" '
                "WHERE \"accountType\"::text IN ('PROSPECT', 'TARGET') ORDER BY md5(id::text) "
                "LIMIT %s",
                [2 * (sum(count for _, count in RATES) + 10) + 2 * CALLS],
            ).fetchall()
        )
        hooks(connection, engine, waiting)
        for options in ((), ("--notify",)):
            with listening(url, connection, *options) as listener:
                latency(connection, 10, list(islice(waiting, 10)))  # Nobody's first is fast.
                print(f"  leora listen {' '.join(options)}")
                idle(connection, listener)
                for rate, count in RATES:
                    told = latency(connection, rate, list(islice(waiting, count)))
                    print(f"    {rate:3} orders a second, {len(told):5,}: {summary(told)}")
    engine.dispose()


def hooks(connection: psycopg.Connection, engine: sa.Engine, waiting: Customers) -> None:
    """Prints how long the hook takes, for one order each time."""

    def through_python(customer: UUID) -> str:
        result = after_order_create(OrderCreated("", customer), engine=engine)
        return "updated" if result.updated else str(result)

    def through_sql(customer: UUID) -> str:
        row = connection.execute(
            "SELECT outcome FROM leora_pipeline.after_order_create(ARRAY[%s])", [customer]
        ).fetchone()
        return row[0] if row else "none"

    through: dict[str, Callable[[UUID], str]] = {"Python": through_python, "SQL": through_sql}
    for name, call in through.items():
        times = []
        for tenant, customer in islice(waiting, CALLS):
            if name == "SQL":
                connection.execute("BEGIN")
            connection.execute(INSERT, [tenant, customer])
            begun = time.perf_counter()
            outcome = call(customer)
            times.append(1000 * (time.perf_counter() - begun))
            if name == "SQL":
                connection.execute("COMMIT")
            assert outcome == "updated", outcome
        print(f"  hook, {name:6}, {len(times):5,} calls: {summary(times)}")


@contextmanager
def listening(
    url: str, connection: psycopg.Connection, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a listener, whose sessions have a name of their own."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "leora"), "listen", *options],
        env={**os.environ, "LEORA_DATABASE_URL": f"{url}&application_name=listener"},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(connection, "SELECT EXISTS (SELECT FROM leora_pipeline.listener)")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def latency(
    connection: psycopg.Connection, rate: int, customers: list[tuple[UUID, UUID]]
) -> list[float]:
    """Places an order for each customer, open loop, and returns the latencies in milliseconds."""
    random = Random(rate)
    row = connection.execute("SELECT clock_timestamp() AT TIME ZONE 'UTC'").fetchone()
    assert row is not None
    due = time.monotonic()
    for tenant, customer in customers:
        due += random.expovariate(rate)
        time.sleep(max(0.0, due - time.monotonic()))
        connection.execute(INSERT, [tenant, customer])
    wait_for(connection, IS_QUIET)
    ids = [customer for _, customer in customers]
    found = [each[0] for each in connection.execute(LATENCIES, [row[0], ids]).fetchall()]
    assert len(found) == len(customers), "one order each"
    return found


def wait_for(connection: psycopg.Connection, condition: str) -> None:
    """Asks now and then until a condition holds."""
    while connection.execute(condition).fetchone() != (True,):
        time.sleep(0.2)


def idle(connection: psycopg.Connection, listener: subprocess.Popen[bytes]) -> None:
    """Prints what a listener that finds nothing to do costs."""
    pids = [
        row[0]
        for row in connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'listener'"
        ).fetchall()
    ]
    before = (*transactions_and_time(connection), cpu_seconds(*pids), cpu_seconds(listener.pid))
    time.sleep(IDLE_SECONDS)
    after = (*transactions_and_time(connection), cpu_seconds(*pids), cpu_seconds(listener.pid))
    done, seconds, sessions, itself = (b - a for a, b in zip(before, after, strict=True))
    print(
        f"    idle: {done / seconds:.1f} transactions a second; a minute of it takes "
        f"{60 * sessions / seconds:.2f} s of CPU in its {len(pids)} sessions and "
        f"{60 * itself / seconds:.2f} s in its own process"
    )


def transactions_and_time(connection: psycopg.Connection) -> tuple[float, float]:
    """Returns how many transactions the database has seen, and when; sessions tell each second."""
    row = connection.execute(
        "SELECT xact_commit + xact_rollback, extract(epoch FROM clock_timestamp())::float8 "
        "FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    return row


def cpu_seconds(*pids: int) -> float:
    """Returns the processor time that processes have taken."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def summary(milliseconds: list[float]) -> str:
    """Returns the median and the 99th percentile."""
    p99 = statistics.quantiles(milliseconds, n=100, method="inclusive")[98]
    return f"median {statistics.median(milliseconds):7.2f} ms, p99 {p99:7.2f} ms"


if __name__ == "__main__":
    main()
