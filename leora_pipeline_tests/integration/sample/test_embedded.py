"""The embedded server: shared by who uses it, stopped by the last, and up again after a kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from leora_pipeline import LeoraError
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres


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


@pytest.mark.parametrize(
    "name", ["My Projects", "it's 100 %", "/".join(["a rather long name of a folder"] * 5)]
)
def test_no_name_of_a_folder_is_an_obstacle(folder: Path, name: str) -> None:
    with embedded_postgres(folder / name) as server:
        assert answer(server.url("crm")) == 1
        engine = create_engine(server.url("crm"))
        engine.connect().close()
        engine.dispose()


def test_a_server_that_cannot_start_is_reported_in_one_line(folder: Path) -> None:
    (folder / "taken").write_text("no folder")
    with pytest.raises(LeoraError, match=r"does not start in .*taken"):
        EmbeddedPostgres(folder / "taken")
