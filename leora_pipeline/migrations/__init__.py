"""The pipeline's own schema, ``leora_pipeline``, versioned by Alembic.

What belongs here: installing, removing and printing that schema. Each revision under ``versions``
names files under ``sql``. Of the CRM's tables only the triggers of ``triggers.sql`` are set.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import psycopg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from leora_pipeline.core.database import schema_revision, transaction
from leora_pipeline.core.errors import LeoraError, UnfitDatabaseError
from leora_pipeline.core.statements import raw_statement, statement

HERE = Path(__file__).parent
SCHEMA = "leora_pipeline"
VERSION_TABLE = "alembic_version"
TRIGGERS = ("order_insert", "order_update", "order_delete", "customer_insert", "customer_update")
TRIGGER_REMOVALS = ("drop_order_triggers", "drop_customer_triggers")
LOCK_TIMEOUT_MS = 500
LOCK_ATTEMPTS = 10


def install_schema(engine: sa.Engine, *, triggers: bool = True) -> None:
    """Brings the schema to this version's revision; does nothing where it is there already.

    All of the schema is installed in one transaction, and by one process at a time. The triggers on
    the CRM's tables follow in transactions of their own, each of which waits for its lock only
    briefly, so that nobody who uses the table waits behind it.

    Args:
        engine: The CRM's database.
        triggers: Whether changes of the CRM are captured.

    Raises:
        UnfitDatabaseError: The schema is one of a newer version.
        LeoraError: A table of the CRM stayed locked.
    """
    with transaction(engine) as connection:
        _serialize(connection)
        # Otherwise a role that may no longer create one could not even look that it is there.
        if not sa.inspect(connection).has_schema(SCHEMA):
            connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        with _known_revision():
            command.upgrade(_config(connection=connection), "head")
    for name in TRIGGERS if triggers else ():
        _alter_crm(engine, name)


def remove_schema(engine: sa.Engine) -> None:
    """Removes the triggers and the schema; what was written to the CRM stays.

    Raises:
        UnfitDatabaseError: The schema is one of a newer version.
        LeoraError: A table of the CRM stayed locked.
    """
    for name in TRIGGER_REMOVALS:
        _alter_crm(engine, name)
    with transaction(engine) as connection:
        _serialize(connection)
        if schema_revision(connection) is not None:
            with _known_revision():
                command.downgrade(_config(connection=connection), "base")
            connection.exec_driver_sql(removal_sql())


def _alter_crm(engine: sa.Engine, name: str) -> None:
    """Runs a statement that takes a lock on a table of the CRM, with short waits and retries."""
    for attempt in range(LOCK_ATTEMPTS):
        try:
            with transaction(engine) as connection:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'")
                connection.execute(statement("leora_pipeline.migrations.sql", "triggers.sql", name))
            return
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            time.sleep(min(0.1 * 2**attempt, 5))
    raise LeoraError(
        f"{name}: the CRM's table stayed locked by somebody; run this again at a quieter time, "
        "or `leora migrate --no-triggers`"
    )


def print_schema(output: TextIO, *, down: bool = False, triggers: bool = True) -> None:
    """Writes the SQL that installs the schema, or removes it, without running it.

    It is one transaction, for those who review and run such things by hand, and, for the triggers,
    a statement each beside it.
    """
    config = _config(output=output)
    names = TRIGGER_REMOVALS if down else TRIGGERS if triggers else ()
    statements = [raw_statement("leora_pipeline.migrations.sql", "triggers.sql", n) for n in names]
    if down:
        output.writelines(f"{text};\n\n" for text in statements)
        command.downgrade(config, "head:base", sql=True)
    else:
        command.upgrade(config, "head", sql=True)
        output.writelines(f"\n{text};\n" for text in statements)


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
