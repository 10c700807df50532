"""Reads the named SQL statements that stand in ``.sql`` files beside the code.

What belongs here: finding and naming statements. What does not: SQL itself, which lives in the
``.sql`` files, and running it, which is the work of the step that names it.

A file holds one or more statements. Each begins with a line ``-- name: some_name``, followed by
comment lines that say what it does.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import sqlalchemy as sa

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@cache
def _statements(package: str, file: str) -> dict[str, str]:
    """Returns the statements of one file by name."""
    source = resources.files(package).joinpath(file).read_text(encoding="utf-8")
    parts = _NAME.split(source)
    return dict(zip(parts[1::2], (body.strip() for body in parts[2::2]), strict=True))


def raw_statement(package: str, file: str, name: str) -> str:
    """Returns the text of a named statement, for what SQLAlchemy is not to look into.

    Args:
        package: The package that holds the file, such as ``leora_pipeline.core.sql``.
        file: The file's name, with its ending.
        name: The name after ``-- name:``.

    Raises:
        KeyError: The file has no statement of that name.
    """
    return _statements(package, file)[name]


@cache
def statement(package: str, file: str, name: str) -> sa.TextClause:
    """Returns a named statement ready to execute, its parameters written ``:name``.

    Raises:
        KeyError: The file has no statement of that name.
    """
    return sa.text(raw_statement(package, file, name))
