"""Fixtures of the tests of policies."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.policies import DAYS, DEFAULT, types
from leora_pipeline_tests.scenes import (
    full,
)


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever(engine: sa.Engine, build: CrmBuilder) -> None:
    """Ends what waits: nothing here has to, for longer than a moment."""
    build.run(f"ALTER DATABASE {engine.url.database} SET statement_timeout = '20s'")
    engine.dispose()


@pytest.fixture
def tenant(build: CrmBuilder) -> UUID:
    return build.tenant()


@pytest.fixture
def customers(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> list[UUID]:
    """Five customers of the default's types, after a full run."""
    made = [build.customer(tenant, orders=(ago(days=days),)) for days in DAYS]
    full(engine)
    assert types(build, made) == DEFAULT
    return made
