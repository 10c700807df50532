"""Alembic's entry: runs the revisions on the connection handed over, or prints them."""

from __future__ import annotations

from alembic import context

from leora_pipeline.migrations import (
    GRANTS,
    GRANTS_SQL,
    SCHEMA,
    VERSION_TABLE,
    names_requirement,
)
from leora_pipeline.migrations.functions import definitions

connection = context.config.attributes["connection"]
if connection is not None:
    context.configure(
        connection=connection, version_table=VERSION_TABLE, version_table_schema=SCHEMA
    )
    context.run_migrations()
else:
    context.configure(
        dialect_name="postgresql", version_table=VERSION_TABLE, version_table_schema=SCHEMA
    )
    print_ = context.get_context().impl.static_output
    print_("BEGIN;")
    print_(f"{names_requirement()};")
    # One that is there may belong to a role that could replace what the functions call.
    print_(f"CREATE SCHEMA {SCHEMA};")
    context.run_migrations()
    for text in definitions():
        print_(text)
    for name in GRANTS:
        print_(f"{GRANTS_SQL.text(name)};")
    print_("COMMIT;")
