"""What a database must be to be trusted: the CRM's tables, the role, the pipeline's schema."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import UnfitDatabaseError

SQL = statements(__name__)


OLDEST_POSTGRES = 15


SCHEMA_REVISION = "0001"
"""The revision of the tables of the schema ``leora_pipeline`` that this code is written for."""


FUNCTIONS_FOLDER = Path(__file__).parents[2] / "migrations" / "functions"
"""Where the SQL functions of that schema stand."""


CRM_COLUMNS = {
    "Tenant": ("id", "slug", "name", "timezone", "createdAt"),
    "Customer": ("id", "tenantId", "name", "lastOrderDate", "accountType", "updatedAt"),
    "Order": ("id", "tenantId", "customerId", "status", "orderedAt"),
}
"""The CRM's tables and those of their columns that the pipeline reads or writes."""


WRITTEN_COLUMNS = ("accountType", "lastOrderDate", "updatedAt")
"""The only columns of ``"Customer"`` that the pipeline ever writes."""


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
    for table, column in connection.execute(SQL.crm_columns):
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
        SQL.access,
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
    shut_out = connection.execute(SQL.shut_out).scalar_one_or_none()
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
    if installed.functions_fingerprint != functions_fingerprint():
        raise UnfitDatabaseError(
            "the functions of the schema leora_pipeline are those of another version of the "
            "pipeline; run `leora migrate` with the newer of the two"
        )


class InstalledSchema(NamedTuple):
    """What is installed of the schema ``leora_pipeline``.

    Attributes:
        revision: The revision of its tables, or None where there is no schema.
        functions_fingerprint: The digest of its functions; None in a schema from before the first
            release, whatever its revision says.
    """

    revision: str | None
    functions_fingerprint: str | None


def installed_schema(connection: sa.Connection) -> InstalledSchema:
    """Reads what is installed; the role needs no more than to read the schema."""
    has = connection.execute(SQL.installed_parts).one()

    def read(name: str) -> str | None:
        value: str | None = connection.execute(SQL[name]).scalar_one_or_none()
        return value

    return InstalledSchema(
        read("revision") if has.revision else None,
        read("functions_fingerprint") if has.functions_fingerprint else None,
    )


def require_released(installed: InstalledSchema) -> None:
    """Refuses a schema from before the first release, which cannot be upgraded.

    Raises:
        UnfitDatabaseError: It is one; the text says how to replace it, and what that loses.
    """
    if installed.revision is not None and installed.functions_fingerprint is None:
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
def functions_fingerprint() -> str:
    """Returns the digest of the SQL functions that this code is written for."""
    digest = sha256()
    for file in sorted(FUNCTIONS_FOLDER.glob("*.sql")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def missing_triggers(connection: sa.Connection) -> list[str]:
    """Returns which of the triggers on the CRM's tables are not there, or are switched off."""
    return list(connection.execute(SQL.missing_triggers).scalars())
