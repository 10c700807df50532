"""The database goes away and comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.embedded import EmbeddedPostgres, embedded_postgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import assert_settled, at_rest, eventually, listening
from leora_pipeline_tests.scenes import (
    add_customers,
)


def test_connections_that_are_terminated_are_opened_anew(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, short_pauses: None
) -> None:
    customers = add_customers(build, tenant, 6, ordered=ago(days=400))
    with listening(engine):
        for customer in customers:
            eventually(lambda: at_rest(engine, build))
            build.order(tenant, customer, ago(days=1))
            build.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'listener' AND datname = current_database()"
            )

            eventually(lambda customer=customer: build.type_of(customer) == "ACTIVE")
        eventually(
            lambda: build.run("SELECT FROM leora_pipeline.listener"), "it says again that it runs"
        )
        assert_settled(engine, build)

    for customer in customers:
        assert [entry[:2] for entry in build.log(customer)] == [
            ("ACTIVE", "PROSPECT"),
            ("PROSPECT", "ACTIVE"),
        ]


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that a test may restart, and that keeps what was committed when it crashes."""
    with (
        TemporaryDirectory(prefix="leora_tests_", ignore_cleanup_errors=True) as folder,
        embedded_postgres(Path(folder), {"fsync": "off"}) as running,
    ):
        yield running


def restart(server: EmbeddedPostgres, mode: str) -> None:
    """Restarts a server as its keeper does: in order, or as if the power had failed."""
    data = server._server.pgdata
    server._run("pg_ctl", "-w", "-m", mode, "-D", str(data), "stop")
    server._start(data)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("is_notified", [False, True])
def test_a_restart_of_the_database_is_survived(
    own_server: EmbeddedPostgres,
    mode: str,
    is_notified: bool,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = create_engine(own_server.url(f"crm_{mode}_{is_notified}".lower()))
    build = CrmBuilder(engine)
    with transaction(engine) as connection:
        create_tables(connection)
    install_schema(engine)
    tenant = build.tenant()
    customer = build.customer(tenant, "TARGET", orders=(ago(days=200),))
    with caplog.at_level(logging.WARNING), listening(engine, is_notified=is_notified):
        eventually(lambda: at_rest(engine, build))
        restart(own_server, mode)
        engine.dispose()
        build.order(tenant, customer, ago(days=1))

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)

    assert build.log(customer) == [("TARGET", "ACTIVE", "order")]
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert caplog.records[-1].getMessage() == "The database is back"
    engine.dispose()
