"""Fixtures of the forced interleavings."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.interleaving import DEADLINE


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever(engine: sa.Engine, build: CrmBuilder) -> None:
    """Ends what waits beyond the deadline."""
    database = build.run("SELECT current_database() AS name")[0].name
    build.run(f"ALTER DATABASE {database} SET statement_timeout = '{DEADLINE:.0f}s'")
    engine.dispose()
