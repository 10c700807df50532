"""How results look: tables and progress on a terminal, plain lines in a pipe, and JSON.

What draws on a terminal is imported where one is drawn on: most output goes into a pipe.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from leora_pipeline.core.customers.gate import describe_order_loss, describe_release
from leora_pipeline.core.text import terminal_line, to_json, visible

if TYPE_CHECKING:
    from leora_pipeline.core.quality.verdicts import Verdict
    from leora_pipeline.core.reporting.status import Incident
    from leora_pipeline.core.run.publish import AccountTypeUpdateResult
    from leora_pipeline.core.run.run import Progress as OnProgress

MARKS = {"passed": "✅", "failed": "❌", "warned": "⚠️ ", "not judged": "➖"}


def print_json(value: Mapping[str, object]) -> None:
    """Prints one JSON object; instants in ISO 8601, UTC."""

    def encode(item: object) -> object:
        return item.astimezone(UTC).isoformat() if isinstance(item, datetime) else str(item)

    click.echo(to_json(value, encode))


def echo(line: str = "", *, err: bool = False) -> None:
    """Prints one line, whatever texts of the CRM's are in it: nothing else prints text.

    Args:
        line: The line.
        err: Whether it goes to standard error.
    """
    click.echo(terminal_line(line), err=err)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows: a table on a terminal, tab-separated lines in a pipe."""
    cells = [["" if cell is None else visible(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", title_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))  # Not as markup, which a name may look like.
        Console().print(table)
    else:
        echo(f"{title}:")
        for row in [list(columns), *cells]:
            echo("\t".join(row))


def log_to_stderr(level: int) -> None:
    """Shows the pipeline's log, a line an entry, on standard error."""
    handler = logging.StreamHandler()
    # No traceback: an entry says what is wrong in one line.
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("leora_pipeline")
    logger.addHandler(handler)
    logger.setLevel(level)


class _OneLine(logging.Formatter):
    """Formats an entry without its traceback, and its text without line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = terminal_line(record.getMessage())
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)


@contextmanager
def progress() -> Iterator[OnProgress]:
    """Shows how a run advances, on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        from leora_pipeline.core.run.run import no_progress

        yield no_progress
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=None)

        def update(step: str, customers: int) -> None:
            shown.update(task, description=f"{step}: {customers:,} customers")

        yield update


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows, on standard error where that is a terminal, that something is being done."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def percent(part: int, total: int) -> str:
    """Returns a share for people; a dash where there is nothing to share."""
    return f"{100 * part / total:.1f}%" if total else "–"


def print_summary(results: Sequence[AccountTypeUpdateResult], duration_ms: int) -> None:
    """Prints what a run made of its tenants, one by one and together."""
    for result in results:
        echo(
            f"✅ Account types updated for {result.tenant_slug}: "
            f"ACTIVE={result.active}, TARGET={result.target}, PROSPECT={result.prospect}"
        )
    for result in results:
        if result.held:
            echo(
                f"❌ {result.tenant_slug} is held: {describe_order_loss()}; "
                f"{describe_release(result.tenant_slug)}"
            )
    total = sum(result.total for result in results)
    echo("[update-account-types] Job complete:")
    echo(f"  - Tenants processed: {len(results)}")
    echo(f"  - Total customers: {total}")
    for name in ("active", "target", "prospect"):
        count = sum(getattr(result, name) for result in results)
        echo(f"  - {name.upper()}: {count} ({percent(count, total)})")
    echo(f"  - Duration: {duration_ms}ms")


def print_incidents(title: str, incidents: Sequence[Incident]) -> None:
    """Prints what people were notified of, and since when."""
    print_table(
        title,
        ["tenant", "what", "opened (UTC)", "resolved (UTC)", "message"],
        [
            [
                incident.tenant_slug,
                incident.kind,
                f"{incident.opened_at:%Y-%m-%d %H:%M:%S}",
                f"{incident.resolved_at:%Y-%m-%d %H:%M:%S}" if incident.resolved_at else "open",
                incident.message,
            ]
            for incident in incidents
        ],
    )


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Prints verdicts: a line for each check that no tenant fails, and one for each that does."""
    echo("Data-quality checks:" if verdicts else "Data-quality checks: no tenants to judge")
    for name in dict.fromkeys(verdict.check_name for verdict in verdicts):
        of_check = [verdict for verdict in verdicts if verdict.check_name == name]
        passed = sum(verdict.status == "passed" for verdict in of_check)
        if passed and not any(verdict.status == "failed" for verdict in of_check):
            echo(f"  {MARKS['passed']} {name}: {passed} tenants pass")
        for verdict in of_check:
            if verdict.status == "failed":
                mark = MARKS["failed" if verdict.severity == "error" else "warned"]
                echo(f"  {mark} {name}: {verdict.tenant_slug}: {verdict.message}")
            elif verdict.status == "not judged":
                mark = MARKS["not judged"]
                echo(f"  {mark} {name}: {verdict.tenant_slug} not judged: {verdict.message}")
