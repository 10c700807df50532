"""Alerts: incidents, the messages about them, and where tenants want theirs."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables, and the mark of the transitions that a digest has taken."""
    op.execute(script("0004_up.sql"))


def downgrade() -> None:
    """Drops them."""
    op.execute(script("0004_down.sql"))
