"""``leora migrate``: installs, removes or prints the pipeline's schema."""

from __future__ import annotations

import sys

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.core.crm.requirements import SCHEMA_REVISION, require_fit_database
from leora_pipeline.migrations import install_schema, is_installed, print_schema, remove_schema


@click.command("migrate")
@click.option("--down", is_flag=True, help="Remove the schema; what was written to the CRM stays.")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it.")
@click.option(
    "--no-triggers",
    is_flag=True,
    help="Leave the CRM's tables without triggers: changes are then seen by full runs alone.",
)
def command(down: bool, as_sql: bool, no_triggers: bool) -> None:
    """Install the schema leora_pipeline in the CRM's database, or bring it up to date."""
    if as_sql:
        print_schema(sys.stdout, down=down, triggers=not no_triggers)
        return
    with crm_engine(fit=False) as engine:
        if down:
            remove_schema(engine)
            click.echo("Schema leora_pipeline: removed")
        else:
            triggers = not no_triggers
            if not is_installed(engine, triggers=triggers):
                require_fit_database(engine, migrated=False)
                install_schema(engine, triggers=triggers)
            click.echo(f"Schema leora_pipeline: revision {SCHEMA_REVISION}")
