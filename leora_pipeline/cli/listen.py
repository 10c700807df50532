"""``leora listen``: the real-time worker."""

from __future__ import annotations

import logging
import signal

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.output import echo, log_to_stderr
from leora_pipeline.core.realtime.listener import POLL_SECONDS, Listener
from leora_pipeline.core.settings import Settings


@click.command("listen")
@click.option(
    "--poll-ms",
    type=click.IntRange(1, 60_000),
    default=round(1000 * POLL_SECONDS),
    show_default=True,
    help="How often to look for changes, in milliseconds.",
)
@click.option(
    "--notify",
    is_flag=True,
    help="Be woken by PostgreSQL instead; on a direct connection only, and at a cost to the CRM.",
)
def command(poll_ms: int, notify: bool) -> None:
    """Bring customers up to date within milliseconds of a change, until Ctrl-C or SIGTERM."""
    log_to_stderr(logging.INFO)
    with crm_engine() as engine:
        listener = Listener(
            engine,
            poll_seconds=poll_ms / 1000,
            is_notified=notify,
            write_dates=Settings.from_environment().write_last_order_date,
        )

        def stop(signum: int, frame: object) -> None:
            listener.stop()
            for received in (signal.SIGINT, signal.SIGTERM):
                signal.signal(received, signal.default_int_handler)  # A second one does not wait.

        for received in (signal.SIGINT, signal.SIGTERM):
            signal.signal(received, stop)
        echo(
            "Listening, " + ("notified" if notify else f"every {poll_ms} ms") + " (Ctrl-C ends it)"
        )
        listener.run()
        echo(f"Stopped: {listener.customers} customers looked at, {listener.moved} types changed")
