"""Fixtures of the tests of the hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.hooks import DEADLINE
from leora_pipeline_tests.roles import made_role


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever(engine: sa.Engine, build: CrmBuilder) -> None:
    """Ends what waits for a lock beyond the deadline, by a limit that no transaction takes off."""
    database = build.run("SELECT current_database() AS name")[0].name
    build.run(f"ALTER DATABASE {database} SET lock_timeout = '{DEADLINE}s'")
    engine.dispose()
    build.engine.dispose()


@pytest.fixture
def reported(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Returns what the hook has logged as warnings and errors."""
    caplog.set_level(logging.WARNING, logger="leora_pipeline")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture
def role(build: CrmBuilder) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    with made_role(build) as name:
        yield name
