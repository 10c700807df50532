"""Incremental runs, and what tests assert after them."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa

from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.scenes import (
    assert_settled,
    incremental,
    waiting,
)


def catch_up(engine: sa.Engine, build: CrmBuilder) -> None:
    """Runs for what changed, once, and asserts that this was enough."""
    assert waiting(engine) != []
    incremental(engine)
    assert_settled(engine, build)


def states(build: CrmBuilder, customer: UUID) -> list[UUID]:
    """Returns the tenants in which a customer has a state."""
    return [
        row.tenant_id
        for row in build.run(
            "SELECT tenant_id FROM leora_pipeline.customer_state WHERE customer_id = :id",
            id=customer,
        )
    ]
