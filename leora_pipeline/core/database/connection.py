"""Reaching the CRM's database: its URL, its transactions, and what it must be to be trusted.

What does not belong here: anything about account types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import sqlalchemy as sa

from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.database.urls import shown_url
from leora_pipeline.core.errors import LeoraError, one_line

SQL = statements(__name__)


@contextmanager
def transaction(engine: sa.Engine, *, snapshot: bool = False) -> Iterator[sa.Connection]:
    """Opens a transaction that commits at the block's end, or rolls back on any error.

    Args:
        engine: From `create_engine`.
        snapshot: Read only, all statements seeing one instant (REPEATABLE READ). Otherwise READ
            COMMITTED, which the locking of refresh and apply is built on.

    Raises:
        LeoraError: The server cannot be reached.
    """
    options: dict[str, object] = {"isolation_level": "READ COMMITTED"}
    if snapshot:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:  # Options that libpq does not know are a ProgrammingError.
        raise LeoraError(
            f"the database at {shown_url(engine.url)} cannot be reached ({one_line(error)}); "
            "check LEORA_DATABASE_URL and that the server runs"
        ) from error
    with connection.execution_options(**options) as opened, opened.begin():
        yield opened


def now(connection: sa.Connection) -> datetime:
    """Returns the database's clock, UTC, rounded up to the millisecond that the CRM stores."""
    instant: datetime = connection.execute(SQL.now).scalar_one()
    return instant.astimezone(UTC)


def lock(connection: sa.Connection, what: str, tenant_id: UUID | None = None) -> None:
    """Lets one transaction at a time do something, for one tenant or for all; others wait.

    The lock is the transaction's, so that a pooler may stand in between, and ends with it. It is a
    row's, so that only a role that may write the pipeline's tables can hold others up.

    Args:
        connection: Within a READ COMMITTED transaction.
        what: The name of what is done.
        tenant_id: The tenant for which it is done; None where it is done for all at once.
    """
    which = {"tenant_id": tenant_id or UUID(int=0), "name": what}
    if connection.execute(SQL.lock, which).first() is None:
        connection.execute(SQL.create_lock, which)
        connection.execute(SQL.lock, which)


def tune_for_whole_tables(connection: sa.Connection) -> None:
    """Gives the rest of a transaction the memory that a read of whole tables takes."""
    connection.execute(SQL.tune_for_whole_tables)


def stream_rows(
    connection: sa.Connection, query: str, parameters: dict[str, object], *, size: int
) -> Iterator[tuple[object, ...]]:
    """Yields a query's rows while the server still produces them, `size` in memory at a time.

    A server-side cursor would do the same but forbids parallel plans. Parameters are written
    ``%(name)s``. Until the rows are exhausted, the connection serves nothing else.

    Raises:
        LeoraError: The read failed; some rows may have been yielded by then.
    """
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    with raw.cursor() as cursor:
        rows = cursor.stream(query, parameters, size=size)
        while True:
            try:
                row = next(rows, None)
            except psycopg.Error as error:
                raise LeoraError(f"reading the CRM broke off: {one_line(error)}") from error
            if row is None:
                return
            yield row
