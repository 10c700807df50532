"""Creates the sample CRM's tables and fills them.

What belongs here: the order of the steps. What does not: the tables' shape, which stands in
``tables.sql``, and how customers and orders come about, which stands in ``load.sql``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from leora_pipeline.core.database.statements import statements
from leora_pipeline.sample.tenants import SampleTenant

_LOAD = statements("leora_pipeline.sample.load")
_TABLES_SQL = statements("leora_pipeline.sample.tables")
_TABLES = ("Tenant", "Customer", "Order")


def create_tables(connection: sa.Connection) -> None:
    """Creates the CRM's enums, tables, keys and indexes."""
    _define(connection, "create_tables")
    _define(connection, "create_keys")


def tables_exist(connection: sa.Connection) -> bool:
    """Tells whether the database has the CRM's tables."""
    inspector = sa.inspect(connection)
    return all(inspector.has_table(table) for table in _TABLES)


def load(
    connection: sa.Connection,
    tenants: Sequence[SampleTenant],
    *,
    seed: int = 1,
    anchor: datetime,
    orders_per_customer: int = 9,
) -> None:
    """Adds tenants with their customers and orders to the CRM.

    The same arguments give the same rows, identities and times included. The tables are without
    some of their keys and locked against everyone until the transaction ends, which is left to the
    caller.

    Args:
        connection: A connection to the CRM's database, in a transaction.
        tenants: The tenants, none of which the CRM has yet.
        seed: What the dice are thrown from.
        anchor: The instant that the dates are laid around: each tenant's counts are those that the
            rule gives from then until two days later.
        orders_per_customer: How many orders a customer has on average that ever ordered.

    Raises:
        ValueError: The anchor has no time zone.
    """
    if anchor.tzinfo is None:
        raise ValueError("the anchor of the sample needs a time zone")
    # The CRM's columns hold milliseconds of UTC without saying so.
    utc = anchor.astimezone(UTC).replace(tzinfo=None)
    moment = {"anchor": utc.replace(microsecond=utc.microsecond // 1000 * 1000)}
    slugs = {"seed": seed, "slugs": [tenant.slug for tenant in tenants]}

    _run(connection, "allow_memory")
    _define(connection, "drop_keys")
    _run(
        connection,
        "insert_tenants",
        slugs
        | moment
        | {
            "names": [tenant.name for tenant in tenants],
            "timezones": [tenant.timezone for tenant in tenants],
        },
    )
    _run(connection, "create_plan")
    _run(
        connection,
        "plan_customers",
        slugs
        | {
            "active": [tenant.active for tenant in tenants],
            "target": [tenant.target for tenant in tenants],
            "prospect": [tenant.prospect for tenant in tenants],
            "hold": [tenant.hold for tenant in tenants],
            "orders_per_customer": orders_per_customer,
        },
    )
    _run(connection, "insert_orders", moment)
    # Orders come first: the customers' types and dates are those that a script once made of them.
    _run(connection, "insert_customers", moment)
    _run(connection, "insert_sales_reps", {"slugs": slugs["slugs"]})
    _run(connection, "drop_plan")
    _define(connection, "create_keys")
    _run(connection, "analyze_tables")


def _run(connection: sa.Connection, name: str, values: Mapping[str, object] | None = None) -> None:
    """Runs a statement of the load."""
    connection.execute(_LOAD[name], values)


def _define(connection: sa.Connection, name: str) -> None:
    """Runs a group of definitions."""
    connection.exec_driver_sql(_TABLES_SQL.text(name))
