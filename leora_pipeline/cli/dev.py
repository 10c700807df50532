"""``leora dev``: Dagster's web server, its daemon, and a listener, in the foreground."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from threading import Thread

import click

from leora_pipeline.cli.databases import dagster_environment
from leora_pipeline.cli.output import echo, log_to_stderr
from leora_pipeline.cli.services import serve
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.realtime.listener import Listener
from leora_pipeline.core.settings import Settings


@click.command("dev")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option(
    "--no-listener",
    is_flag=True,
    help="Leave changes to the sensor, which takes seconds instead of milliseconds.",
)
def command(port: int, no_listener: bool) -> None:
    """Open the Dagster UI, with the schedules and the listener running, until Ctrl-C."""
    _require_free(port)
    with (
        dagster_environment(demo=False) as url,
        nullcontext() if no_listener else _listening(url),
    ):
        echo(f"Dagster UI: http://127.0.0.1:{port} (Ctrl-C ends it)")
        serve(port)


@contextmanager
def _listening(url: str) -> Iterator[None]:
    """Runs a listener beside, for as long as the block lasts."""
    log_to_stderr(logging.WARNING)
    engine = create_engine(url)
    listener = Listener(engine, write_dates=Settings.from_environment().write_last_order_date)
    thread = Thread(target=listener.run, name="listener")
    thread.start()
    try:
        yield
    finally:
        listener.stop()
        thread.join()
        engine.dispose()


def _require_free(port: int) -> None:
    """Refuses a port that another process listens on."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise WrongUsageError(
                f"port {port} is taken; name another: leora dev --port {port + 1}"
            ) from None
