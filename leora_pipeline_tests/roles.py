"""Roles of the database: made for a test, and gone after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import sqlalchemy as sa

from leora_pipeline.core.database.engine import create_engine
from leora_pipeline_tests.crm_builder import CrmBuilder

PIPELINE_GRANTS = (
    "USAGE ON SCHEMA leora_pipeline",
    "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA leora_pipeline",
    'SELECT ON "Tenant", "Customer", "Order"',
    'UPDATE ("accountType", "lastOrderDate", "updatedAt") ON "Customer"',
)
"""What the pipeline needs once its schema is installed, and no more."""


@contextmanager
def made_role(build: CrmBuilder, attributes: str = "", grants: Sequence[str] = ()) -> Iterator[str]:
    """Makes a role that may log in and has the grants; yields its name."""
    name = f"leora_{uuid4().hex[:12]}"
    build.run(f"CREATE ROLE {name} LOGIN {attributes}")
    try:
        for grant in grants:
            build.run(f"GRANT {grant} TO {name}")
        yield name
    finally:
        build.run(f"DROP OWNED BY {name} CASCADE")
        build.run(f"DROP ROLE {name}")


@contextmanager
def connected_as(engine: sa.Engine, role: str) -> Iterator[sa.Engine]:
    """Connects to an engine's database as another role."""
    other = create_engine(
        engine.url.set(drivername="postgresql", username=role).render_as_string(hide_password=False)
    )
    try:
        yield other
    finally:
        other.dispose()
