"""``leora listen`` as a process: how it starts, how it ends, and what a kill leaves behind.

Where a test has to catch it between two steps, a lock makes it stand still there, and PostgreSQL
shows where it stands.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.conftest import SERVER_OPTIONS
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.processes import (
    BIN,
    environment,
    start,
    wait_until,
)
from leora_pipeline_tests.roles import url_as

DEADLINE = 30.0


@dataclass(frozen=True)
class Listening:
    """A running ``leora listen``."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def lines(self) -> list[str]:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8").splitlines()

    def signal(self, signum: int) -> None:
        os.kill(self.process.pid, signum)

    def code(self) -> int:
        """Waits for its end and returns its exit code."""
        return self.process.wait(DEADLINE)

    def kill(self) -> None:
        """Ends it like a power failure does."""
        self.signal(signal.SIGKILL)
        assert self.code() == -signal.SIGKILL


Listen = Callable[..., Listening]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    """Starts listeners, and ends those that a test leaves running."""
    started: list[Listening] = []

    def start_one(url: str, *arguments: str) -> Listening:
        log = tmp_path / f"listener{len(started)}.log"
        env = environment(LEORA_DATABASE_URL=f"{url}&application_name=listener")
        command = (BIN / "leora", "listen", *arguments)
        started.append(Listening(start(*command, env=env, cwd=tmp_path, log=log), log))
        return started[-1]

    yield start_one
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def eventually(condition: Callable[[], object], what: str) -> None:
    wait_until(condition, seconds=DEADLINE, what=what, every=0.02)


def listeners(build: CrmBuilder) -> int:
    """Returns how many listeners say that they run."""
    return len(build.run("SELECT FROM leora_pipeline.listener"))


def is_connected(build: CrmBuilder) -> bool:
    return bool(
        build.run(
            "SELECT FROM pg_stat_activity "
            "WHERE application_name = 'listener' AND datname = current_database()"
        )
    )


def stands_at(build: CrmBuilder, query: str) -> bool:
    """Returns whether a listener waits for a lock in a statement like that."""
    return bool(
        build.run(
            "SELECT FROM pg_stat_activity WHERE application_name = 'listener' "
            "AND datname = current_database() AND wait_event_type = 'Lock' AND query LIKE :query",
            query=query,
        )
    )


@contextmanager
def locked(build: CrmBuilder, lock: str) -> Iterator[None]:
    """Holds a lock for as long as the block lasts."""
    with transaction(build.engine) as connection:
        connection.execute(sa.text(lock))
        yield


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Takes back what the command does to the log, where it runs in this process."""
    logger = logging.getLogger("leora_pipeline")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.fixture
def tenant(crm_of_user: Crm) -> UUID:
    return crm_of_user.tenant()


@pytest.fixture
def customer(crm_of_user: Crm, tenant: UUID) -> UUID:
    """A customer of type TARGET whom a new order is about to make ACTIVE."""
    created = crm_of_user.customer(tenant, "TARGET", last_order=ago(days=200))
    crm_of_user.order(tenant, created, ago(days=1))
    return created


BEFORE = ("TARGET", [])
AFTER = ("ACTIVE", [("TARGET", "ACTIVE", "order")])


def found(crm: Crm, customer: UUID) -> tuple[str | None, list[tuple[str | None, str, str]]]:
    """Returns a customer's type, and what the log says of it."""
    return crm.type_of(customer), crm.log(customer)


# How it ends.


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("options", [(), ("--notify",)])
def test_a_signal_ends_it_with_code_0_and_it_says_what_it_did(
    runtime_url: str,
    crm_of_user: Crm,
    customer: UUID,
    listen: Listen,
    signum: int,
    options: tuple[str, ...],
) -> None:
    listener = listen(runtime_url, *options)
    eventually(lambda: found(crm_of_user, customer) == AFTER, "the order is taken")
    assert listeners(crm_of_user) == 1

    listener.signal(signum)

    assert listener.code() == 0
    assert listener.lines == [
        f"Listening, {'notified' if options else 'every 25 ms'} (Ctrl-C ends it)",
        "Stopped: 1 customers looked at, 1 types changed",
    ]
    assert listeners(crm_of_user) == 0


