"""Reaching the CRM's database: its URL, its transactions, and what it must be to be trusted.

What does not belong here: anything about account types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import psycopg
import sqlalchemy as sa

from leora_pipeline.core.errors import LeoraError, UnfitDatabaseError, WrongUsageError, one_line
from leora_pipeline.core.settings import Settings
from leora_pipeline.core.statements import statement

SQL = "leora_pipeline.core.sql"
OLDEST_POSTGRES = 15
SCHEMA_REVISION = "0001"
"""The revision of the tables of the schema ``leora_pipeline`` that this code is written for."""

FUNCTIONS_FOLDER = Path(__file__).parents[1] / "migrations" / "functions"
"""Where the SQL functions of that schema stand."""

CRM_COLUMNS = {
    "Tenant": ("id", "slug", "name", "timezone", "createdAt"),
    "Customer": ("id", "tenantId", "name", "lastOrderDate", "accountType", "updatedAt"),
    "Order": ("id", "tenantId", "customerId", "status", "orderedAt"),
}
"""The CRM's tables and those of their columns that the pipeline reads or writes."""

WRITTEN_COLUMNS = ("accountType", "lastOrderDate", "updatedAt")
"""The only columns of ``"Customer"`` that the pipeline ever writes."""

_PRISMA_ONLY = {
    "schema",
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
    "socket_timeout",
    "statement_cache_size",
    "sslaccept",
    "sslidentity",
    "sslpassword",
}


def create_engine(url: str) -> sa.Engine:
    """Returns an engine for a database URL, as libpq or as Prisma writes it.

    Prisma's ``?schema=`` becomes the search path, and its other parameters, which libpq refuses,
    are left out. Statements are never prepared on the server, so that a transaction-mode pooler
    may stand in between. Every transaction runs with ``row_security = off`` (a filtered read is
    an error instead of an empty table), in UTC, and without the time limits of roles that serve an
    application: a read of all orders may take minutes.

    Raises:
        WrongUsageError: The URL cannot be read.
    """
    try:
        given = sa.make_url(url)
    except (ValueError, sa.exc.ArgumentError):
        given = None
    if (
        given is None
        or given.drivername.split("+")[0] not in ("postgres", "postgresql")
        # The rest of a password that holds one as it is; it must not be shown as a host.
        or "@" in (given.host or "")
    ):
        raise WrongUsageError(
            "LEORA_DATABASE_URL cannot be read; it looks like "
            "postgresql://user:password@host:5432/database, special characters of the password "
            "percent-encoded (@ as %40)"
        )
    schema = given.query.get("schema")
    settings = (
        "SET LOCAL row_security = off; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; "
        "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
    )
    if isinstance(schema, str):
        settings += '; SET LOCAL search_path = "{}"'.format(schema.replace('"', '""'))
    engine = sa.create_engine(
        given.set(drivername="postgresql+psycopg").difference_update_query(_PRISMA_ONLY),
        connect_args={
            "prepare_threshold": None,
            "connect_timeout": 10,
            "client_encoding": "utf8",
        },
        pool_pre_ping=True,
    )

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # One round trip; LOCAL, because a pooler hands the session to somebody else afterwards.
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
            f"the database at {_shown(engine.url)} cannot be reached ({one_line(error)}); "
            "check LEORA_DATABASE_URL and that the server runs"
        ) from error
    with connection.execution_options(**options) as opened, opened.begin():
        yield opened


def _shown(url: sa.URL) -> str:
    """Returns where a URL leads, without user, password or options."""
    host = url.host or url.query.get("host") or "localhost"
    return f"{host}:{url.port or 5432}/{url.database}"


def now(connection: sa.Connection) -> datetime:
    """Returns the database's clock, UTC, rounded up to the millisecond that the CRM stores."""
    instant: datetime = connection.execute(statement(SQL, "database.sql", "now")).scalar_one()
    return instant.astimezone(UTC)


def plan_for_whole_tables(connection: sa.Connection) -> None:
    """Gives the rest of a transaction the memory that a read of whole tables takes."""
    connection.execute(statement(SQL, "database.sql", "plan_for_whole_tables"))


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


def require_fit_database(
    engine: sa.Engine, *, migrated: bool = True, writable: bool = True
) -> None:
    """Refuses a database whose reads or writes could not be trusted.

    Args:
        engine: The CRM's database.
        migrated: Whether the pipeline's own schema has to be there.
        writable: Whether the database has to take writes.

    Raises:
        UnfitDatabaseError: PostgreSQL is too old or read-only, a CRM table or column is missing or
            out of reach, row level security filters a table, or the schema is not migrated.
    """
    with transaction(engine) as connection:
        version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
        if version < OLDEST_POSTGRES * 10_000:
            raise UnfitDatabaseError(
                f"PostgreSQL {version // 10_000} is too old; "
                f"the pipeline needs {OLDEST_POSTGRES} or newer"
            )
        read_only = connection.exec_driver_sql("SHOW transaction_read_only").scalar_one()
        if writable and read_only == "on":
            raise UnfitDatabaseError(
                "this database is read-only for this role (a replica, or "
                "default_transaction_read_only); connect to the primary, as a role that may write"
            )
        _require_crm_tables(connection)
        _require_access(connection)
        if migrated:
            _require_migrated(connection)


