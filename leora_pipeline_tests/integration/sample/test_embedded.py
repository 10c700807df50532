"""The embedded server: shared by who uses it, stopped by the last, and up again after a kill."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline import LeoraError
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres
from leora_pipeline_tests.databases import POSTGRES


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


LONG = "/".join(["a rather long name of a folder"] * 5)


@pytest.mark.parametrize("name", ["data", LONG])
@pytest.mark.parametrize("umask", [0o022, 0])
def test_nobody_else_gets_to_its_socket_or_its_data(folder: Path, name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        with embedded_postgres(folder / name) as server:
            socket = Path(sa.make_url(server.url("crm")).query["host"])  # type: ignore[arg-type]
            data = folder / name / "postgres"
            assert (socket == data) == (name == "data")
            for private in (socket, data):
                assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert not (folder / name).stat().st_mode & (stat.S_IWOTH | stat.S_IROTH)
            assert (socket / ".s.PGSQL.5432").exists()
    finally:
        os.umask(before)
    assert socket == data or not socket.exists()


def test_another_user_who_got_to_the_socket_would_not_be_let_in(folder: Path) -> None:
    """Two bars: the folder, and the kernel's word on whose process it is."""
    if os.geteuid() != 0:
        pytest.skip("only root can run a process as another user")
    with embedded_postgres(folder) as server:
        url = server.url("crm")
        socket = str(sa.make_url(url).query["host"])

        def as_nobody(role: str) -> str:
            psql = [POSTGRES / "psql", "-h", socket, "-U", role, "-c", "SELECT 1", "crm"]
            nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            done = subprocess.run([*nobody, *psql], capture_output=True, text=True, check=False)
            assert done.returncode != 0
            return done.stderr

        assert "Permission denied" in as_nobody("postgres")
        os.chmod(socket, 0o777)
        for role in ("postgres", "nobody", "pgserver"):
            assert "authentication failed" in as_nobody(role)
        os.chmod(socket, 0o700)
        assert answer(url) == 1


def test_a_folder_whose_server_let_everybody_in_is_closed_at_the_next_start(folder: Path) -> None:
    with embedded_postgres(folder) as server:
        server.url("crm")
    access = folder / "postgres" / "pg_hba.conf"
    access.write_text("local all all trust\n")

    with embedded_postgres(folder) as server:
        assert answer(server.url("crm")) == 1
        assert "trust" not in access.read_text()
        with psycopg.connect(server.url("crm")) as connection:
            rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
            assert rules.fetchall() == [("peer",)]


def test_the_folders_above_root_s_server_can_be_passed_but_not_read(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("another user's server runs as that user")
    above = folder / "home"
    above.mkdir(mode=0o700)

    with embedded_postgres(above / "project") as server:
        assert answer(server.url("crm")) == 1

    assert stat.S_IMODE(above.stat().st_mode) == 0o701


def test_a_server_that_cannot_start_is_reported_in_one_line(folder: Path) -> None:
    (folder / "taken").write_text("no folder")
    with pytest.raises(LeoraError, match=r"does not start in .*taken"):
        EmbeddedPostgres(folder / "taken")
