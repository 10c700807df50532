"""Fixtures that tests of several rooms use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.sample.crm import load
from leora_pipeline.sample.tenants import scaled_tenants
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.roles import connected_as, grant_runtime, made_role
from leora_pipeline_tests.scenes import (
    full,
)


@pytest.fixture
def tenant(build: CrmBuilder) -> UUID:
    """A tenant of the CRM, ``cellar``."""
    return build.tenant()


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Runs what has to happen at the same time."""
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def connect_as(engine: sa.Engine, build: CrmBuilder) -> Iterator[Callable[..., sa.Engine]]:
    """Makes a role with every privilege that the pipeline needs and no more, and connects as it."""
    with ExitStack() as stack:

        def connect(attributes: str = "") -> sa.Engine:
            role = stack.enter_context(made_role(build, attributes))
            grant_runtime(build, role)
            return stack.enter_context(connected_as(engine, role))

        yield connect


@pytest.fixture
def bypass_row_level_security(build: CrmBuilder) -> Iterator[Callable[[str], None]]:
    """Exempts one of the pipeline's roles, which all databases of the server share, for a test."""
    exempt: list[str] = []

    def bypass(role: str) -> None:
        exempt.append(role)
        build.run(f"ALTER ROLE {role} BYPASSRLS")

    yield bypass
    for role in exempt:
        build.run(f"ALTER ROLE {role} NOBYPASSRLS")


@pytest.fixture
def large(engine: sa.Engine, admin: sa.Engine) -> sa.Engine:
    """A CRM of some size, after a full run."""
    with transaction(admin) as connection:
        load(connection, scaled_tenants(4, 20_000), anchor=ago(hours=1), orders_per_customer=2)
    full(engine)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
    return engine
