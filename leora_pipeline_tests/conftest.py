"""What all tests share: a real PostgreSQL, and a fresh database from a template for each test.

What belongs here: fixtures that more than one folder of tests uses. The builder of small CRMs is
in `crm_builder`, the Python oracle of the rule in `oracle`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline.core import settings
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.roles import connected_as, make_roles, take_back, url_as

SERVER_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "max_wal_size": "'128MB'",
}

MEMORY = Path("/dev/shm")
"""A file system in memory, where the machine has one: a fresh database is made there in a tenth of
the time."""

ENOUGH_BYTES = 4 * 2**30
"""What has to be free there for a server of each worker."""


def _folder_of_servers() -> Path | None:
    """Returns where the servers' data go; None for where temporary files go otherwise."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
        return MEMORY if shutil.disk_usage(MEMORY).free > ENOUGH_BYTES else None
    return None


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for the session.

    Not under pytest's folder: every pytest that starts closes that to other users, and to the one
    as whom the servers of other sessions run where root tests.
    """
    with (
        TemporaryDirectory(
            prefix="leora_tests_", dir=_folder_of_servers(), ignore_cleanup_errors=True
        ) as folder,
        embedded_postgres(Path(folder), SERVER_OPTIONS) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def templates(server: EmbeddedPostgres) -> dict[str, str]:
    """The names of databases to copy: the CRM alone, and with the pipeline's schema.

    The schema is installed as the documentation has it: by leora_owner, for leora_runtime.
    """
    for name, is_migrated in (("template_crm", False), ("template_pipeline", True)):
        admin = create_engine(server.url(name))
        with transaction(admin) as connection:
            create_tables(connection)
        make_roles(server.url(name))
        if is_migrated:
            with connected_as(admin, "leora_owner") as owner:
                install_schema(owner)
        take_back(admin)
        admin.dispose()
    return {"crm": "template_crm", "pipeline": "template_pipeline"}


def _fresh_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield server.url(name)
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def crm_url(server: EmbeddedPostgres, templates: dict[str, str]) -> Iterator[str]:
    """The URL of a CRM's database without rows and without the pipeline's schema."""
    yield from _fresh_database(server, templates["crm"])


@pytest.fixture
def pipeline_url(server: EmbeddedPostgres, templates: dict[str, str]) -> Iterator[str]:
    """The URL of a CRM's database without rows, the pipeline's schema installed."""
    yield from _fresh_database(server, templates["pipeline"])


@pytest.fixture
def crm(crm_url: str) -> Iterator[sa.Engine]:
    """A CRM's database without rows and without the pipeline's schema."""
    engine = create_engine(crm_url)
    yield engine
    engine.dispose()


@pytest.fixture
def runtime_url(pipeline_url: str) -> str:
    """The URL of `pipeline_url`'s database for the role that runs the pipeline."""
    return url_as(pipeline_url, "leora_runtime")


@pytest.fixture
def admin(pipeline_url: str) -> Iterator[sa.Engine]:
    """The database of `engine`, as a superuser: for the CRM's part, and an administrator's."""
    created = create_engine(pipeline_url)
    yield created
    created.dispose()


@pytest.fixture
def owner(admin: sa.Engine) -> Iterator[sa.Engine]:
    """The database of `engine`, as the owner of the pipeline's schema."""
    with connected_as(admin, "leora_owner") as connected:
        yield connected


@pytest.fixture
def engine(admin: sa.Engine) -> Iterator[sa.Engine]:
    """A CRM's database without rows, the schema installed, as the role that runs the pipeline."""
    with connected_as(admin, "leora_runtime") as connected:
        yield connected


@pytest.fixture
def build(admin: sa.Engine) -> CrmBuilder:
    """Builds a small CRM in the database of `engine`."""
    return CrmBuilder(admin)


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps the developer's own configuration out of the tests."""
    for name in [name for name in os.environ if name.startswith("LEORA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "ENV_FILE", tmp_path / ".env")
