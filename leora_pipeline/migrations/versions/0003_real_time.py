"""Real time: customers set aside, listeners, and the steps that the hook shares."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table and the functions."""
    op.execute(script("0003_up.sql"))


def downgrade() -> None:
    """Drops them."""
    op.execute(script("0003_down.sql"))
