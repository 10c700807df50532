"""What acceptance tests share: running commands as a user does, and waiting without sleeping blind.

What belongs here: helpers that start, observe and end processes. What does not: anything that
knows what the pipeline is to answer.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from leora_pipeline.core.settings import PROJECT_ROOT

BIN = Path(sys.executable).parent
LEORA = (sys.executable, "-c", "from leora_pipeline.cli import main; main()")
"""The command of whatever package stands first on the path."""

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind: its exit code, and what it said on which stream."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()

    @property
    def error(self) -> str:
        """The error, which has to be one plain line with the program's name before it."""
        assert self.err.endswith("\n"), f"no error was reported: {self.err!r}"
        assert self.err.count("\n") == 1, f"not one line:\n{self.err}"
        assert self.err.startswith("leora: "), self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("leora: ").rstrip("\n")


def environment(**variables: str) -> dict[str, str]:
    """Returns an environment with these variables, without any other of the pipeline's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEORA_", "DAGSTER_"))}
    return {**kept, **variables}


def copy_project(root: Path) -> None:
    """Copies what the commands need into a folder, where they keep their data then."""
    shutil.copytree(
        PROJECT_ROOT / "leora_pipeline",
        root / "leora_pipeline",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for name in ("dagster.yaml", "workspace.yaml", "pyproject.toml"):
        shutil.copy(PROJECT_ROOT / name, root)


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
) -> Outcome:
    """Runs a command to its end, its output in pipes."""
    done = subprocess.run(
        [str(part) for part in command],
        env=dict(env) if env is not None else environment(),
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def wait_until(condition: Callable[[], T], *, seconds: float, what: str, every: float = 0.1) -> T:
    """Asks again and again until the answer is true, and returns that answer."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        pause.wait(every)
    return answer


def free_port() -> int:
    """Returns a port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _sigint(handler: signal.Handlers | Callable[..., object]) -> Iterator[None]:
    """Sets what a process started within the block inherits: an ignored SIGINT stays ignored."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start(
    *command: str | Path,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    in_background: bool = False,
) -> subprocess.Popen[bytes]:
    """Starts a command in a session of its own, its output in a file.

    Args:
        command: The command.
        env: Its whole environment.
        cwd: Where it runs.
        log: Where both its streams go.
        in_background: Start it as a shell script starts a job with ``&``: with SIGINT ignored.
    """
    handler = signal.SIG_IGN if in_background else signal.default_int_handler
    with _sigint(handler), log.open("w") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def processes_of(mark: str) -> dict[int, str]:
    """Returns the living processes, this one left out, that a mark gives away.

    Args:
        mark: What their command line or their environment holds, which children inherit.
    """
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            line = (folder / "cmdline").read_bytes()
            marked = line if mark.encode() in line else (folder / "environ").read_bytes()
        except OSError:
            continue  # It ended while we looked, or is somebody else's.
        if mark.encode() in marked:
            found[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def kill_all(mark: str) -> None:
    """Kills what is left of a test's own processes, one by one."""
    for pid in processes_of(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
