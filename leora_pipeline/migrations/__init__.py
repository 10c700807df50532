"""The pipeline's own schema, ``leora_pipeline``: installing, removing and printing it.

The tables are versioned by Alembic: each revision under ``versions`` runs the SQL file of its name,
and a revision that has been released is never edited again. The functions stand once, under
``functions``, and are put in place after the tables; who may use what is granted last
(``grants.sql``, to the roles of ``roles.sql``). Of the CRM's tables only the triggers of
``triggers.sql`` are set. What does not belong here: asking whether the schema fits, which
`leora_pipeline.core.crm.requirements` does for every command.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import psycopg
import sqlalchemy as sa

from leora_pipeline.core.crm.requirements import (
    CRM_COLUMNS,
    OPTIONAL_COLUMNS,
    SCHEMA_REVISION,
    WRITTEN_COLUMNS,
    InstalledSchema,
    functions_fingerprint,
    installed_schema,
    missing_triggers,
    require_hook_access,
    require_own_names,
    require_own_schema,
    require_released,
    strange_owners,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import LeoraError, UnfitDatabaseError
from leora_pipeline.migrations.functions import definitions

if TYPE_CHECKING:
    from alembic.config import Config

HERE = Path(__file__).parent
SCHEMA = "leora_pipeline"
VERSION_TABLE = "alembic_version"
SQL = statements("leora_pipeline.migrations.schema")
REQUIREMENTS_SQL = statements("leora_pipeline.core.crm.requirements")
TRIGGERS_SQL = statements("leora_pipeline.migrations.triggers")
GRANTS_SQL = statements("leora_pipeline.migrations.grants")
ROLES_SQL = statements("leora_pipeline.migrations.roles")
GRANTS = ("close", "runtime", "hook", "reader")
"""The statements of ``grants.sql`` that say who may use what, in order."""
TRIGGERS = {
    "Order.leora_pipeline_insert": "order_insert",
    "Order.leora_pipeline_update": "order_update",
    "Order.leora_pipeline_delete": "order_delete",
    "Customer.leora_pipeline_insert": "customer_insert",
    "Customer.leora_pipeline_update": "customer_update",
}
"""The triggers on the CRM's tables, each with the statement that sets it."""

LOCK_TIMEOUT_MS = 500
LOCK_ATTEMPTS = 10

UNRELEASED_TABLES = ("policy_shift", "set_aside_customer")
"""Tables that only schemas from before the first release have."""


def is_installed(engine: sa.Engine, *, triggers: bool = True, owner: str | None = None) -> bool:
    """Returns whether `install_schema` would find nothing to do; only reads.

    Raises:
        UnfitDatabaseError: The schema is one from before the first release, or another role's.
    """
    with transaction(engine) as connection:
        return (
            _is_current(connection)
            and not (triggers and missing_triggers(connection))
            and not (owner and not _is_owner(connection, owner))
        )


def _is_current(connection: sa.Connection) -> bool:
    """Returns whether tables, functions and grants are those of this version."""
    require_own_names(connection)
    require_own_schema(connection)
    installed = installed_schema(connection)
    require_released(installed)
    return (
        installed == (SCHEMA_REVISION, functions_fingerprint())
        and not connection.execute(GRANTS_SQL.is_missing).scalar_one()
        and not connection.execute(SQL.points_elsewhere).scalar_one()
    )


def _is_owner(connection: sa.Connection, role: str) -> bool:
    is_owner: bool | None = connection.execute(
        GRANTS_SQL.has_owner, {"role": role}
    ).scalar_one_or_none()
    return bool(is_owner)


def install_schema(engine: sa.Engine, *, triggers: bool = True, owner: str | None = None) -> None:
    """Brings the schema to this version; does nothing where it is there already.

    Tables and functions are installed in one transaction, and by one process at a time. The
    triggers on the CRM's tables follow in transactions of their own, each of which waits for its
    lock only briefly, so that no session that uses the table waits long behind it.

    Args:
        engine: The CRM's database.
        triggers: Whether changes of the CRM are captured.
        owner: The role that the schema is to belong to; by default the connecting one. Only a
            member of that role, or a superuser, can hand it over.

    Raises:
        UnfitDatabaseError: The schema is one of a newer version, from before the first release, or
            another role's; or the owner is no such role, or lacks what it takes.
        LeoraError: A table of the CRM stayed locked.
    """
    if owner is not None:
        _require_owner(engine, owner)
    if is_installed(engine, triggers=triggers, owner=owner):
        return
    with transaction(engine) as connection:
        connection.execute(SQL.lock_migration)
        if not _is_current(connection):  # Another process may just have done it.
            _require_nobody_left_out(connection)
            # Otherwise a role that may no longer create one could not even find that it is there.
            if not sa.inspect(connection).has_schema(SCHEMA):
                connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
            # So that all of it belongs to one role, whoever of its members runs this.
            owned = connection.execute(SQL.become_owner).one()
            if not owned.is_member:
                raise UnfitDatabaseError(
                    f"the schema {SCHEMA} belongs to role {owned.role}; run `leora migrate` as it"
                )
            _run_text(connection, owned.set_role)
            _upgrade_tables(connection)
            _replace_functions(connection)
            for name in GRANTS:
                _run_text(connection, GRANTS_SQL.text(name))
            _run_text(connection, "RESET ROLE")
        if owner is not None and not _is_owner(connection, owner):
            statements_ = connection.execute(GRANTS_SQL.hand_over, {"role": owner}).scalars().all()
            for statement in statements_:
                _run_text(connection, statement)
    if triggers:
        with transaction(engine) as connection:
            missing = missing_triggers(connection)
        for trigger, name in TRIGGERS.items():
            if trigger in missing:
                setting = TRIGGERS_SQL[name]
                _with_brief_locks(engine, partial(sa.Connection.execute, statement=setting))


