"""``leora demo`` and ``leora dev`` as a newcomer runs them, in a copy of the project's tree.

The copy has an embedded server of its own, so that the developer's ``.leora`` stays untouched.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from leora_pipeline.embedded import CRM_DATABASE, embedded_postgres
from leora_pipeline_tests.processes import (
    LEORA,
    Outcome,
    copy_project,
    environment,
    free_port,
    processes_of,
    run,
    start,
    wait_until,
)


@dataclass(frozen=True)
class Checkout:
    """A copy of the project, and the mark that all processes started in it carry."""

    root: Path
    mark: str

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the copy's package is the one that is imported."""
        return environment(PYTHONPATH=str(self.root), TEST_MARK=self.mark)

    def leora(self, *arguments: str) -> Outcome:
        """Runs the copy's command to its end."""
        return run(*LEORA, *arguments, env=self.env, cwd=self.root)

    def processes(self) -> dict[int, str]:
        """Returns what runs in the copy: servers, daemons, runs, PostgreSQL."""
        return processes_of(self.mark) | processes_of(str(self.root))

    def wait_for_end(self) -> None:
        """Waits until nothing runs in the copy any more."""
        try:
            wait_until(lambda: not self.processes(), seconds=5, what="all of it ends")
        except AssertionError as error:
            raise AssertionError(f"{error}; left are {self.processes()}") from None

    def kill(self, *, database: bool) -> None:
        """Kills what a failed test left behind; a database that is spared serves the next one."""
        for pid, line in self.processes().items():
            if database or "postgres" not in line:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def customers(self) -> list[Any]:
        """Returns all rows of the embedded CRM's customers, with their last writers."""
        with (
            embedded_postgres(self.root / ".leora") as server,
            psycopg.connect(server.url(CRM_DATABASE)) as connection,
        ):
            return connection.execute(
                'SELECT xmin::text, ctid::text, c::text FROM "Customer" AS c ORDER BY id'
            ).fetchall()


@pytest.fixture(scope="module")
def checkout() -> Iterator[Checkout]:
    """A fresh copy of what the commands need.

    Not in pytest's folder: another pytest that starts closes it to the server of a root user.
    """
    with TemporaryDirectory(prefix="leora_tests_", ignore_cleanup_errors=True) as folder:
        copied = Checkout(Path(folder), f"checkout-{uuid4().hex}")
        copy_project(copied.root)
        yield copied
        copied.kill(database=True)


@pytest.fixture(scope="module")
def demo(checkout: Checkout) -> Outcome:
    """What the first demo of a fresh checkout printed."""
    return checkout.leora("demo")


# leora demo.


def test_the_first_demo_prints_the_seeds_summary_and_a_visible_verdict(demo: Outcome) -> None:
    assert (demo.code, demo.err) == (0, "")
    assert "\x1b" not in demo.out
    assert demo.lines[0] == "[update-account-types] Starting daily account type update..."
    assert (
        "✅ Account types updated for well-crafted: ACTIVE=1234, TARGET=89, PROSPECT=456"
        in demo.lines
    )
    after = demo.lines[demo.lines.index("[update-account-types] Job complete:") + 1 :]
    for line, pattern in zip(
        after,
        (
            r"  - Tenants processed: 6",
            r"  - Total customers: \d+",
            r"  - ACTIVE: \d+ \(\d+\.\d%\)",
            r"  - TARGET: \d+ \(\d+\.\d%\)",
            r"  - PROSPECT: \d+ \(\d+\.\d%\)",
            r"  - Duration: \d+ms",
        ),
        strict=False,
    ):
        assert re.fullmatch(pattern, line), line
    moved = re.search(r"Customers moved: (\d+)", demo.out)
    assert moved
    assert int(moved[1]) > 100, "the sample starts with types that are out of date"
    assert re.search(r"❌ high_churn: old-river-spirits: ACTIVE 47\.7 %", demo.out)
    assert re.search(r"❌ poor_retention: summit-cellars: TARGET 25\.0 %", demo.out)
    for passing in ("orders_of_own_tenant", "crm_agrees_with_rule", "state_matches_orders"):
        assert f"✅ {passing}" in demo.out


