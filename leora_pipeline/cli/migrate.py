"""``leora migrate``: installs, removes or prints the pipeline's schema."""

from __future__ import annotations

import sys

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.output import echo
from leora_pipeline.core.crm.requirements import (
    SCHEMA_REVISION,
    open_doors,
    require_fit_database,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.urls import read_url
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.settings import Settings
from leora_pipeline.migrations import (
    install_schema,
    is_installed,
    print_roles,
    print_schema,
    remove_schema,
    superuser_that_owns,
)


@click.command("migrate")
@click.option("--down", is_flag=True, help="Remove the schema; what was written to the CRM stays.")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it.")
@click.option(
    "--roles",
    is_flag=True,
    help="With --sql: print what makes the roles that the pipeline is run with (with --down: "
    "drops them).",
)
@click.option(
    "--no-triggers",
    is_flag=True,
    help="Leave the CRM's tables without triggers: changes are then seen by full runs alone.",
)
@click.option(
    "--owner",
    metavar="ROLE",
    help="The role that the schema is to belong to, as which its functions run; by default the "
    "one that connects.",
)
def command(down: bool, as_sql: bool, roles: bool, no_triggers: bool, owner: str | None) -> None:
    """Install the schema leora_pipeline in the CRM's database, or bring it up to date."""
    if roles and not as_sql:
        raise WrongUsageError(
            "--roles only prints; run `leora migrate --sql --roles`, and have what it prints run "
            "by a role that may create roles"
        )
    if owner is not None and (down or as_sql):
        raise WrongUsageError("--owner is for the installation; leave out --down and --sql")
    url = Settings.from_environment().database_url
    if roles:
        crm_schema = (read_url(url).schema if url else None) or "public"
        print_roles(sys.stdout, down=down, crm_schema=crm_schema)
        return
    if as_sql:
        print_schema(sys.stdout, down=down, triggers=not no_triggers)
        return
    with crm_engine(fit=False) as engine:
        if down:
            remove_schema(engine)
            echo("Schema leora_pipeline: removed")
            return
        triggers = not no_triggers
        if not is_installed(engine, triggers=triggers, owner=owner):
            require_fit_database(engine, migrated=False)
            install_schema(engine, triggers=triggers, owner=owner)
        echo(f"Schema leora_pipeline: revision {SCHEMA_REVISION}")
        superuser = superuser_that_owns(engine)
        with transaction(engine) as connection:
            doors = open_doors(connection)
    if superuser is not None and url is not None:
        echo(
            f"The schema belongs to superuser {superuser}, as which its functions run: hand it to "
            "a role that can do less (`leora migrate --sql --roles` prints what makes leora_owner, "
            "then `leora migrate --owner leora_owner`)",
            err=True,
        )
    for door in doors:
        echo(f"Open door: {door}", err=True)