def _run_text(connection: sa.Connection, text: str) -> None:
    """Runs SQL that has no parameters, whatever signs are in it."""
    connection.exec_driver_sql(text, execution_options={"no_parameters": True})


def _require_owner(engine: sa.Engine, owner: str) -> None:
    """Refuses an owner that is none, or could not do what the functions of an owner have to."""
    with transaction(engine) as connection:
        require_own_names(connection)
        if not connection.execute(GRANTS_SQL.role_exists, {"role": owner}).scalar_one():
            raise UnfitDatabaseError(
                f"there is no role {owner}; `leora migrate --sql --roles` prints what makes "
                "leora_owner and the other roles"
            )
        require_hook_access(connection, owner)


def _require_nobody_left_out(connection: sa.Connection) -> None:
    """Refuses an upgrade that would take the hook from those who call it.

    Up to revision 0001 every role that could use the schema could call it.

    Raises:
        UnfitDatabaseError: There are such roles.
    """
    if installed_schema(connection).revision != "0001":
        return
    roles = connection.execute(GRANTS_SQL.left_out).scalars().all()
    if roles:
        raise UnfitDatabaseError(
            f"{', '.join(roles)} may use the schema {SCHEMA} so far, and could call the hook no "
            "more: make the roles that `leora migrate --sql --roles` prints, and GRANT leora_hook "
            f"(or leora_reader) TO {', '.join(roles)}; or REVOKE USAGE ON SCHEMA {SCHEMA} FROM "
            f"{', '.join(roles)}; then run this again"
        )


def _upgrade_tables(connection: sa.Connection) -> None:
    from alembic import command

    with _known_revision():
        command.upgrade(_config(connection=connection), "head")


def _replace_functions(connection: sa.Connection) -> None:
    """Puts all functions in the place of those of another version.

    Internal ones are dropped first, since another version's may have other parameters or be no
    more. Those that triggers use, or that others may execute, stay and get a new text.
    """
    internal = connection.execute(SQL.internal_functions)
    for function in internal.scalars().all():
        connection.exec_driver_sql(f"DROP FUNCTION {function}")
    for text in definitions():
        _run_text(connection, text)


def superuser_that_owns(engine: sa.Engine) -> str | None:
    """Returns the schema's owner where that is a superuser, else None."""
    with transaction(engine) as connection:
        owner: str | None = connection.execute(GRANTS_SQL.superuser_that_owns).scalar_one_or_none()
        return owner


def remove_schema(engine: sa.Engine) -> None:
    """Removes the schema and its triggers; what was written to the CRM stays.

    It is one transaction, whichever version until this one installed the schema: all of it goes, or
    nothing.

    Raises:
        UnfitDatabaseError: The schema is one of a newer version, it or something in it is not the
            pipeline's or not this role's, or something outside depends on it.
        LeoraError: A table of the CRM stayed locked.
    """
    known = [
        *re.findall(
            rf"^CREATE (?:UNLOGGED )?(?:TABLE|VIEW) {SCHEMA}\.(\w+)", _revisions_sql(), re.MULTILINE
        ),
        *UNRELEASED_TABLES,
        VERSION_TABLE,
    ]

    def remove(connection: sa.Connection) -> None:
        require_own_names(connection)
        connection.execute(SQL.lock_migration)
        obstacles = connection.execute(SQL.obstacles, {"relations": known}).scalars().all()
        strangers = strange_owners(connection)
        if not strangers and not any(o.startswith("it belongs to role") for o in obstacles):
            _require_known(installed_schema(connection))
        if strangers or obstacles:
            raise UnfitDatabaseError(
                f"the schema {SCHEMA} cannot be removed, and nothing was changed: "
                f"{'; '.join(dict.fromkeys([*strangers, *obstacles]))}; see to that, and run this "
                "again"
            )
        connection.exec_driver_sql(_removal_sql())

    _with_brief_locks(engine, remove)