def _require_crm_tables(connection: sa.Connection) -> None:
    """Refuses a database without the CRM's tables and columns, naming what is missing."""
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(statement(SQL, "database.sql", "crm_columns")):
        found.setdefault(table, set()).add(column)
    missing = [f'"{table}"' for table in CRM_COLUMNS if table not in found]
    missing += [
        f'"{table}"."{column}"'
        for table, columns in CRM_COLUMNS.items()
        if table in found
        for column in columns
        if column not in found[table]
    ]
    if missing:
        raise UnfitDatabaseError(
            f"this database is not the CRM's: it lacks {', '.join(missing)}; check "
            "LEORA_DATABASE_URL, or run `leora demo` for a sample CRM in the embedded database"
        )


def _require_access(connection: sa.Connection) -> None:
    """Refuses a role that row level security filters, or that may not read or write."""
    access = connection.execute(
        statement(SQL, "database.sql", "access"),
        {"tables": list(CRM_COLUMNS), "written": list(WRITTEN_COLUMNS)},
    ).all()
    filtered = [f'"{row.table_name}"' for row in access if row.is_filtered]
    if filtered:
        raise UnfitDatabaseError(
            f"row level security filters {', '.join(filtered)} for role {access[0].role}, so "
            "orders would be missing without an error; connect as a role with BYPASSRLS "
            f"(ALTER ROLE {access[0].role} BYPASSRLS)"
        )
    denied = [f'{row.denied} on "{row.table_name}"' for row in access if row.denied]
    if denied:
        raise UnfitDatabaseError(
            f"role {access[0].role} lacks {', '.join(denied)}; grant it, or connect as another role"
        )


def _require_migrated(connection: sa.Connection) -> None:
    """Refuses a database whose pipeline schema is missing or of another revision."""
    shut_out = connection.execute(statement(SQL, "database.sql", "shut_out")).scalar_one_or_none()
    if shut_out:
        raise UnfitDatabaseError(
            f"role {shut_out} lacks USAGE on the schema leora_pipeline; "
            "connect as the role that ran `leora migrate`"
        )
    installed = installed_schema(connection)
    require_released(installed)
    if installed.revision is None:
        raise UnfitDatabaseError(
            "the schema leora_pipeline is not installed in this database; run `leora migrate`"
        )
    if installed.revision != SCHEMA_REVISION:
        raise UnfitDatabaseError(
            f"the schema leora_pipeline is at revision {installed.revision}, and this version of "
            f"the pipeline needs {SCHEMA_REVISION}; run `leora migrate` with the newer of the two"
        )
    if installed.functions_digest != functions_digest():
        raise UnfitDatabaseError(
            "the functions of the schema leora_pipeline are those of another version of the "
            "pipeline; run `leora migrate` with the newer of the two"
        )


class InstalledSchema(NamedTuple):
    """What is installed of the schema ``leora_pipeline``.

    Attributes:
        revision: The revision of its tables, or None where there is no schema.
        functions_digest: The digest of its functions; None in a schema from before the first
            release, whatever its revision says.
    """

    revision: str | None
    functions_digest: str | None


def installed_schema(connection: sa.Connection) -> InstalledSchema:
    """Reads what is installed; the role needs no more than to read the schema."""
    has = connection.execute(statement(SQL, "database.sql", "installed_parts")).one()

    def read(name: str) -> str | None:
        value: str | None = connection.execute(
            statement(SQL, "database.sql", name)
        ).scalar_one_or_none()
        return value

    return InstalledSchema(
        read("revision") if has.revision else None,
        read("functions_digest") if has.functions_digest else None,
    )


def require_released(installed: InstalledSchema) -> None:
    """Refuses a schema from before the first release, which cannot be upgraded.

    Raises:
        UnfitDatabaseError: It is one; the text says how to replace it, and what that loses.
    """
    if installed.revision is not None and installed.functions_digest is None:
        raise UnfitDatabaseError(
            "the schema leora_pipeline was installed by a version from before the first release "
            f"(its revision {installed.revision}) and cannot be upgraded: `leora migrate --down` "
            "removes it, `leora migrate` installs this one; the types in the CRM stay, the log of "
            "transitions is lost, unless it is copied before (CREATE TABLE "
            "public.leora_transitions AS TABLE leora_pipeline.account_type_transition)"
        )


def schema_revision(connection: sa.Connection) -> str | None:
    """Returns the installed revision of the pipeline's schema, or None where there is none."""
    return installed_schema(connection).revision


@cache
def functions_digest() -> str:
    """Returns the digest of the SQL functions that this code is written for."""
    digest = sha256()
    for file in sorted(FUNCTIONS_FOLDER.glob("*.sql")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def missing_triggers(connection: sa.Connection) -> list[str]:
    """Returns which of the triggers on the CRM's tables are not there, or are switched off."""
    return list(connection.execute(statement(SQL, "database.sql", "missing_triggers")).scalars())
