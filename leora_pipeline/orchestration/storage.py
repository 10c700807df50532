"""Dagster's storage, as ``dagster.yaml`` names it: its URL is read like the CRM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from leora_pipeline.core.database.urls import read_url


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's own PostgreSQL storage, for URLs as hosts and Prisma print them.

    Dagster's hands its URL to SQLAlchemy as it is, which knows no ``postgres://`` and passes on
    what libpq refuses.
    """

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PostgresStorage:
        """Makes the storage of what ``dagster.yaml`` says.

        Raises:
            WrongUsageError: The URL cannot be read.
        """
        given = read_url(config_value["postgres_url"], variable="LEORA_DAGSTER_DATABASE_URL")
        url = given.for_driver("psycopg2")
        if given.schema:
            url = url.update_query_dict({"options": f"-csearch_path={given.schema}"})
        return cls(inst_data=inst_data, postgres_url=url.render_as_string(hide_password=False))
