"""The named SQL statements that stand in ``.sql`` files beside the modules that run them.

What belongs here: finding, checking and handing out statements. What does not: SQL itself, and
running it, which is the work of the module that asks for its own file.

A file holds one or more statements. Each begins with a line ``-- name: some_name``, followed by
comment lines that say what it does. Parameters are written ``:name``. A line
``-- include: package.file.name`` stands for the text of a statement of another file, the path
counted from ``leora_pipeline``: what several statements share is written once. A line
``-- optional: c."city"`` stands for a column that the CRM may lack, or the role may not read: null,
unless `Statements.with_columns` is told that it is there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import psycopg

_ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"^-- name: *(.*?) *$", re.MULTILINE)
_INCLUDE = re.compile(r"^ *-- include: *([\w.]+)\.(\w+) *$", re.MULTILINE)
_OPTIONAL = re.compile(r'-- optional: *(\w+\."(\w+)") *$', re.MULTILINE)
_COMMENTS = re.compile(r"\A(?:--.*\n)+")


class Statements:
    """The statements of one file, each an attribute.

    The file is checked when it is loaded, so that a mistake shows at once and not at night.
    """

    def __init__(self, path: str) -> None:
        """Loads a file.

        Args:
            path: The file's dotted path without its ending: the name of the module beside it.

        Raises:
            ValueError: A statement has no name, no description, or the name of another one.
            OSError: There is no such file.
        """
        file = _ROOT.joinpath(*path.split(".")[1:]).with_suffix(".sql")
        before, *parts = _NAME.split(file.read_text(encoding="utf-8"))
        self._path = path
        self._texts: dict[str, str] = {}
        self._ready: dict[str, sa.TextClause] = {}
        if before.strip():
            raise ValueError(f"{file}: text before the first name")
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if not name.isidentifier() or hasattr(self, name) or name in self._texts:
                raise ValueError(f"{file}: {name!r} cannot be a statement's name, or stands twice")
            if not _COMMENTS.match(text.strip()):
                raise ValueError(f"{file}: {name} lacks a line that says what it does")
            self._texts[name] = text.strip()

    def __getattr__(self, name: str) -> sa.TextClause:
        """Returns a statement ready to execute."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self._path}.sql has no statement {name!r}") from None

    def __getitem__(self, name: str) -> sa.TextClause:
        """Returns a statement ready to execute, by a name that is known at run time only.

        Raises:
            KeyError: The file has no statement of that name.
        """
        if name not in self._ready:
            self._ready[name] = sa.text(self.text(name))
        return self._ready[name]

    def text(self, name: str) -> str:
        """Returns a statement's text, for what SQLAlchemy is not to look into.

        Raises:
            KeyError: The file has no statement of that name.
        """
        return _OPTIONAL.sub("NULL", self._included(name))

    def with_columns(self, name: str, readable: Collection[str]) -> sa.TextClause:
        """Returns a statement ready to execute that reads those of its optional columns.

        Args:
            name: The statement.
            readable: The optional columns that are there.

        Raises:
            KeyError: The file has no statement of that name.
        """

        def column(match: re.Match[str]) -> str:
            return match[1] if match[2] in readable else "NULL"

        return sa.text(_OPTIONAL.sub(column, self._included(name)))

    def _included(self, name: str) -> str:
        return _INCLUDE.sub(_included, self._texts[name])

    @cache  # noqa: B019 - There is one of these for each file, for the life of the process.
    def for_driver(self, name: str) -> str:
        """Returns a statement as psycopg takes it, for what SQLAlchemy cannot do: streaming rows.

        Raises:
            KeyError: The file has no statement of that name.
        """
        return str(self[name].compile(dialect=psycopg.dialect()))  # type: ignore[no-untyped-call]


def _included(match: re.Match[str]) -> str:
    """Returns the text that an include stands for, without the lines that describe it."""
    path, name = match.groups()
    return _COMMENTS.sub("", statements(f"{_ROOT.name}.{path}").text(name))


@cache
def statements(path: str) -> Statements:
    """Returns the statements of the file beside a module; see `Statements`."""
    return Statements(path)
