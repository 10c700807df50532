"""${message}."""

from __future__ import annotations

from alembic import op

from leora_pipeline.migrations import script

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Installs this revision."""


def downgrade() -> None:
    """Removes this revision."""
