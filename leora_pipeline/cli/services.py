"""Dagster's processes as `leora dev` runs them: code server, web server and daemon.

They are those that `dagster dev` starts, but for the web server, which stands behind a door
(`orchestration.web_server`). What does not belong here: the databases, which outlive them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from leora_pipeline.core.errors import LeoraError
from leora_pipeline.core.settings import PROJECT_ROOT

LOOK_EVERY_SECONDS = 0.1
END_WITHIN_SECONDS = 60
"""How long a process may take to end. The code server lets the runs in flight end first."""
KILL_AFTER_SECONDS = 5
"""How long what is left of it may take, such as a run that would last longer."""

Process = subprocess.Popen[bytes]


def serve(port: int) -> None:
    """Runs Dagster until a signal ends it.

    Raises:
        LeoraError: The web server or the daemon ended by itself, or the code server before them;
            later it is started anew, and the others find it.
    """
    received: list[int] = []
    # These handlers stay: what comes while the databases are stopped is to interrupt nothing.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: received.append(number))
    with TemporaryDirectory(prefix="leora_dev_") as folder:
        # A socket in a folder of this user's: there is no port that a page or another user finds.
        code_socket = Path(folder) / "code"
        workspace = Path(folder) / "workspace.yaml"
        # As workspace.yaml, but that web server and daemon share a code server. JSON is YAML.
        shared = {"socket": str(code_socket), "location_name": "leora_pipeline"}
        workspace.write_text(json.dumps({"load_from": [{"grpc_server": shared}]}))
        code = _start_code_server(code_socket)
        running: dict[str, Process] = {}
        try:
            while not received:
                if code.poll() is not None:
                    if not running:
                        raise _ended("code server", code)
                    code = _start_code_server(code_socket)
                if not running and _is_open(code_socket):
                    running["web server"] = _start_web_server(port, workspace)
                    running["daemon"] = _start_daemon(workspace)
                for name, process in running.items():
                    if process.poll() is not None:
                        raise _ended(name, process)
                time.sleep(LOOK_EVERY_SECONDS)
        finally:
            _end(*running.values())
            _end(code)


def _ended(name: str, process: Process) -> LeoraError:
    return LeoraError(
        f"Dagster's {name} ended with code {process.returncode}; its last lines above say why"
    )


def _start_code_server(path: Path) -> Process:
    return _start(
        *(sys.executable, "-m", "dagster", "code-server", "start", "--log-level", "warning"),
        *("-m", "leora_pipeline.definitions", "--location-name", "leora_pipeline"),
        *("--socket", str(path)),
    )


def _start_web_server(port: int, workspace: Path) -> Process:
    module = "leora_pipeline.orchestration.web_server"
    return _start(sys.executable, "-m", module, str(port), str(workspace))


def _start_daemon(workspace: Path) -> Process:
    command = Path(sysconfig.get_path("scripts")) / "dagster-daemon"
    return _start(str(command), "run", "-w", str(workspace))


def _start(*command: str) -> Process:
    """Starts a process in a session of its own, where a terminal's Ctrl-C does not reach it."""
    return subprocess.Popen(
        command,
        cwd=PROJECT_ROOT,
        # Libraries' own deprecations are no news to a user.
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )


def _end(*processes: Process) -> None:
    """Asks processes to end, all at once, and waits; then nothing that they started is left."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_WITHIN_SECONDS)
        with suppress(ProcessLookupError):  # Nothing is left.
            os.killpg(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + KILL_AFTER_SECONDS
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(LOOK_EVERY_SECONDS)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_open(path: Path) -> bool:
    """Returns whether a process listens on a socket."""
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        return probe.connect_ex(str(path)) == 0
