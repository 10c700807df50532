"""All at once, for a minute: writers, two listeners, runs in loops; when it calms, all is right.

Real processes on a server of their own. What they do is random, of seeds that a failure prints;
what has to come of it is not. `leora_pipeline_tests.acceptance.writers` says what the writers do.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import randrange
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.run.refresh import actionable_tenants
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.acceptance.writers import BY_HAND, DEFAULT, OPEN
from leora_pipeline_tests.at_rest import wrong_customers
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.processes import (
    BIN,
    Outcome,
    environment,
    kill_all,
    run,
    start,
    wait_until,
)

SECONDS = 60
"""How long it is written."""

ROUNDS = 6
"""How often the writers pause, and everything is looked at."""

WRITERS = 4
CUSTOMERS = 40
"""Of each tenant: few, so that all meet at the same ones."""

OPTIONS = {"fsync": "off", "synchronous_commit": "off"}


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """A server that nobody else keeps busy."""
    with (
        TemporaryDirectory(prefix="leora_stress_", ignore_cleanup_errors=True) as folder,
        embedded_postgres(Path(folder), OPTIONS) as running,
    ):
        yield running


@pytest.fixture
def url(server: EmbeddedPostgres) -> str:
    """The URL of a migrated CRM with customers, of tenants whose gate is open and one other."""
    url = server.url("stress")
    engine = create_engine(url)
    with transaction(engine) as connection:
        create_tables(connection)
        connection.exec_driver_sql(BY_HAND)
    install_schema(engine)
    build = CrmBuilder(engine)
    for slug in (f"{OPEN}-1", f"{OPEN}-2", DEFAULT):
        tenant = build.tenant(slug)
        for _ in range(CUSTOMERS):
            build.customer(tenant, orders=(ago(days=300),))
        if slug != DEFAULT:
            build.run(
                "INSERT INTO leora_pipeline.tenant_policy "
                "SELECT * FROM leora_pipeline.effective_policy(:tenant)",
                tenant=tenant,
            )
    build.run(
        "UPDATE leora_pipeline.tenant_policy SET gate_percent = 100, gate_customers = 1000000"
    )
    engine.dispose()
    return url


@pytest.fixture
def mark() -> Iterator[str]:
    """Names the test's processes, none of which outlives it."""
    mark = f"leora_stress_{uuid4().hex}"
    yield mark
    kill_all(mark)


