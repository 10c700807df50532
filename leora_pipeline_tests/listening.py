"""Listeners in threads of their own, and what tests wait for while they run.

Where the order of things matters, the batches are driven by hand.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.realtime.batch import PendingBatch, take_pending
from leora_pipeline.core.realtime.listener import Listener
from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.processes import wait_until
from leora_pipeline_tests.scenes import (
    everything,
    waiting,
)

DEADLINE = 30.0


DO_LISTEN = Writer("listener of the test", "listener")
"""In whose name batches are driven by hand."""


def eventually(condition: Callable[[], object], what: str = "what the listener was to do") -> None:
    """Returns once a condition holds."""
    wait_until(condition, seconds=DEADLINE, what=what, every=0.01)


def listener_url(engine: sa.Engine) -> str:
    """Returns the URL of a listener, whose connections can be distinguished from the test's own."""
    return engine.url.update_query_dict({"application_name": "listener"}).render_as_string(
        hide_password=False
    )


@contextmanager
def listening(engine: sa.Engine, **options: Any) -> Iterator[Listener]:
    """Runs a listener on an engine's database for as long as the block lasts."""
    own = create_engine(listener_url(engine))
    listener = Listener(own, **options)
    thread = threading.Thread(target=listener.run, name="listener")
    thread.start()
    try:
        yield listener
    finally:
        listener.stop()
        if listener.is_notified:
            # Tests make it wait for notifications alone.
            while thread.is_alive():
                CrmBuilder(engine).run("NOTIFY leora_pipeline_pending")
                thread.join(0.05)
        thread.join(DEADLINE)
        own.dispose()
        assert not thread.is_alive(), "the listener did not stop"


def at_rest(engine: sa.Engine, build: CrmBuilder) -> bool:
    return not build.pending() and not waiting(engine)


def assert_settled(engine: sa.Engine, build: CrmBuilder) -> None:
    """Asserts that nothing is left to do, not even for a look at everybody."""
    eventually(lambda: at_rest(engine, build), "the listener took all there was")
    settled = everything(build)
    update_account_types(engine=engine)
    assert everything(build) == settled


def quarantined(build: CrmBuilder) -> dict[UUID, Any]:
    """Returns the quarantined customers: their error, failures, and pause in seconds."""
    return {
        row.customer_id: row
        for row in build.run(
            "SELECT customer_id, error, failures, quarantined_at, round(extract(epoch FROM "
            "retry_at - quarantined_at))::integer AS first_pause, round(extract(epoch FROM "
            "retry_at - clock_timestamp()))::integer AS pause "
            "FROM leora_pipeline.customer_state WHERE retry_at IS NOT NULL"
        )
    }


def pass_time(build: CrmBuilder, days: int) -> None:
    """Lets time pass, by moving everything else back, unseen by the triggers."""
    with transaction(build.engine) as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for table, columns in (
            ('"Order"', ('"orderedAt"',)),
            ('"Customer"', ('"lastOrderDate"',)),
            (
                "leora_pipeline.customer_state",
                ("last_order_at", "next_order_at", "imported_order_at", "synced_order_at", "as_of"),
            ),
        ):
            sets = ", ".join(f"{one} = {one} - interval '{days} days'" for one in columns)
            connection.exec_driver_sql(f"UPDATE {table} SET {sets}")


def drain(engine: sa.Engine, tenant: UUID) -> list[PendingBatch]:
    """Takes all that is pending for a tenant, batch by batch."""
    batches = [take_pending(engine, DO_LISTEN, tenant)]
    while batches[-1].is_full:
        assert batches[-1].last is not None
        batches.append(take_pending(engine, DO_LISTEN, tenant, after=batches[-1].last))
    return batches


def refuse(build: CrmBuilder, customers: list[UUID], sqlstate: str = "P0001") -> None:
    """Makes the CRM refuse to write some customers, as a trigger of somebody else's may."""
    build.run("CREATE TABLE IF NOT EXISTS refused (id uuid)")
    build.run(
        "INSERT INTO refused SELECT id FROM unnest(CAST(:ids AS uuid[])) AS r (id)", ids=customers
    )
    build.run(
        "CREATE OR REPLACE FUNCTION refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF EXISTS (SELECT FROM refused WHERE id = NEW.id) THEN RAISE EXCEPTION 'on credit hold' "
        f"USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$"
    )
    build.run("GRANT SELECT ON refused TO PUBLIC")
    build.run(
        'CREATE OR REPLACE TRIGGER refuse_write BEFORE UPDATE ON "Customer" FOR EACH ROW '
        "EXECUTE FUNCTION refuse_write()"
    )


def allow(build: CrmBuilder) -> None:
    build.run("DELETE FROM refused")


def tries(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Returns the pauses that the log announces, in seconds."""
    found = [
        re.search(r"\(the next try is in ([\d.]+) s\)", record.getMessage())
        for record in caplog.records
    ]
    return [float(match[1]) for match in found if match]


def listener_names(build: CrmBuilder) -> set[str]:
    return {row.listener_id for row in build.run("SELECT listener_id FROM leora_pipeline.listener")}
