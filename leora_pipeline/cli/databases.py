"""The databases a command works on: the configured ones, or the embedded server's.

The embedded server belongs to the commands: each starts it or joins it, hands its URLs to what it
starts, and the last to leave stops it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.errors import LeoraError
from leora_pipeline.core.settings import PROJECT_ROOT, Settings

EMBEDDED_FOLDER = PROJECT_ROOT / ".leora"


@contextmanager
def crm_engine(*, fit: bool = True, writable: bool = True) -> Iterator[sa.Engine]:
    """Opens the CRM's database for the length of a command.

    Args:
        fit: Whether to refuse a database that the pipeline cannot work on.
        writable: Whether that includes one that takes no writes.
    """
    url = Settings.from_environment().database_url
    if url is not None:
        with _opened(url, fit=fit, writable=writable) as engine:
            yield engine
        return
    from leora_pipeline.embedded import CRM_DATABASE, embedded_postgres

    with (
        embedded_postgres(EMBEDDED_FOLDER) as server,
        _opened(server.url(CRM_DATABASE), fit=fit, writable=writable) as engine,
    ):
        yield engine


@contextmanager
def _opened(url: str, *, fit: bool, writable: bool = True) -> Iterator[sa.Engine]:
    engine = create_engine(url)
    try:
        if fit:
            require_fit_database(engine, writable=writable)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def dagster_environment(*, demo: bool) -> Iterator[str]:
    """Sets this process's environment for Dagster, embedded servers running where they are needed.

    Args:
        demo: Use the embedded CRM whatever is configured: sample data never goes anywhere else.

    Yields:
        The URL of the CRM's database, fit for a run. An embedded one without tables is given the
        sample CRM.
    """
    from leora_pipeline.embedded import CRM_DATABASE, DAGSTER_DATABASE, embedded_postgres

    settings = Settings.from_environment()
    crm_url = None if demo else settings.database_url
    if crm_url is not None:
        with _opened(crm_url, fit=True):
            pass
    with embedded_postgres(EMBEDDED_FOLDER) as server:
        if crm_url is None:
            crm_url = server.url(CRM_DATABASE)
            with _opened(crm_url, fit=False) as engine:
                _ensure_sample(engine)
        os.environ["LEORA_DATABASE_URL"] = crm_url
        os.environ["LEORA_DAGSTER_DATABASE_URL"] = (
            None if demo else settings.dagster_database_url
        ) or server.url(DAGSTER_DATABASE)
        os.environ["DAGSTER_HOME"] = str(_dagster_home())
        yield crm_url


def _dagster_home() -> Path:
    """Returns the folder of dagster.yaml, which is the project's root."""
    if not (PROJECT_ROOT / "dagster.yaml").exists():
        raise LeoraError(
            f"there is no dagster.yaml in {PROJECT_ROOT}; run this from a checkout of the project"
        )
    return PROJECT_ROOT


def _ensure_sample(engine: sa.Engine) -> None:
    """Gives an embedded database without the CRM's tables the sample CRM, and the schema."""
    from leora_pipeline.migrations import install_schema
    from leora_pipeline.sample import DEMO_TENANTS, create_tables, load, tables_exist

    with transaction(engine) as connection:
        if not tables_exist(connection):
            create_tables(connection)
            load(connection, DEMO_TENANTS, anchor=datetime.now(UTC))
    install_schema(engine)