class Storm:
    """The processes of one test, on one database."""

    def __init__(self, url: str, mark: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.env = environment(LEORA_DATABASE_URL=url, LEORA_TEST_MARK=mark)
        self.root = Path(__file__).parents[2]

    def leora(self, *arguments: str) -> Outcome:
        return run(BIN / "leora", *arguments, env=self.env, cwd=self.root)

    def listen(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}.log"
        return start(BIN / "leora", "listen", *arguments, env=self.env, cwd=self.root, log=log)

    def write(self, seed: int) -> Outcome:
        module = "leora_pipeline_tests.acceptance.writers"
        command = (BIN / "python", "-m", module, self.url, str(seed), str(SECONDS / ROUNDS))
        return run(*command, env=self.env, cwd=self.root, timeout=SECONDS / ROUNDS + 60)

    def update_again_and_again(self, *arguments: str) -> list[Outcome]:
        """Runs for half of a round: a full run would heal what the others have missed."""
        deadline = time.monotonic() + SECONDS / ROUNDS / 2
        outcomes = []
        while time.monotonic() < deadline:
            outcomes.append(self.leora("update", *arguments))
        return outcomes


def is_at_rest(engine: sa.Engine, build: CrmBuilder) -> bool:
    """Returns whether nothing is left to be done, now or soon."""
    soon = (
        "SELECT FROM leora_pipeline.customer_state "
        "WHERE next_order_at < clock_timestamp() + interval '1 hour'"
    )
    return (
        not build.pending()
        and not build.run(soon)
        and not actionable_tenants(engine, resolve_run(engine, mode="incremental"))
    )


def broken_chains(build: CrmBuilder) -> list[str]:
    """Returns where a customer's history, of the log and by hand, does not join, or end, right."""
    types = dict(build.run('SELECT id, "accountType"::text FROM "Customer"'))
    before: dict[UUID, Any] = {}
    broken = []
    for customer, number, source, from_type, to_type in build.run(
        "SELECT customer_id, transition_id, 'log', from_type, to_type "
        "FROM leora_pipeline.account_type_transition "
        "UNION ALL SELECT customer_id, change_id, 'by hand', from_type, to_type "
        "FROM by_hand.change ORDER BY 1, 2"
    ):
        if from_type != before.get(customer):
            broken.append(f"{customer} {number} {source}: {before.get(customer)} | {from_type}")
        if source == "log" and from_type == "HOLD":
            broken.append(f"{customer} {number}: a pinned type was changed to {to_type}")
        before[customer] = to_type
    for customer, account_type in types.items():
        if account_type != before.get(customer):
            broken.append(f"{customer} ends: {before.get(customer)} | {account_type}")
    return broken


def one_round(storm: Storm) -> tuple[Counter[str], int]:
    """Lets all loose for a while, and asserts that nobody fails.

    Returns:
        What the writers did, and how many runs there were.
    """
    seeds = [randrange(2**31) for _ in range(WRITERS)]
    print(f"seeds: {seeds}")
    with ThreadPoolExecutor(WRITERS + 2) as executor:
        writers = [executor.submit(storm.write, seed) for seed in seeds]
        runs = [
            executor.submit(storm.update_again_and_again, *arguments)
            for arguments in ((), ("--incremental",))
        ]
        written = [writer.result() for writer in writers]
        updated = [outcome for each in runs for outcome in each.result()]
    assert [outcome.err for outcome in written] == [""] * WRITERS
    assert [outcome.code for outcome in written] == [0] * WRITERS
    assert [outcome for outcome in updated if outcome.code != 0 or outcome.err] == []
    return sum((Counter(json.loads(outcome.out)) for outcome in written), Counter()), len(updated)


@pytest.mark.timeout(2 * SECONDS + 300)
def test_a_minute_of_everything_at_once_fails_nobody_and_ends_right(
    url: str, mark: str, tmp_path: Path
) -> None:
    storm = Storm(url, mark, tmp_path)
    engine = create_engine(url)
    build = CrmBuilder(engine)
    listeners = {
        "polling": storm.listen("polling"),
        "notified": storm.listen("notified", "--notify"),
    }
    reporting = "SELECT FROM leora_pipeline.listener"
    wait_until(lambda: len(build.run(reporting)) == 2, seconds=60, what="both listeners listen")

    done: Counter[str] = Counter()
    for _ in range(ROUNDS):
        written, runs = one_round(storm)
        done += written
        done["runs"] += runs
        wait_until(lambda: is_at_rest(engine, build), seconds=60, what="the listeners drain all")
        assert wrong_customers(engine) == {}, "drained by the listeners"
        assert broken_chains(build) == []

    for listener in listeners.values():
        listener.send_signal(signal.SIGTERM)
    assert [listener.wait(timeout=30) for listener in listeners.values()] == [0, 0]
    for name in listeners:
        reported = (tmp_path / f"{name}.log").read_text(encoding="utf-8").splitlines()
        assert [line.split(",")[0].split(":")[0] for line in reported] == [
            "Listening",
            "Stopped",
        ], reported

    assert storm.leora("update", "--incremental").code == 0
    assert is_at_rest(engine, build)
    assert wrong_customers(engine) == {}, "after an incremental run"
    assert broken_chains(build) == []
    assert build.run("SELECT * FROM leora_pipeline.tenant_hold") == []
    assert build.run("SELECT * FROM leora_pipeline.customer_state WHERE failures > 0") == []
    assert build.run("SELECT * FROM leora_pipeline.tenant_run WHERE status <> 'succeeded'") == []
    assert build.run(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ) == [(0,)]

    # It was no calm: all that is to be withstood has happened.
    causes = Counter(
        dict(
            build.run(
                "SELECT cause, count(*) FROM leora_pipeline.account_type_transition GROUP BY cause"
            )
        )
    )
    print(f"{dict(done)}\n{dict(causes)}")
    assert all(done[f"hook: {outcome}"] for outcome in ("updated", "unchanged", "deferred"))
    assert all(done[kind] for kind in ("rolled back", "change_many", "delete_customer"))
    assert all(causes[cause] for cause in ("order", "order removed", "by hand"))
    engine.dispose()
