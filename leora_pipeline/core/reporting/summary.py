"""Summaries of whole tables, for people: a row a tenant.

They always cover all tenants, whatever a run covered, so that numbers plotted over time do not mix
full runs with partial ones.
"""

from __future__ import annotations

from typing import Any, Literal

import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)


Summary = Literal["states", "changes", "customers", "distributions", "digests", "published_days"]
"""The statement of that name in ``summary.sql`` says what it holds."""


def summarize(engine: sa.Engine, summary: Summary) -> list[dict[str, Any]]:
    """Returns the rows of one of the summaries."""
    with transaction(engine) as connection:
        return [dict(row) for row in connection.execute(SQL[summary]).mappings()]