def print_schema(output: TextIO, *, down: bool = False, triggers: bool = True) -> None:
    """Writes the SQL that installs the schema, or removes it, without running it.

    It is one transaction, for those who review and run such things by hand, and, for the triggers
    that are set, a statement each beside it.
    """
    if down:
        output.write(
            "-- With the schema go its triggers on the CRM's tables.\n"
            f"BEGIN;\nSET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms';\n{_removal_sql()};\nCOMMIT;\n"
        )
        return
    from alembic import command

    command.upgrade(_config(output=output), "head", sql=True)
    for name in TRIGGERS.values() if triggers else ():
        output.write(f"\n{TRIGGERS_SQL.text(name)};\n")


def print_roles(output: TextIO, *, down: bool = False, crm_schema: str = "public") -> None:
    """Writes the SQL that makes the pipeline's roles, or drops them, without running it.

    Args:
        output: Where to.
        down: Whether to drop them.
        crm_schema: The schema of the CRM's tables.
    """

    def columns(names: tuple[str, ...]) -> str:
        return ", ".join(name if name.islower() else f'"{name}"' for name in names)

    optional = ",\n      ".join(
        f"('{table}', ARRAY[{', '.join(repr(name) for name in names)}]::text[])"
        for table, names in OPTIONAL_COLUMNS.items()
    )
    values = {
        "schema": crm_schema
        if crm_schema.islower()
        else '"{}"'.format(crm_schema.replace('"', '""')),
        "tenant": columns(CRM_COLUMNS["Tenant"]),
        "customer": columns(CRM_COLUMNS["Customer"]),
        "order": columns(CRM_COLUMNS["Order"]),
        "written": columns(WRITTEN_COLUMNS),
        "optional": optional,
    }
    script = ROLES_SQL.text("drop") if down else ROLES_SQL.text("create").format_map(values)
    output.write(f"{script}\n")


def names_requirement() -> str:
    """Returns the SQL that refuses what `require_own_names` does."""
    strange_names = REQUIREMENTS_SQL.text("strange_names")
    return SQL.text("require_own_names").format(
        strange_names=strange_names.replace("CAST(:schemas AS text[])", "v_schemas")
    )


def revision_sql(file: str) -> str:
    """Returns the SQL file that a revision runs."""
    return (HERE / "versions" / file).read_text(encoding="utf-8")


def _revisions_sql() -> str:
    return "\n".join(revision_sql(path.name) for path in (HERE / "versions").glob("*.sql"))


def _removal_sql() -> str:
    # The functions go with it, and with them the triggers, which only a table's owner could drop.
    return f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"


def _with_brief_locks(engine: sa.Engine, work: Callable[[sa.Connection], object]) -> None:
    """Does what takes locks on the CRM's tables in one transaction, with short waits and retries.

    The wait is shorter than PostgreSQL's deadlock_timeout: of two that wait for each other, this
    one gives way.
    """
    for attempt in range(LOCK_ATTEMPTS):
        try:
            with transaction(engine) as connection:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'")
                work(connection)
            return
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            time.sleep(min(0.1 * 2**attempt, 5))
    raise LeoraError(
        "a table of the CRM stayed locked by another session; run this again at a quieter time "
        "(or leave out the triggers: `leora migrate --no-triggers`)"
    )


def _require_known(installed: InstalledSchema) -> None:
    """Refuses a schema of a newer version: this one does not know what of it is the pipeline's."""
    from alembic.script import ScriptDirectory

    released = installed.functions_fingerprint is not None
    known = {one.revision for one in ScriptDirectory(str(HERE)).walk_revisions()}
    if released and installed.revision not in known:
        raise UnfitDatabaseError(
            "the schema leora_pipeline was installed by a newer version of the pipeline (its "
            f"revision {installed.revision}); run `leora migrate --down` of that version"
        )


@contextmanager
def _known_revision() -> Iterator[None]:
    """Explains Alembic's refusal of a revision that is none of this version's."""
    from alembic.util.exc import CommandError

    try:
        yield
    except CommandError as error:
        raise UnfitDatabaseError(
            "the schema leora_pipeline was installed by a newer version of the pipeline "
            f"({error}); run `leora migrate` of that version"
        ) from error


def _config(*, connection: sa.Connection | None = None, output: TextIO | None = None) -> Config:
    """Returns Alembic's configuration, which has no file of its own."""
    from alembic.config import Config

    config = Config(output_buffer=output) if output else Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["connection"] = connection
    return config
