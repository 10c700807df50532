"""The win-back digest: the customers that became TARGET since the last one, a message a tenant.

Each transition is taken exactly once: it is marked in the transaction that puts the message into
the outbox, so that both are done or neither. No cursor over ids or times, behind
which a late commit could slip. What does not belong here: delivering it, which is `delivery`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from leora_pipeline.core.alerting.outbox import write_message
from leora_pipeline.core.crm.requirements import OPTIONAL_COLUMNS, readable_columns
from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.database.connection import lock, now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import TenantsFailedError, one_line
from leora_pipeline.core.text import visible

SQL = statements(__name__)

NAMED_OF_A_REP = 50
NAMED = 200
"""Customers that a message names of one sales rep, and in all; the rest is counted."""


def write_digests(engine: sa.Engine, tenants: Sequence[Tenant]) -> dict[str, int]:
    """Writes a digest for each tenant that has new customers to win back.

    Returns:
        How many customers each of the digests is about, by the tenant's slug.

    Raises:
        TenantsFailedError: Some tenants failed; the others' digests are written.
    """
    written: dict[str, int] = {}
    errors: dict[str, str] = {}
    for tenant in tenants:
        try:
            with transaction(engine) as connection:
                customers = _write_digest(connection, tenant)
        except sa.exc.SQLAlchemyError as error:
            errors[tenant.slug] = one_line(error)
        else:
            if customers:
                written[tenant.slug] = customers
    if errors:
        raise TenantsFailedError(errors)
    return written


def _write_digest(connection: sa.Connection, tenant: Tenant) -> int:
    """Takes a tenant's new transitions, and returns how many customers there are to win back."""
    lock(connection, "digest", tenant.tenant_id)
    instant = now(connection)
    named = connection.execute(
        SQL.with_columns("take_targets", readable_columns(connection, "Customer")),
        {
            "tenant_id": tenant.tenant_id,
            "now": instant,
            "named_of_a_rep": NAMED_OF_A_REP,
            "named": NAMED,
        },
    ).all()
    if not named:
        return 0
    customers: int = named[0].customers
    write_message(
        connection,
        "win_back",
        tenant_id=tenant.tenant_id,
        tenant_slug=tenant.slug,
        kind="win_back",
        severity="info",
        what=f"{_counted(customers)} to win back",
        body=digest_body(named, _sales_reps(connection, tenant), instant),
        instant=instant,
    )
    return customers


def _sales_reps(connection: sa.Connection, tenant: Tenant) -> dict[str, str]:
    """Returns the names of a tenant's sales reps by their ids; none where they cannot be read."""
    if any(
        readable_columns(connection, table) != set(OPTIONAL_COLUMNS[table])
        for table in ("SalesRep", "User")
    ):
        return {}
    rows = connection.execute(SQL.sales_reps, {"tenant_id": tenant.tenant_id})
    return {row.sales_rep_id: row.name for row in rows if row.name}


def digest_body(
    named: Sequence[sa.Row[Any]], sales_reps: Mapping[str, str], instant: datetime
) -> str:
    """Returns the text of a digest.

    Args:
        named: The customers it names, by sales rep, as `take_targets` returns them: ``of_rep`` is
            how many customers this rep has, ``customers`` how many there are in all.
        sales_reps: The names of sales reps by their ids; one without a name is shown by its id.
        instant: Now.
    """
    customers: int = named[0].customers
    lines = [f"{_counted(customers)} became TARGET since the last digest."]
    unsynced = customers
    for rep_id, group in groupby(named, key=lambda customer: customer.sales_rep_id):
        of_rep = list(group)
        sales_rep = visible(sales_reps.get(rep_id, rep_id)) if rep_id else None
        lines += ["", f"Sales rep {sales_rep}:" if sales_rep else "Without a sales rep:"]
        lines += [_customer_line(customer, instant) for customer in of_rep]
        if rest := of_rep[0].of_rep - len(of_rep):
            lines.append(f"- … and {rest} more")
        unsynced -= of_rep[0].of_rep
    if unsynced:
        lines += ["", f"And {_counted(unsynced)} of other sales reps; the CRM lists all as TARGET."]
    return "\n".join(lines)


def _counted(customers: int) -> str:
    return f"{customers} customer{'s' if customers > 1 else ''}"


def _customer_line(customer: sa.Row[Any], instant: datetime) -> str:
    where = f", {visible(customer.city)}" if customer.city else ""
    when = "no order"
    if customer.last_order_at:
        days = (instant - customer.last_order_at).days
        when = f"last order {customer.last_order_at:%Y-%m-%d}, {days} days ago"
    return f"- {visible(customer.name)}{where}: {when}"
