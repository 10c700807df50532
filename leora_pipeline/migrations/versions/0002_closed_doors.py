"""Marks and locks that no writer of the CRM can make or take."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import revision_sql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the three tables."""
    op.execute(revision_sql("0002_closed_doors.sql"))
