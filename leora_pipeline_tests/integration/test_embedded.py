"""The embedded server: shared by who uses it, stopped by the last, and up again after a kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from leora_pipeline.embedded import embedded_postgres


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's own user may enter."""
    with TemporaryDirectory(prefix="leora_tests_", ignore_cleanup_errors=True) as name:
        yield Path(name)


def answer(url: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT 1").fetchone()
        return row and row[0]


def test_it_runs_until_the_last_of_its_users_leaves(folder: Path) -> None:
    with embedded_postgres(folder) as first:
        url = first.url("crm")
        with embedded_postgres(folder) as second:
            assert second.url("crm") == url
        assert answer(url) == 1
    with pytest.raises(psycopg.OperationalError):
        answer(url)


def test_its_data_are_there_at_the_next_start(folder: Path) -> None:
    with embedded_postgres(folder) as server, psycopg.connect(server.url("crm")) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    with embedded_postgres(folder) as server, psycopg.connect(server.url("crm")) as connection:
        connection.execute("SELECT id FROM kept")


def test_options_are_the_servers_settings(folder: Path) -> None:
    with (
        embedded_postgres(folder, {"work_mem": "'7MB'"}) as server,
        psycopg.connect(server.url("crm")) as connection,
    ):
        row = connection.execute("SHOW work_mem").fetchone()
    assert row == ("7MB",)


def test_it_starts_again_after_it_was_killed(folder: Path) -> None:
    with embedded_postgres(folder) as server:
        server.url("crm")
        pid = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
    with embedded_postgres(folder) as server:
        assert answer(server.url("crm")) == 1


def test_a_deep_folder_is_no_obstacle(folder: Path) -> None:
    deep = folder.joinpath(*["a-rather-long-name-of-a-folder"] * 5)
    with embedded_postgres(deep) as server:
        assert answer(server.url("crm")) == 1
