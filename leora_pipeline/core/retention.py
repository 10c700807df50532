"""Retention: keeps the pipeline's own tables within a configured age.

What is needed to know where things stand stays, however old: the last full run of a tenant and its
last success, the latest verdict of a check, holds and incidents in force. What does not belong
here: Dagster's tables, which Dagster alone may touch.
"""

from __future__ import annotations

import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)

_HISTORY = ("transitions", "distributions", "holds", "policy_changes", "incidents")
"""What people look back at."""

_RECORDS = ("tenant_runs", "verdicts", "messages")
"""What only says how things went."""


def delete_older_than(engine: sa.Engine, *, history_days: int, record_days: int) -> dict[str, int]:
    """Deletes what is older than it is to be kept, each table in a transaction of its own.

    Args:
        engine: The CRM's database.
        history_days: For how many days the history of customers and tenants is kept: the
            transitions, distributions, holds and incidents that are over, changes of policies.
        record_days: For how many days it is kept how runs, checks and deliveries went.

    Returns:
        How many rows were deleted, by what they are.
    """
    deleted: dict[str, int] = {}
    for names, days in ((_HISTORY, history_days), (_RECORDS, record_days)):
        for name in names:
            with transaction(engine) as connection:
                deleted[name] = connection.execute(SQL[name], {"days": days}).rowcount
    with transaction(engine) as connection:
        deleted["tickets"] = connection.execute(SQL.tickets).rowcount
    return deleted
