"""What benchmarks share: a CRM of a size, brought up to date, in a server of their own."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import sqlalchemy as sa

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline.embedded import EmbeddedPostgres
from leora_pipeline.migrations import install_schema
from leora_pipeline.sample import create_tables, load, scaled_tenants

TENANTS = 10


def load_crm(server: EmbeddedPostgres, customers: int) -> tuple[str, sa.Engine]:
    """Loads a CRM of so many customers, and runs the pipeline on it once.

    Returns:
        Its URL, and an engine for it.
    """
    url = server.url(f"crm_{customers}")
    engine = create_engine(url)
    with transaction(engine) as connection:
        create_tables(connection)
        load(connection, scaled_tenants(TENANTS, customers), anchor=datetime.now(UTC))
    install_schema(engine)
    run_all_steps(engine, resolve_run(engine))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return url, engine
