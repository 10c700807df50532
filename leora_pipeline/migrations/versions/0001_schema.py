"""The pipeline's tables and the rule."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables and the functions."""
    op.execute(script("0001_up.sql"))
    op.execute(script("0001_functions.sql"))


def downgrade() -> None:
    """Drops all of it."""
    op.execute(script("0001_down.sql"))
