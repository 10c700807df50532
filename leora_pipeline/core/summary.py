"""Summaries of whole tables, for people: small frames, a row a tenant.

They always cover all tenants, whatever a run covered, so that numbers plotted over time do not mix
full runs with partial ones.
"""

from __future__ import annotations

import pandas as pd
import sqlalchemy as sa

from leora_pipeline.core.database import SQL, transaction
from leora_pipeline.core.statements import statement


def summarize(engine: sa.Engine, name: str) -> pd.DataFrame:
    """Returns one of the summaries.

    Args:
        engine: The CRM's database.
        name: ``states``, ``changes``, ``customers``, ``distributions`` or ``digests``: the
            statement of that name in ``summary.sql`` says what it holds.
    """
    with transaction(engine) as connection:
        result = connection.execute(statement(SQL, "summary.sql", name))
        return pd.DataFrame(result.all(), columns=list(result.keys()))
