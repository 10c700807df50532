"""Engines: a database, as its URL names it, made ready for the pipeline.

What does not belong here: transactions, which `connection` opens.
"""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa

from leora_pipeline.core.database.urls import read_url
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.settings import Settings


def create_engine(url: str) -> sa.Engine:
    """Returns an engine for a database URL, as libpq or as Prisma writes it.

    Prisma's ``?schema=`` becomes the search path. Statements are never prepared on the server, so
    that a transaction-mode pooler may stand in between. Every transaction runs with
    ``row_security = off`` (a filtered read is an error instead of an empty table), in UTC, and
    without the time limits of roles that serve an application: a read of all orders may take
    minutes.

    Raises:
        WrongUsageError: The URL cannot be read.
    """
    given = read_url(url)
    settings = (
        "SET LOCAL row_security = off; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; "
        "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
    )
    if given.schema:
        settings += '; SET LOCAL search_path = "{}"'.format(given.schema.replace('"', '""'))
    engine = sa.create_engine(
        given.for_driver("psycopg"),
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": 10,
            "client_encoding": "utf8",
        },
        pool_pre_ping=True,
    )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # One round trip; LOCAL, because a pooler hands the session to another client afterwards.
        connection.exec_driver_sql(settings)

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
