"""Actionable customers: the one definition of "there is work", for every path that asks.

A customer is actionable when it is due by time, or unsynced. The statements are fragments that
others include: each is about the tenant of a row named ``t``. What does not belong here: pending
customers, which are read where they are claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)


def find_actionable_tenants(
    engine: sa.Engine,
    as_of: datetime | None,
    tenant_ids: Sequence[UUID] | None = None,
    *,
    or_pending: bool,
) -> list[UUID]:
    """Returns the tenants for which there is work.

    Args:
        engine: The CRM's database.
        as_of: The instant (aware) by which customers are due; None for the database's clock.
        tenant_ids: The tenants to consider; None for all.
        or_pending: Whether a tenant that only has pending customers counts too.
    """
    with transaction(engine) as connection:
        parameters = {
            "tenant_ids": None if tenant_ids is None else list(tenant_ids),
            "as_of": as_of or now(connection),
            "or_pending": or_pending,
        }
        return list(connection.execute(SQL.actionable_tenants, parameters).scalars())
