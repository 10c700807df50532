"""Change capture: the pending customers, and the functions that the triggers call."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table and the functions."""
    op.execute(script("0002_up.sql"))


def downgrade() -> None:
    """Drops them."""
    op.execute(script("0002_down.sql"))
