"""``leora dev``: Dagster's web server and daemon on the embedded or the configured database."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import closing

import click

from leora_pipeline.cli.databases import dagster_environment
from leora_pipeline.core.errors import LeoraError, WrongUsageError
from leora_pipeline.core.settings import PROJECT_ROOT


@click.command("dev")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
def command(port: int) -> None:
    """Open the Dagster UI, with the schedules running, until Ctrl-C."""
    _require_free(port)
    with dagster_environment(demo=False):
        click.echo(f"Dagster UI: http://127.0.0.1:{port} (Ctrl-C ends it)")
        arguments = ["dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
        # A script's background job ignores SIGINT, and so would the child: a handler is not
        # inherited. In a session of its own the child hears nothing but what is passed on, once,
        # whether a terminal's Ctrl-C or its end, or a supervisor's signal; the servers stop last.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        child = subprocess.Popen(
            # Libraries' own deprecations are no news to a user.
            [sys.executable, "-W", "ignore", "-m", "dagster", *arguments],
            cwd=PROJECT_ROOT,
            start_new_session=True,
        )
        for received in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(received, lambda *_: child.send_signal(signal.SIGINT))
        code = child.wait()
    if code not in (0, -signal.SIGINT, 128 + signal.SIGINT):
        raise LeoraError(f"Dagster ended with code {code}; its last lines above say why")


def _require_free(port: int) -> None:
    """Refuses a port that somebody listens on."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise WrongUsageError(
                f"port {port} is taken; name another: leora dev --port {port + 1}"
            ) from None
