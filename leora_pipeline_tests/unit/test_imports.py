"""Light commands stay light: each imports no heavy library but those that it is made of.

Imports are what a command's start costs, and one line somewhere brings a second of them.
"""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

import leora_pipeline
from leora_pipeline.cli.app import COMMANDS

HEAVY = {
    "alembic",
    "apprise",
    "dagster",
    "great_expectations",
    "numpy",
    "pandas",
    "psutil",
    "psycopg",
    "requests",
    "rich",
    "sqlalchemy",
}
DATABASE = {"psycopg", "sqlalchemy"}
"""What a command's modules may import; the rest comes where the work needs it, if it does."""


def imported(statement: str) -> set[str]:
    """Returns the heavy libraries that a fresh interpreter has after a statement."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return HEAVY & set(outcome.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_what_it_is_made_of_and_nothing_else(name: str) -> None:
    assert imported(f"import leora_pipeline.cli.{name}") <= DATABASE


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["unknown"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    call = f"try: leora_pipeline.cli.main({arguments})\nexcept SystemExit: pass"
    assert imported(f"import leora_pipeline.cli\n{call}") == set()


def test_the_interface_is_imported_when_it_is_asked_for() -> None:
    assert imported("import leora_pipeline") == set()
    assert imported("from leora_pipeline import after_order_create") == DATABASE


@pytest.mark.parametrize("name", leora_pipeline.__all__)
def test_every_name_of_the_interface_is_there(name: str) -> None:
    assert getattr(leora_pipeline, name).__name__ == name
    assert name in dir(leora_pipeline)


def test_a_name_that_is_not_of_the_interface_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'leora_pipeline' has no attribute 'nothing'"):
        leora_pipeline.nothing  # noqa: B018


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_listed_by_the_first_line_of_its_own_help(name: str) -> None:
    command = importlib.import_module(f"leora_pipeline.cli.{name}").command
    assert isinstance(command, click.Command)
    assert command.get_short_help_str(limit=200) == COMMANDS[name]
