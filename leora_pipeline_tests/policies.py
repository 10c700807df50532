"""Changes of policies, and what tests read after them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.crm.tenants import Tenant, find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.policies.change import PolicyChange, change_policy
from leora_pipeline.core.policies.fields import Value
from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.scenes import (
    assert_settled,
    incremental,
    waiting,
)

DAYS = (10, 45, 100, 200, 380)


DEFAULT = ["ACTIVE", "ACTIVE", "ACTIVE", "TARGET", "PROSPECT"]


def types(build: CrmBuilder, customers: list[UUID]) -> list[str | None]:
    return [build.type_of(customer) for customer in customers]


def named(engine: sa.Engine, slug: str = "cellar") -> Tenant:
    with transaction(engine) as connection:
        return find_tenants(connection, [slug])[0]


def change(engine: sa.Engine, slug: str = "cellar", **values: Value | None) -> PolicyChange:
    """Changes a policy as the command does."""
    return change_policy(engine, named(engine, slug), values, changed_by="ann@desk")


def moves(done: PolicyChange) -> dict[tuple[str | None, str], int]:
    return {(move.from_type, move.to_type): move.count for move in done.moves}


def reclassifications(build: CrmBuilder) -> int:
    """Counts what is kept of changed policies."""
    [row] = build.run(
        "SELECT (SELECT count(*) FROM leora_pipeline.policy_reclassification) + (SELECT count(*) "
        "FROM leora_pipeline.customer_state WHERE reclassified_by_policy) AS n"
    )
    kept: int = row.n
    return kept


def catch_up(engine: sa.Engine, build: CrmBuilder) -> None:
    """Takes one incremental run, and asserts that it was enough, and that nothing stays behind."""
    assert waiting(engine) != []
    incremental(engine)
    assert reclassifications(build) == 0
    assert_settled(engine, build)


def causes(build: CrmBuilder, customers: list[UUID]) -> list[str]:
    return [build.log(customer)[-1][2] for customer in customers]


def policy_tables(build: CrmBuilder) -> list[list[Any]]:
    return [
        build.run(f"SELECT * FROM leora_pipeline.{table}")
        for table in (
            "tenant_policy",
            "policy_change",
            "policy_reclassification",
            "pending_customer",
        )
    ]