def test_a_second_demo_changes_nothing(checkout: Checkout, demo: Outcome) -> None:
    assert demo.code == 0
    before = checkout.customers()
    assert len(before) > 3000

    again = checkout.leora("demo")

    assert (again.code, again.err) == (0, "")
    assert "  - Customers moved: 0 (0 to ACTIVE, 0 to TARGET, 0 to PROSPECT)" in again.lines
    assert (
        "✅ Account types updated for well-crafted: ACTIVE=1234, TARGET=89, PROSPECT=456"
        in again.lines
    )
    assert checkout.customers() == before


def test_no_process_outlives_the_demo(checkout: Checkout, demo: Outcome) -> None:
    assert demo.code == 0
    wait_until(lambda: not checkout.processes(), seconds=5, what="the demo's processes end")
    assert (checkout.root / ".leora").is_dir(), "the copy's own database was used"


# leora dev.


def test_dev_on_a_taken_port_is_wrong_usage_in_one_line(checkout: Checkout) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        outcome = checkout.leora("dev", "--port", str(port))

    assert outcome.code == 2
    assert str(port) in outcome.error
    assert outcome.out == ""
    assert not checkout.processes()


@pytest.mark.parametrize("ending", ["Ctrl-C", "SIGINT to it alone", "SIGTERM to a script's job"])
def test_dev_serves_the_demo_and_ends_whole(
    checkout: Checkout, demo: Outcome, tmp_path: Path, ending: str
) -> None:
    """A terminal's Ctrl-C reaches the whole group; a supervisor signals the parent alone."""
    assert demo.code == 0
    port = free_port()
    log = tmp_path / "dev.log"
    process = start(
        *LEORA,
        *("dev", "--port", str(port)),
        env=checkout.env,
        cwd=checkout.root,
        log=log,
        in_background=ending.startswith("SIGTERM"),
    )
    query = {
        "query": "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } "
        "runsOrError { ... on Runs { results { status } } } }"
    }

    def answer() -> Any:
        assert process.poll() is None, f"it ended:\n{log.read_text()}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql",
            json.dumps(query).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                data = json.load(response)["data"]
        except OSError:
            return None
        return data if data["repositoriesOrError"].get("nodes") else None

    try:
        data = wait_until(answer, seconds=60, what="the UI answers", every=0.3)
        assert "SUCCESS" in {run["status"] for run in data["runsOrError"]["results"]}

        if ending == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        elif ending == "SIGINT to it alone":
            process.send_signal(signal.SIGINT)
        else:
            process.terminate()

        wait_until(lambda: process.poll() is not None, seconds=20, what=f"it ends by {ending}")
        checkout.wait_for_end()
        assert process.returncode == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            checkout.kill(database=False)
            process.wait(timeout=10)


@pytest.mark.parametrize("module", ["orchestration.web_server", "dagster-daemon"])
def test_dev_ends_whole_and_says_so_when_a_part_of_it_dies(
    checkout: Checkout, demo: Outcome, tmp_path: Path, module: str
) -> None:
    assert demo.code == 0
    log = tmp_path / "dev.log"
    process = start(
        *LEORA,
        *("dev", "--no-listener", "--port", str(free_port())),
        env=checkout.env,
        cwd=checkout.root,
        log=log,
    )

    def part() -> list[int]:
        assert process.poll() is None, f"it ended:\n{log.read_text()}"
        return [pid for pid, line in checkout.processes().items() if module in line]

    try:
        [pid] = wait_until(part, seconds=60, what=f"{module} starts")
        os.kill(pid, signal.SIGKILL)

        wait_until(lambda: process.poll() is not None, seconds=30, what="it ends")
        checkout.wait_for_end()
        assert process.returncode == 1
        assert "ended with code -9" in log.read_text().splitlines()[-1]
    finally:
        if process.poll() is None:
            checkout.kill(database=False)
            process.wait(timeout=10)
