"""Engines: a database, as its URL names it, made ready for the pipeline.

What does not belong here: transactions, which `connection` opens.
"""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa

from leora_pipeline.core.database.urls import read_url
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.settings import Settings

IDLE_SECONDS = 10
"""How long the server waits, within a transaction, for a client that is silent. Then it ends the
transaction, so that the CRM does not wait for rows of a client that is gone. Between two statements
the pipeline computes for milliseconds."""

LONGEST_SECONDS = 2 * 60 * 60
"""How long a transaction, or a statement, may take: as long as a run (``dagster.yaml``)."""

CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 14_000,
}
"""How long, in seconds, a connection takes to be made; and that one whose other end is gone without
a word ends after 14 seconds, whether an answer is waited for or data are not acknowledged."""


def create_engine(url: str) -> sa.Engine:
    """Returns an engine for a database URL, as libpq or as Prisma writes it.

    Prisma's ``?schema=`` becomes the search path. Statements are never prepared on the server, so
    that a transaction-mode pooler may stand in between. Every transaction runs with
    ``row_security = off`` (a filtered read is an error instead of an empty table), in UTC, and
    with time limits of its own in the place of the role's: those of a role that serves an
    application are too short for a read of all orders, and none would let a client that is gone
    hold up the CRM.

    Raises:
        WrongUsageError: The URL cannot be read.
    """
    given = read_url(url)
    settings = (
        "SET LOCAL row_security = off; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; "
        f"SET LOCAL statement_timeout = '{LONGEST_SECONDS}s'; "
        f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"
    )
    if given.schema:
        settings += '; SET LOCAL search_path = "{}"'.format(given.schema.replace('"', '""'))
    since_17 = f"{settings}; SET LOCAL transaction_timeout = '{LONGEST_SECONDS}s'"
    target = given.for_driver("psycopg")
    engine = sa.create_engine(
        target,
        connect_args={
            "prepare_threshold": None,
            "client_encoding": "utf8",
            # What the URL says is meant.
            **{name: value for name, value in CONNECTION.items() if name not in target.query},
        },
        pool_pre_ping=True,
    )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # One round trip; LOCAL, because a pooler hands the session to another client afterwards.
        version = connection.dialect.server_version_info or ()
        connection.exec_driver_sql(since_17 if version >= (17,) else settings)

    return engine


def configured_engine() -> sa.Engine:
    """Returns the process's one engine for ``LEORA_DATABASE_URL``, with its pool of connections.

    Raises:
        WrongUsageError: The variable is not set, or cannot be read.
    """
    url = Settings.from_environment().database_url
    if url is None:
        raise WrongUsageError(
            "LEORA_DATABASE_URL is not set; set it to the CRM's database, or pass an engine"
        )
    return _shared_engine(url)


_shared_engine = cache(create_engine)