def test_a_signal_amid_a_batch_ends_it_when_the_batch_is_done(
    runtime_url: str, crm_of_user: Crm, customer: UUID, listen: Listen
) -> None:
    with locked(crm_of_user, 'LOCK TABLE "Customer" IN SHARE MODE'):
        listener = listen(runtime_url)
        eventually(lambda: stands_at(crm_of_user, "%write_customers%"), "it is about to write")
        listener.signal(signal.SIGTERM)
        assert found(crm_of_user, customer) == BEFORE

    assert listener.code() == 0
    assert found(crm_of_user, customer) == AFTER
    assert crm_of_user.pending() == set()
    assert listeners(crm_of_user) == 0


def test_a_second_signal_does_not_wait_for_the_batch_and_nothing_is_half_done(
    runtime_url: str, crm_of_user: Crm, customer: UUID, listen: Listen
) -> None:
    with locked(crm_of_user, 'LOCK TABLE "Customer" IN SHARE MODE'):
        listener = listen(runtime_url)
        eventually(lambda: stands_at(crm_of_user, "%write_customers%"), "it is about to write")

        listener.signal(signal.SIGINT)
        listener.signal(signal.SIGTERM)

        assert listener.code() == 1
        assert "Traceback" not in "\n".join(listener.lines)

    eventually(lambda: not is_connected(crm_of_user), "its connections are closed")
    assert found(crm_of_user, customer) == BEFORE
    assert crm_of_user.pending() == {customer}


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop."""
    with (
        TemporaryDirectory(prefix="leora_tests_", ignore_cleanup_errors=True) as folder,
        embedded_postgres(Path(folder), SERVER_OPTIONS) as running,
    ):
        yield running


@pytest.mark.parametrize("options", [(), ("--notify",)])
def test_a_signal_ends_it_while_the_database_is_away(
    own_server: EmbeddedPostgres, listen: Listen, options: tuple[str, ...]
) -> None:
    url = own_server.url(f"crm_{uuid4().hex}")
    engine = create_engine(url)
    with transaction(engine) as connection:
        create_tables(connection)
    install_schema(engine)
    listener = listen(url, *options)
    eventually(lambda: listeners(CrmBuilder(engine)), "it listens")
    engine.dispose()
    data = own_server._server.pgdata
    own_server._run("pg_ctl", "-w", "-m", "fast", "-D", str(data), "stop")
    try:
        eventually(
            lambda: sum("the next try is in" in line for line in listener.lines) > 1,
            "it says that the database is away",
        )

        listener.signal(signal.SIGTERM)

        assert listener.code() == 0
        assert "Traceback" not in "\n".join(listener.lines)
    finally:
        own_server._start(data)


# What a kill leaves behind.

STAGES = {
    "claim": ("LOCK TABLE leora_pipeline.pending_customer IN EXCLUSIVE MODE", "%SKIP LOCKED%"),
    "lock of states": (
        "LOCK TABLE leora_pipeline.customer_state IN EXCLUSIVE MODE",
        "%refresh_customers%",
    ),
    "write": ('LOCK TABLE "Customer" IN SHARE MODE', "%write_customers%"),
    "commit": ("SELECT pg_advisory_xact_lock(7)", "COMMIT"),
}


@pytest.mark.parametrize(
    ("stage", "successor"),
    [*((stage, "run") for stage in STAGES), ("claim", "listener"), ("write", "listener")],
)
def test_a_kill_at_any_point_leaves_nothing_half_done_and_somebody_else_does_the_rest(
    runtime_url: str,
    crm_of_user: Crm,
    customer: UUID,
    leora: Leora,
    listen: Listen,
    stage: str,
    successor: str,
) -> None:
    crm_of_user.run(
        "CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$"
    )
    crm_of_user.run(
        'CREATE CONSTRAINT TRIGGER stand_still AFTER UPDATE ON "Customer" '
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION stand_still()"
    )
    lock, query = STAGES[stage]
    with locked(crm_of_user, lock):
        listener = listen(runtime_url)
        eventually(lambda: stands_at(crm_of_user, query), f"it stands at the {stage}")
        assert found(crm_of_user, customer) == BEFORE
        assert crm_of_user.pending() == {customer}
        listener.kill()
    eventually(lambda: not is_connected(crm_of_user), "the server has noticed")
    # What was killed at its commit is committed, by the server, as a whole.
    is_done = stage == "commit"
    assert found(crm_of_user, customer) == (AFTER if is_done else BEFORE)
    assert crm_of_user.pending() == (set() if is_done else {customer})

    if successor == "run":
        assert leora("update", "--incremental").code == 0
    else:
        next_one = listen(runtime_url)
        eventually(lambda: not crm_of_user.pending(), "another takes what is left")
        eventually(lambda: listeners(crm_of_user) == 2, "the killed one is not known to be gone")
        next_one.signal(signal.SIGTERM)
        assert next_one.code() == 0

    assert found(crm_of_user, customer) == AFTER
    assert crm_of_user.pending() == set()


def test_a_kill_under_load_loses_nothing_and_each_change_is_logged_once(
    runtime_url: str, crm_of_user: Crm, tenant: UUID, listen: Listen
) -> None:
    crm_of_user.customers(tenant, 2_000, "TARGET", ago(days=1))
    first = listen(runtime_url)
    eventually(lambda: crm_of_user.counts("cellar").get("ACTIVE"), "it has done something")
    first.kill()
    listen(runtime_url)
    eventually(lambda: not crm_of_user.pending(), "all are done")

    assert crm_of_user.counts("cellar") == {"ACTIVE": 2_000}
    log = crm_of_user.run("SELECT customer_id FROM leora_pipeline.account_type_transition")
    assert len(log) == len(set(log)) == 2_000


# How it starts.


def refused(leora: Leora, monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """Starts a listener that is to refuse, and returns what it says."""
    monkeypatch.setenv("LEORA_DATABASE_URL", url)
    outcome = leora("listen")
    assert (outcome.code, outcome.out) == (1, "")
    return outcome.error


def test_a_database_that_is_not_migrated_is_refused_at_once(
    leora: Leora, monkeypatch: pytest.MonkeyPatch, crm_url: str
) -> None:
    assert "leora migrate" in refused(leora, monkeypatch, crm_url)


def test_a_database_that_cannot_be_reached_is_refused_at_once(
    leora: Leora, monkeypatch: pytest.MonkeyPatch, runtime_url: str
) -> None:
    url = runtime_url.replace("host=", "host=%2Fnowhere")
    assert "cannot be reached" in refused(leora, monkeypatch, url)


def test_row_level_security_that_filters_the_role_is_refused_at_once(
    leora: Leora, monkeypatch: pytest.MonkeyPatch, runtime_url: str, crm_of_user: Crm
) -> None:
    role = f"leora_{uuid4().hex[:12]}"
    crm_of_user.run(f"CREATE ROLE {role} LOGIN")
    for schema in ("leora_pipeline", "public"):
        crm_of_user.run(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        crm_of_user.run(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"
        )
    crm_of_user.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')

    error = refused(leora, monkeypatch, url_as(runtime_url, role))

    crm_of_user.run(f"DROP OWNED BY {role}")
    crm_of_user.run(f"DROP ROLE {role}")
    assert "BYPASSRLS" in error


@pytest.mark.parametrize("milliseconds", ["0", "-1", "soon"])
def test_a_poll_that_makes_no_sense_is_wrong_usage(leora: Leora, milliseconds: str) -> None:
    outcome = leora("listen", "--poll-ms", milliseconds)

    assert outcome.code == 2
    assert outcome.error
