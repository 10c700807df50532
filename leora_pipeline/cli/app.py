"""The command's entry: its sub-commands, its exit codes, and errors as one line.

Exit codes: 0 done; 1 the work failed, or something is wrong; 2 wrong usage.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from leora_pipeline.core.errors import LeoraError, WrongUsageError, one_line
from leora_pipeline.core.text import visible

COMMANDS = {
    "demo": "Compute the account types of a sample CRM of several tenants, in an embedded "
    "database.",
    "dev": "Open the Dagster UI, with the schedules and the listener running, until Ctrl-C.",
    "migrate": "Install the schema leora_pipeline in the CRM's database, or bring it up to date.",
    "update": "Bring the account types of all customers up to date.",
    "preview": "Show what an update would change, and why.",
    "check": "Run all data-quality checks; exit 1 where one of severity error fails.",
    "listen": "Bring customers up to date within milliseconds of a change, until Ctrl-C or "
    "SIGTERM.",
    "status": "Show how the pipeline stands; exit 1 where anything is wrong, or older than 2 days.",
    "history": "Show every change of one customer's type, and why it has the one of today.",
    "policy": "Show or change a tenant's thresholds, limits, and which orders count.",
    "alerts": "Tell people what is wrong, and when it recovers.",
}
"""The commands, each with the first line of its help: showing them all imports none."""


class _Commands(click.Group):
    """A group whose commands are modules, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"leora_pipeline.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="leora-pipeline")
def leora() -> None:
    """Keeps every CRM customer's account type true."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with its code.

    Args:
        arguments: The command line without the program's name; by default the process's.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no check mark shows a question mark instead of failing.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Errors are reported once, by the line below; Python would otherwise print warnings of its own.
    logging.getLogger("leora_pipeline").addHandler(logging.NullHandler())
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = leora.main(arguments, prog_name="leora", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except WrongUsageError as error:
        _fail(str(error), 2)
    except LeoraError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted; what was committed stays, and the next run does the rest", 1)
    except BrokenPipeError:
        _discard_output()
        sys.exit(1)
    except OSError as error:
        _discard_output()
        _fail(f"{one_line(error)}; check the file or the device, and run it again", 1)
    except Exception as error:
        if _is_of_the_database(error):
            _fail(f"the database refused: {one_line(error)}", 1)
        if os.environ.get("LEORA_DEBUG"):
            raise
        _fail(f"unexpected {type(error).__name__}: {one_line(error)}; LEORA_DEBUG=1 shows where", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _is_of_the_database(error: Exception) -> bool:
    """Returns whether it is SQLAlchemy's; where nothing has imported that, it cannot be."""
    errors = sys.modules.get("sqlalchemy.exc")
    return errors is not None and isinstance(error, errors.SQLAlchemyError)


def _interrupt(signum: int, frame: object) -> None:
    """Ends like Ctrl-C does, so that servers are stopped and runs are recorded as failed."""
    raise KeyboardInterrupt


def _discard_output() -> None:
    """Lets what could not be written go; Python would complain again when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    print(f"leora: {visible(message)}", file=sys.stderr)
    sys.exit(code)
