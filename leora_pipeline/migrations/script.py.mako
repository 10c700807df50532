"""${message}."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import revision_sql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Brings the tables from the revision before to this one."""
    op.execute(revision_sql("${up_revision}.sql"))
