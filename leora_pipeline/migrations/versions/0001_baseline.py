"""The baseline: all tables of the first release."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import revision_sql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables, their indexes and the view."""
    op.execute(revision_sql("0001_baseline.sql"))
