"""What the acceptance tests share: a database at a user's hands, and the command in this process.

What does not belong here: helpers about processes, which stand in `processes`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline.cli import main
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.embedded import EmbeddedPostgres
from leora_pipeline.sample import SampleTenant, load
from leora_pipeline_tests.crm_builder import CrmBuilder, stored
from leora_pipeline_tests.processes import Outcome
from leora_pipeline_tests.scenes import refuse_rows

Leora = Callable[..., Outcome]

WELL_CRAFTED = SampleTenant("well-crafted", "Well Crafted", "America/New_York", 1234, 89, 456, 21)
"""The tenant of the seed's example: its counts are those that the command is to print."""


class Crm(CrmBuilder):
    """A CRM's database as a user has it, with customers in sets."""

    def load(self, *tenants: SampleTenant) -> None:
        """Adds sample tenants, whose types in the CRM are out of date."""
        with transaction(self.engine) as connection:
            load(connection, tenants, anchor=datetime.now(UTC), orders_per_customer=2)

    def customers(self, tenant_id: UUID, count: int, account_type: str, ordered: datetime) -> None:
        """Adds customers of a type, each with one order of that date."""
        self.run(
            'WITH c AS (INSERT INTO "Customer" (id, "tenantId", name, "accountType", '
            '"lastOrderDate", "updatedAt") SELECT gen_random_uuid(), :tenant, \'Shop \' || n, '
            'CAST(:type AS "AccountType"), :ordered, :ordered FROM generate_series(1, :count) AS n '
            'RETURNING id) INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", '
            "\"updatedAt\") SELECT gen_random_uuid(), :tenant, id, 'FULFILLED', :ordered, :ordered "
            "FROM c",
            tenant=tenant_id,
            count=count,
            type=account_type,
            ordered=stored(ordered),
        )

    def lose_orders(self, tenant_id: UUID) -> None:
        """Empties a tenant's orders, the way a bad restore does."""
        self.run('DELETE FROM "Order" WHERE "tenantId" = :tenant', tenant=tenant_id)

    def break_tenant(self, tenant_id: UUID) -> None:
        """Makes every write to a tenant's customers fail, as a trigger of the CRM may."""
        refuse_rows(self, '"Customer"', '"tenantId"', tenant_id)

    def counts(self, slug: str) -> dict[str | None, int]:
        """Returns how many customers of a tenant the CRM has of each type."""
        rows = self.run(
            'SELECT c."accountType"::text AS type, count(*) AS n FROM "Customer" AS c '
            'JOIN "Tenant" AS t ON t.id = c."tenantId" WHERE t.slug = :slug GROUP BY 1',
            slug=slug,
        )
        return {row.type: row.n for row in rows}

    def contents(self) -> dict[str, object]:
        """Returns every row of every table of both schemas, its last writer, and the sequences."""
        tables = self.run(
            "SELECT schemaname, tablename FROM pg_tables "
            "WHERE schemaname IN ('public', 'leora_pipeline') ORDER BY 1, 2"
        )
        found: dict[str, object] = {}
        for schema, table in tables:
            rows = self.run(f'SELECT xmin::text, t::text FROM {schema}."{table}" AS t ORDER BY 2')
            found[f"{schema}.{table}"] = [tuple(row) for row in rows]
        found["sequences"] = [
            tuple(row)
            for row in self.run("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
        ]
        return found


@pytest.fixture
def crm_of_user(admin: sa.Engine) -> Crm:
    """A migrated CRM without rows."""
    return Crm(admin)


@pytest.fixture
def leora(
    runtime_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Leora]:
    """Runs the command in this process, its output captured, on the test's database."""
    monkeypatch.setenv("LEORA_DATABASE_URL", runtime_url)
    handler = signal.getsignal(signal.SIGTERM)

    def run_here(*arguments: str) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(arguments)
        captured = capsys.readouterr()
        code = exited.value.code
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    yield run_here
    signal.signal(signal.SIGTERM, handler)


def as_hosts_print(url: str) -> str:
    """Returns a database's URL as several hosts print it, with what Prisma is told besides."""
    printed = url.replace("postgresql://", "postgres://")
    return f"{printed}{'&' if '?' in url else '?'}pgbouncer=true&connection_limit=1"


@pytest.fixture(scope="module")
def dagster_url(server: EmbeddedPostgres) -> str:
    """The URL of an empty database for Dagster's storage."""
    return server.url(f"dagster_{uuid4().hex}")
