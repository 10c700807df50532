"""Secrets do not leak: a real Dagster and real commands are given marked ones, and looked through.

| place | what is looked through |
|---|---|
| run configuration, tags | the rows of Dagster's storage: runs, event logs, ticks, daemons |
| event log | messages, errors and metadata of assets and checks |
| process list | the command lines of everything that was started |
| logs | what Dagster's processes and the commands print |
| errors | a server that refuses, a receiver that refuses |
| the pipeline's tables | all but the one that is there to hold a tenant's addresses |
| status, alerts | text and JSON |
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline.core.settings import PROJECT_ROOT
from leora_pipeline_tests.acceptance.conftest import Crm
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import (
    BIN,
    LEORA,
    environment,
    free_port,
    kill_all,
    processes_of,
    run,
    start,
    wait_until,
)

MARK = "Zq1xSecret"
"""A part of every secret that is handed out."""


def with_password(url: str, name: str) -> str:
    """Returns a database's URL with a password, which the server does not ask for."""
    parts = sa.make_url(url).set(drivername="postgresql", password=f"{MARK}{name}%/:")
    return parts.render_as_string(hide_password=False)


@dataclass
class Scene:
    """Dagster's daemon and what it was given."""

    crm: Crm
    env: dict[str, str]
    storage_url: str
    log: Path
    mark: str

    def command(self, *arguments: str, **variables: str) -> str:
        """Runs a command to its end and returns all that it prints."""
        outcome = run(*LEORA, *arguments, env={**self.env, **variables})
        return outcome.out + outcome.err

    def stored(self) -> str:
        """Returns every row of Dagster's storage."""
        with psycopg.connect(self.storage_url) as connection:
            tables = connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
            return "\n".join(
                str(row)
                for (table,) in tables
                for row in connection.execute(f'SELECT t::text FROM "{table}" AS t').fetchall()
            )


@pytest.fixture
def scene(
    admin: sa.Engine,
    runtime_url: str,
    dagster_url: str,
    tmp_path: Path,
) -> Iterator[Scene]:
    """A daemon that runs jobs of a tenant with an address of its own."""
    crm = Crm(admin)
    tenant = crm.tenant("cellar")
    for _ in range(25):  # Enough to be judged, and all PROSPECT: there is something to alert of.
        crm.customer(tenant, "ACTIVE", orders=(ago(days=400),))
    refusing = f"json://me:{MARK}Alert@127.0.0.1:{free_port()}/{MARK}Path?token={MARK}Token"
    own = refusing.replace("127.0.0.1", "localhost")
    crm.run(
        "INSERT INTO leora_pipeline.tenant_alert_url VALUES (:tenant, :url)", tenant=tenant, url=own
    )
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    log, mark = tmp_path / "daemon.log", f"secrets-{uuid4().hex}"
    env = environment(
        DAGSTER_HOME=str(tmp_path),
        LEORA_DATABASE_URL=with_password(runtime_url, "Crm"),
        LEORA_DAGSTER_DATABASE_URL=with_password(dagster_url, "Dagster"),
        LEORA_ALERT_URLS=refusing,
        TEST_MARK=mark,
    )
    workspace = str(PROJECT_ROOT / "workspace.yaml")
    process = start(BIN / "dagster-daemon", "run", "-w", workspace, env=env, cwd=tmp_path, log=log)
    try:
        yield Scene(crm, env, dagster_url, log, mark)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        finally:
            kill_all(mark)


def commands_of(mark: str) -> str:
    """Returns the command lines of all processes that were started with a mark."""
    return "\n".join(str(command) for command in processes_of(mark).values())


def test_no_secret_is_found_in_any_place(scene: Scene) -> None:
    crm = scene.crm
    listener = start(
        *(*LEORA, "listen"),
        env=scene.env,
        cwd=scene.log.parent,
        log=scene.log.with_name("listener.log"),
    )
    seen = ""

    def runs_ended() -> bool:
        nonlocal seen
        seen += commands_of(scene.mark)
        return bool(
            crm.run("SELECT FROM leora_pipeline.tenant_run WHERE status = 'succeeded'")
            and crm.run("SELECT FROM leora_pipeline.alert_message WHERE attempts > 0")
        )

    launched = run(
        *(BIN / "dagster", "job", "launch", "-j", "refresh_account_types"),
        *("-w", PROJECT_ROOT / "workspace.yaml"),
        env=scene.env,
        cwd=scene.log.parent,
    )
    assert launched.code == 0, launched.err
    wait_until(runs_ended, seconds=90, what="a run succeeds, and a delivery is refused")
    # And a run that fails, and a server that cannot be reached.
    crm.run("DROP TABLE leora_pipeline.policy_reclassification")
    printed = [
        launched.out + launched.err,
        scene.command("update"),
        scene.command("update", LEORA_DEBUG="1"),
        scene.command("status"),
        scene.command("status", "--json"),
        scene.command("alerts", "send"),
        scene.command("alerts", "show"),
        scene.command("alerts", "urls"),
        scene.command("alerts", "test"),
        scene.command(
            "status", LEORA_DATABASE_URL=f"postgresql://me:{MARK}@127.0.0.1:1/crm?sslmode=nonsense"
        ),
        scene.command("status", LEORA_DATABASE_URL=f"postgresql://me:x/{MARK}@host/crm"),
        scene.command(
            "status", LEORA_DATABASE_URL=f"postgresql://me:{MARK}@host/crm?sslpass={MARK}"
        ),
        scene.command("update", LEORA_ALERT_URLS=f"nonsense://{MARK}", LEORA_KEEP_RUN_DAYS="x"),
        scene.command("status", LEORA_ALERT_URLS=f"nonsense://{MARK}", LEORA_KEEP_RUN_DAYS="x"),
    ]
    listener.send_signal(signal.SIGTERM)
    listener.wait(timeout=30)

    places = {
        "the process list": seen,
        "what commands print": "\n".join(printed),
        "the daemon's log": scene.log.read_text(),
        "the listener's log": scene.log.with_name("listener.log").read_text(),
        "Dagster's storage": scene.stored(),
        "the pipeline's tables": "\n".join(
            str(rows)
            for table, rows in crm.contents().items()
            if table.startswith("leora_pipeline.") and "tenant_alert_url" not in table
        ),
    }
    assert all(places.values()), "each place was looked into"
    assert "refresh_account_types" in places["Dagster's storage"]
    assert [place for place, text in places.items() if MARK in text] == []


def test_only_the_owner_and_the_runtime_role_read_a_tenants_addresses(admin: sa.Engine) -> None:
    readers = Crm(admin).run(
        "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname !~ '^pg_' "
        "AND has_table_privilege(oid, 'leora_pipeline.tenant_alert_url', 'SELECT')"
    )

    assert {row.rolname for row in readers} == {"leora_owner", "leora_runtime"}
