"""Quarantine: keeps a customer that the CRM's database refuses to have written from the others."""

from __future__ import annotations

import logging
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.backoff import Backoff
from leora_pipeline.core.customers.refresh import ensure_customer_state
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import one_line

SQL = statements(__name__)

logger = logging.getLogger(__name__)


PAUSES = Backoff(first=10, longest=3600)
"""How long a customer is quarantined after failures."""


_ABOUT_NO_ROW = frozenset(
    ("08", "0A", "25", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "XX")
)
"""The classes of SQLSTATE about the connection, the schema, privileges, locks or the server. All
others are about what was to be written: data, constraints, whatever a trigger raises."""


def quarantine(
    engine: sa.Engine, tenant_id: UUID, customer_id: UUID, error: sa.exc.DBAPIError
) -> None:
    """Quarantines a customer, for longer after each failure; a listener retries it afterwards."""
    logger.error("Customer %s is quarantined: %s", customer_id, one_line(error))
    scope = {"tenant_id": tenant_id, "customer_id": customer_id}
    with transaction(engine) as connection:
        connection.execute(SQL.wait_briefly)
        ensure_customer_state(connection, tenant_id, [customer_id])  # Its state says that it is.
        failures = 1 + (connection.execute(SQL.failures, scope).scalar_one_or_none() or 0)
        connection.execute(
            SQL.quarantine,
            {
                **scope,
                "error": one_line(error),
                "failures": failures,
                "pause": PAUSES.after(failures),
            },
        )


def is_about_a_row(error: sa.exc.DBAPIError) -> bool:
    """Returns whether an error may be one customer's, and not that of all."""
    state = getattr(error.orig, "sqlstate", None)  # None where the connection was lost.
    return state is not None and state[:2] not in _ABOUT_NO_ROW
