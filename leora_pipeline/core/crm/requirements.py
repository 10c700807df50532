"""What a database must be to be trusted: the CRM's tables, the role, the pipeline's schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


SCHEMA_REVISION = "0002"
"""The revision of the tables of the schema ``leora_pipeline`` that this code is written for."""


FUNCTIONS_FOLDER = Path(__file__).parents[2] / "migrations" / "functions"
"""Where the SQL functions of that schema stand."""


CRM_COLUMNS = {
    "Tenant": ("id", "slug", "name", "timezone", "createdAt"),
    "Customer": ("id", "tenantId", "name", "lastOrderDate", "accountType", "updatedAt"),
    "Order": ("id", "tenantId", "customerId", "status", "orderedAt"),
}
"""The CRM's tables and those of their columns that the pipeline reads or writes."""


OPTIONAL_COLUMNS = {
    "Customer": ("city", "salesRepId", "isPermanentlyClosed"),
    "Order": ("orderNumber", "total"),
    "SalesRep": ("id", "tenantId", "userId"),
    "User": ("id", "fullName"),
}
"""What makes messages easier to read, where the CRM has it and the role may read it."""


HOOK_TABLES = ("Customer", "Order")
"""The CRM's tables that the functions read which its own sessions run, as the schema's owner."""


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
        require_own_names(connection)
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
        if migrated:
            _require_access(connection, None, CRM_COLUMNS)
            _require_migrated(connection)
        else:
            require_hook_access(connection)


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


def require_hook_access(connection: sa.Connection, role: str | None = None) -> None:
    """Refuses an owner of the schema whose functions could not read or write the CRM.

    Args:
        connection: Within a transaction.
        role: The role that is to own the schema; by default the connecting one.

    Raises:
        UnfitDatabaseError: Row level security filters a table for it, or it lacks a privilege.
    """
    _require_access(connection, role, {table: CRM_COLUMNS[table] for table in HOOK_TABLES})


def _require_access(
    connection: sa.Connection, role: str | None, columns: Mapping[str, Sequence[str]]
) -> None:
    """Refuses a role that row level security filters, or that may not read or write columns."""
    access = connection.execute(
        SQL.access,
        {
            "role": role,
            "tables": [table for table, names in columns.items() for _ in names],
            "columns": [name for names in columns.values() for name in names],
            "written": list(WRITTEN_COLUMNS),
        },
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
            f"role {access[0].role} lacks {', '.join(denied)}; grant it (`leora migrate --sql "
            "--roles` prints what makes roles with all that it takes), or connect as another role"
        )


def require_own_names(connection: sa.Connection) -> None:
    """Refuses a role for which another may have put operators or tables in place.

    The names that a statement uses are looked up in the schemas of the search path, where what fits
    better than PostgreSQL's own operators and functions takes their place, and runs as this role.
    Nothing else may be run before this.

    Raises:
        UnfitDatabaseError: A role that this one must not trust owns the schema of its name; or
            this is a superuser, and such a role may create in a schema of its search path.
    """
    schemas = connection.execute(SQL.searched_schemas).scalars().all()
    search_path = connection.execute(SQL.search_path).scalar_one()
    connection.execute(SQL.search_postgres_alone)
    strangers = connection.execute(SQL.strange_names, {"schemas": schemas}).scalars().all()
    connection.exec_driver_sql(
        f"SET LOCAL search_path = {search_path}", execution_options={"no_parameters": True}
    )
    if strangers:
        raise UnfitDatabaseError(
            "what this role runs could be replaced by another role's: "
            f"{'; '.join(strangers)}; see to that, or connect as a role that can do less "
            "(leora_owner for `leora migrate`, leora_runtime for all else)"
        )


def strange_owners(connection: sa.Connection) -> list[str]:
    """Returns what makes the schema one that this role must not trust; nothing where it may.

    The owner is this role or one that it belongs to, ``leora_owner``, or one that the CRM trusts
    anyway: a superuser, the database's owner, or that of the CRM's tables. A superuser, who counts
    as a member of every role, trusts the last four alone.
    """
    return list(connection.execute(SQL.strange_owners).scalars())


def require_own_schema(connection: sa.Connection) -> None:
    """Refuses a schema that another role owns, or part of it: its functions could act as this role.

    Nothing in the schema may be called before this.

    Raises:
        UnfitDatabaseError: It is.
    """
    strangers = strange_owners(connection)
    if strangers:
        named = ", ".join(strangers[:5]) + (" and more" if strangers[5:] else "")
        raise UnfitDatabaseError(
            f"the schema leora_pipeline cannot be trusted: {named}; have a superuser "
            "drop what is not the pipeline's, or connect as the role that installed it"
        )


def _require_migrated(connection: sa.Connection) -> None:
    """Refuses a database whose pipeline schema is missing or of another revision."""
    shut_out = connection.execute(SQL.shut_out).scalar_one_or_none()
    if shut_out:
        raise UnfitDatabaseError(
            f"role {shut_out} may not use the schema leora_pipeline; connect as leora_runtime "
            "(`leora migrate --sql --roles` prints what makes it), or as the role that ran "
            "`leora migrate`"
        )
    require_own_schema(connection)
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


def open_doors(connection: sa.Connection) -> list[str]:
    """Returns the privileges that are granted and not needed, each with what revokes it."""
    return list(connection.execute(SQL.open_doors).scalars())


def readable_columns(connection: sa.Connection, table: str) -> set[str]:
    """Returns which of a CRM table's optional columns are there and may be read."""
    rows = connection.execute(
        SQL.readable_columns, {"table": table, "columns": list(OPTIONAL_COLUMNS[table])}
    )
    return set(rows.scalars())
