"""Fixtures of the tests of Dagster."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psutil
import pytest

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.embedded import CRM_DATABASE, DAGSTER_DATABASE, embedded_postgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.acceptance.conftest import Crm
from leora_pipeline_tests.acceptance.kills import Dev, Killed, eventually, locked, stands_at
from leora_pipeline_tests.acceptance.servers import Server
from leora_pipeline_tests.conftest import SERVER_OPTIONS
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import (
    LEORA,
    copy_project,
    environment,
    free_port,
    kill_all,
    processes_of,
    start,
    wait_until,
)


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    """As a developer runs it; the database server outlives it, so that the test can look."""
    with (
        # Not under pytest's folder, as the session's server.
        TemporaryDirectory(prefix="leora_tests_", ignore_cleanup_errors=True) as folder,
        embedded_postgres(Path(folder) / ".leora", SERVER_OPTIONS) as database,
    ):
        root = Path(folder)
        copy_project(root)
        engine = create_engine(database.url(CRM_DATABASE))
        with transaction(engine) as connection:
            create_tables(connection)
        install_schema(engine)
        crm = Crm(engine)
        tenant = crm.tenant()
        customers = [
            (tenant, crm.customer(tenant, "TARGET", last_order=ago(days=200))) for _ in range(2)
        ]
        crm.run("DELETE FROM leora_pipeline.pending_customer")  # As if they had been there before.
        port = free_port()
        mark = f"dev-{uuid4().hex}"
        log = root / "dev.log"
        process = start(
            *(*LEORA, "dev", "--no-listener", "--port", str(port)),
            env=environment(PYTHONPATH=str(root), TEST_MARK=mark),
            cwd=root,
            log=log,
        )
        server = Server(f"http://127.0.0.1:{port}", crm)
        running = Dev(root, server, crm, database.url(DAGSTER_DATABASE), customers, mark)

        def is_up() -> bool:
            assert process.poll() is None, f"it ended:\n{log.read_text()}"
            return "no customer is pending or due" in running.skips()

        try:
            wait_until(is_up, seconds=90, what="the sensor looks", every=0.2)
            yield running
        finally:
            engine.dispose()
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=30)
                wait_until(lambda: not processes_of(mark), seconds=10, what="all of it ends")
            finally:
                kill_all(mark)


@pytest.fixture(scope="module")
def killed(dev: Dev) -> Killed:
    """Kills worker and code server of a run that stands still before it writes."""
    before = len(dev.runs())
    tenant, customer = dev.customers[1]
    with locked(dev.crm, 'LOCK TABLE "Customer" IN SHARE MODE'):
        dev.crm.order(tenant, customer, ago(days=1))
        wait_until(
            lambda: stands_at(dev.crm, "%write_customers%"), seconds=90, what="it is about to write"
        )
        [launched, *others] = dev.runs()
        assert len(others) == before
        # The one that `leora dev` watches, the one that it starts, and that one's run worker.
        [proxy] = [pid for pid, line in processes_of(dev.mark).items() if " code-server " in line]
        family = [psutil.Process(proxy), *psutil.Process(proxy).children(recursive=True)]
        assert len(family) > 2, family
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        since = time.time()
    eventually(lambda: not stands_at(dev.crm, "%"), "the server has noticed")
    return Killed(launched["runId"], customer, since)


@pytest.fixture(scope="module")
def chromium() -> str:
    """A browser; on a continuous-integration machine it has to be there."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium on PATH")
        pytest.skip("no Chromium on PATH")
    return found
