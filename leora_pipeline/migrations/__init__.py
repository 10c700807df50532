"""The pipeline's own schema, ``leora_pipeline``, versioned by Alembic.

What belongs here: installing, removing and printing that schema. Each revision under ``versions``
names files under ``sql``. The CRM's tables are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from leora_pipeline.core.database import schema_revision, transaction
from leora_pipeline.core.errors import UnfitDatabaseError

HERE = Path(__file__).parent
SCHEMA = "leora_pipeline"
VERSION_TABLE = "alembic_version"


def install_schema(engine: sa.Engine) -> None:
    """Brings the schema to this version's revision; does nothing where it is there already.

    All of it happens in one transaction, and one process at a time.
    """
    with transaction(engine) as connection:
        _serialize(connection)
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        with _known_revision():
            command.upgrade(_config(connection=connection), "head")


def remove_schema(engine: sa.Engine) -> None:
    """Removes the schema and all that it holds; what was written to the CRM stays."""
    with transaction(engine) as connection:
        _serialize(connection)
        if schema_revision(connection) is not None:
            with _known_revision():
                command.downgrade(_config(connection=connection), "base")
            connection.exec_driver_sql(removal_sql())


def print_schema(output: TextIO, *, down: bool = False) -> None:
    """Writes the SQL that installs the schema, or removes it, without running it.

    It is one transaction, for those who review and run such things by hand.
    """
    config = _config(output=output)
    if down:
        command.downgrade(config, "head:base", sql=True)
    else:
        command.upgrade(config, "head", sql=True)


@contextmanager
def _known_revision() -> Iterator[None]:
    """Explains Alembic's refusal of a revision that is none of this version's."""
    try:
        yield
    except CommandError as error:
        raise UnfitDatabaseError(
            "the schema leora_pipeline was installed by a newer version of the pipeline "
            f"({error}); run `leora migrate` of that version"
        ) from error


def removal_sql() -> str:
    """Returns what ends a removal: Alembic's own table goes last, and the schema with it."""
    return f"DROP TABLE {SCHEMA}.{VERSION_TABLE}; DROP SCHEMA {SCHEMA}"


def script(file: str) -> str:
    """Returns one of the SQL files that the revisions name."""
    return (HERE / "sql" / file).read_text(encoding="utf-8")


def _serialize(connection: sa.Connection) -> None:
    """Lets one migration at a time run; a transaction's lock, so that a pooler may be between."""
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{SCHEMA}.migrate'))")


def _config(*, connection: sa.Connection | None = None, output: TextIO | None = None) -> Config:
    """Returns Alembic's configuration, which has no file of its own."""
    config = Config(output_buffer=output) if output else Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["connection"] = connection
    return config
