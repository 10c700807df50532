"""The pipeline's schema beside the CRM's: it comes, goes, and never stands in a migration's way."""

from __future__ import annotations

import io
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import UnfitDatabaseError, update_account_types
from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.database.statements import statements
from leora_pipeline.migrations import install_schema, print_schema, remove_schema
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.databases import dump, psql


def printed(*, down: bool = False) -> str:
    output = io.StringIO()
    print_schema(output, down=down)
    return output.getvalue()


def migrate(admin: sa.Engine, *statements: str) -> None:
    """Runs a migration of the CRM's own, in one transaction."""
    with transaction(admin) as connection:
        for sql in statements:
            connection.exec_driver_sql(sql)


# It comes and goes.


def test_installing_twice_is_the_same_as_once(crm: sa.Engine, crm_url: str) -> None:
    install_schema(crm)
    once = dump(crm_url)
    build = CrmBuilder(crm)
    customer = build.customer(build.tenant(), orders=(ago(days=1),))
    update_account_types(engine=crm)

    install_schema(crm)

    assert dump(crm_url) == once
    assert len(build.log(customer)) == 1, "what was there stays"


def test_processes_that_install_at_once_do_not_disturb_each_other(
    crm: sa.Engine, crm_url: str
) -> None:
    meet = Barrier(3)

    def install() -> None:
        admin = create_engine(crm_url)
        meet.wait(20)
        install_schema(admin)
        admin.dispose()

    with ThreadPoolExecutor(3) as executor:
        for future in [executor.submit(install) for _ in range(3)]:
            future.result(20)

    require_fit_database(crm)


def test_removing_leaves_the_crm_as_it_was_before(crm: sa.Engine, crm_url: str) -> None:
    before = dump(crm_url)
    install_schema(crm)
    assert dump(crm_url) != before
    build = CrmBuilder(crm)
    customer = build.customer(build.tenant(), orders=(ago(days=1),))
    update_account_types(engine=crm)

    remove_schema(crm)

    assert dump(crm_url) == before
    assert build.type_of(customer) == "ACTIVE", "what was written stays"


def test_removing_where_nothing_is_installed_does_nothing(crm: sa.Engine, crm_url: str) -> None:
    before = dump(crm_url)

    remove_schema(crm)
    assert dump(crm_url) == before

    install_schema(crm)
    remove_schema(crm)
    remove_schema(crm)
    assert dump(crm_url) == before


def test_a_schema_that_was_removed_can_come_back(crm: sa.Engine, crm_url: str) -> None:
    install_schema(crm)
    once = dump(crm_url)
    remove_schema(crm)

    install_schema(crm)

    assert dump(crm_url) == once


def test_printed_sql_does_the_same_by_hand(crm: sa.Engine, crm_url: str) -> None:
    before = dump(crm_url)
    install_schema(crm)
    installed = dump(crm_url)
    remove_schema(crm)

    psql(crm_url, printed())
    assert dump(crm_url) == installed
    require_fit_database(crm)

    psql(crm_url, printed(down=True))
    assert dump(crm_url) == before


def test_printed_sql_is_all_or_nothing(crm: sa.Engine, crm_url: str) -> None:
    before = dump(crm_url)

    with pytest.raises(subprocess.CalledProcessError):
        psql(crm_url, printed().replace("COMMIT;", "SELECT 1 / 0; COMMIT;"))

    assert dump(crm_url) == before


def test_an_installation_that_fails_leaves_nothing(crm: sa.Engine, crm_url: str) -> None:
    CrmBuilder(crm).run("CREATE SCHEMA leora_pipeline")
    CrmBuilder(crm).run("CREATE TABLE leora_pipeline.tenant_hold (id integer)")
    before = dump(crm_url)

    with pytest.raises(sa.exc.ProgrammingError):
        install_schema(crm)

    assert dump(crm_url) == before
    with pytest.raises(UnfitDatabaseError, match="leora migrate"):
        require_fit_database(crm)


# The CRM's migrations.

NEW_ENUM = (
    'CREATE TYPE "{0}_new" AS ENUM ({1})',
    'ALTER TABLE "{2}" ALTER COLUMN "{3}" DROP DEFAULT',
    'ALTER TABLE "{2}" ALTER COLUMN "{3}" TYPE "{0}_new" USING ("{3}"::text::"{0}_new")',
    'ALTER TYPE "{0}" RENAME TO "{0}_old"',
    'ALTER TYPE "{0}_new" RENAME TO "{0}"',
    'DROP TYPE "{0}_old"',
)
"""How Prisma replaces an enum whose values change."""


def replace_enum(*parts: str) -> tuple[str, ...]:
    return tuple(sql.format(*parts) for sql in NEW_ENUM)


MIGRATIONS = {
    "a new account type": ("ALTER TYPE \"AccountType\" ADD VALUE 'VIP'",),
    "a new order status": ("ALTER TYPE \"OrderStatus\" ADD VALUE 'RETURNED'",),
    "account types replaced": replace_enum(
        "AccountType",
        "'PROSPECT', 'TARGET', 'ACTIVE', 'HOLD', 'CLOSED'",
        "Customer",
        "accountType",
    ),
    "order statuses replaced": replace_enum(
        "OrderStatus", "'DRAFT', 'FULFILLED', 'CANCELLED', 'LOST'", "Order", "status"
    ),
    "a column dropped and added again": (
        'ALTER TABLE "Customer" DROP COLUMN "lastOrderDate"',
        'ALTER TABLE "Customer" ADD COLUMN "lastOrderDate" timestamp(3)',
    ),
    "the order's date dropped and added again": (
        'ALTER TABLE "Order" RENAME COLUMN "orderedAt" TO "old"',
        'ALTER TABLE "Order" ADD COLUMN "orderedAt" timestamp(3)',
        'UPDATE "Order" SET "orderedAt" = "old"',
        'ALTER TABLE "Order" DROP COLUMN "old"',
    ),
    "a status as text": (
        'ALTER TABLE "Order" ALTER COLUMN "status" DROP DEFAULT',
        'ALTER TABLE "Order" ALTER COLUMN "status" TYPE text',
    ),
    "a status as text and back": (
        'ALTER TABLE "Order" ALTER COLUMN "status" DROP DEFAULT',
        'ALTER TABLE "Order" ALTER COLUMN "status" TYPE text',
        'ALTER TABLE "Order" ALTER COLUMN "status" TYPE "OrderStatus" '
        'USING "status"::"OrderStatus"',
    ),
    "a column wider": ('ALTER TABLE "Customer" ALTER COLUMN "lastOrderDate" TYPE timestamp(6)',),
    "a table replaced": (
        'ALTER TABLE "Order" RENAME TO "Order_old"',
        'CREATE TABLE "Order" (LIKE "Order_old" INCLUDING ALL)',
        'INSERT INTO "Order" SELECT * FROM "Order_old"',
        'DROP TABLE "Order_old"',
    ),
}


@pytest.mark.parametrize("name", MIGRATIONS)
def test_migrations_of_the_crm_pass_and_the_pipeline_goes_on(
    admin: sa.Engine, build: CrmBuilder, name: str
) -> None:
    tenant = build.tenant()
    older, newer = ago(days=200), ago(days=1)
    customer = build.customer(tenant, orders=(older,))
    update_account_types(engine=admin)

    migrate(admin, *MIGRATIONS[name])
    update_account_types(engine=admin)
    assert build.read(customer)[:2] == ("TARGET", older)

    build.run(
        'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
        "VALUES (gen_random_uuid(), :tenant, :customer, 'FULFILLED', :newer, now())",
        tenant=tenant,
        customer=customer,
        newer=newer.replace(tzinfo=None),
    )
    update_account_types(engine=admin)
    assert build.read(customer)[:2] == ("ACTIVE", newer)


def test_the_crms_tables_can_be_dropped_and_the_pipeline_says_what_is_missing(
    admin: sa.Engine,
) -> None:
    migrate(
        admin,
        'DROP TABLE "Order", "Customer", "SalesRep", "User", "Tenant"',
        'DROP TYPE "AccountType", "OrderStatus"',
    )

    with pytest.raises(UnfitDatabaseError, match='"Tenant", "Customer", "Order"'):
        require_fit_database(admin)


def test_no_object_of_the_crm_depends_on_the_pipeline_or_the_other_way_round(
    admin: sa.Engine, build: CrmBuilder
) -> None:
    """Foreign keys, views, columns and signatures would block the CRM's migrations."""
    crossing = build.run(
        "SELECT pg_describe_object(classid, objid, objsubid) AS ours, "
        "pg_describe_object(refclassid, refobjid, refobjsubid) AS theirs FROM pg_depend WHERE "
        "(pg_identify_object(classid, objid, objsubid)).schema = 'leora_pipeline' "
        "AND (pg_identify_object(refclassid, refobjid, refobjsubid)).schema = 'public'"
    )

    assert crossing == []


# What the database itself guarantees.


@pytest.mark.parametrize(
    "values",
    [
        "threshold_unit = 'week'",
        "threshold_unit = NULL",
        "active_within = 0",
        "active_within = -1",
        "active_within = 365",
        "target_within = 179",
        "target_within = 36501",
        "uncounted_statuses = NULL",
        "uncounted_statuses = ARRAY['DRAFT', NULL]",
        "healthy_active_min = 76",
        "healthy_active_max = 101",
        "healthy_target_min = -1",
        "healthy_target_max = 4",
        "healthy_prospect_min = 31",
        "healthy_prospect_max = 'NaN'",
        "high_churn_below = 101",
        "poor_retention_above = -0.01",
        "future_orders_above = 'NaN'",
        "gate_percent = 100.01",
        "gate_percent = 'NaN'",
        "gate_customers = -1",
        "min_customers = -1",
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    admin: sa.Engine, build: CrmBuilder, values: str
) -> None:
    tenant = own_policy(build)

    with pytest.raises(sa.exc.SQLAlchemyError):
        build.run(f"UPDATE leora_pipeline.tenant_policy SET {values}")

    assert len(build.run("SELECT FROM leora_pipeline.tenant_policy")) == 1
    assert policy(build, tenant).active_within == 180


@pytest.mark.parametrize(
    "values",
    [
        "threshold_unit = 'month', active_within = 6, target_within = 12",
        "active_within = 1, target_within = 2",
        "uncounted_statuses = '{}'",
        "gate_percent = 0, gate_customers = 0, min_customers = 0",
        "gate_percent = 100, high_churn_below = 0, poor_retention_above = 100",
    ],
)
def test_a_policy_at_the_edge_of_sense_is_taken(
    admin: sa.Engine, build: CrmBuilder, values: str
) -> None:
    own_policy(build)
    customer = build.customer(build.tenant("dry-goods"), orders=(ago(days=1),))

    build.run(f"UPDATE leora_pipeline.tenant_policy SET {values}")
    update_account_types(engine=admin)

    assert build.type_of(customer) == "ACTIVE"


def own_policy(build: CrmBuilder) -> Any:
    """Gives a tenant a policy of its own, equal to the default."""
    tenant = build.tenant()
    build.run(
        "INSERT INTO leora_pipeline.tenant_policy "
        "SELECT * FROM leora_pipeline.effective_policy(:tenant)",
        tenant=tenant,
    )
    return tenant


def policy(build: CrmBuilder, tenant: Any) -> Any:
    return build.run("SELECT * FROM leora_pipeline.effective_policy(:tenant)", tenant=tenant)[0]


def test_a_policy_of_ones_own_that_equals_the_default_reads_the_same(
    admin: sa.Engine, build: CrmBuilder
) -> None:
    tenant, other = own_policy(build), build.tenant("dry-goods")

    assert policy(build, tenant)[1:] == policy(build, other)[1:]
    assert len(build.run("SELECT * FROM leora_pipeline.effective_policy(:t)", t=tenant)) == 1


# The rule costs nothing where it is used.

STATEMENTS = (
    ("run.refresh", "outdated_customers"),
    ("run.refresh", "changed_customers"),
    ("customers.actionable", "actionable_tenants"),
    ("run.plan", "plan_from_state"),
    ("run.plan", "plan_from_orders"),
    ("realtime.batch", "actionable_customers"),
    ("customers.gate", "count_order_loss"),
    ("customers.gate", "has_unsynced_order_loss"),
    ("customers.gate", "judge"),
)
PARAMETERS = {
    "tenant_id": UUID(int=1),
    "tenant_ids": [UUID(int=1), UUID(int=2)],
    "customer_ids": [UUID(int=3), UUID(int=4)],
    "as_of": datetime(2024, 5, 6, tzinfo=UTC),
    "run_id": "run",
    "after": UUID(int=0),
    "batch": 500,
    "write_dates": True,
    "or_pending": True,
    "order_loss": 1,
}


@pytest.mark.parametrize(("file", "name"), STATEMENTS)
def test_the_planner_looks_into_the_functions_over_tables(
    build: CrmBuilder, file: str, name: str
) -> None:
    text = statements(f"leora_pipeline.core.{file}").text(name)

    plan = "\n".join(row[0] for row in build.run(f"EXPLAIN (VERBOSE) {text}", **PARAMETERS))

    assert " on leora_pipeline.tenant_policy" in plan
    assert "Function Scan on leora_pipeline" not in plan
    assert "leora_pipeline.derive_" not in plan
    assert "leora_pipeline.threshold" not in plan


def test_the_planner_looks_into_functions_over_values(admin: sa.Engine, build: CrmBuilder) -> None:
    """One that stays a call costs a microsecond a row, and there are millions."""
    columns = (
        "leora_pipeline.threshold(s.as_of, s.account_type, 180)",
        "leora_pipeline.derive_account_type(s.last_order_at, s.as_of, s.as_of)",
        "leora_pipeline.is_pinned(s.account_type)",
        "leora_pipeline.type_rank(s.account_type)",
        "leora_pipeline.type_differs(s.synced_type, s.account_type)",
        "leora_pipeline.date_differs(s.synced_order_at, s.last_order_at, s.ever_ordered, true)",
        "leora_pipeline.is_order_loss(s.synced_type, s.account_type, s.synced_order_at, "
        "s.last_order_at, s.as_of, s.as_of)",
    )

    for column in columns:
        (output,) = (
            row[0]
            for row in build.run(
                "EXPLAIN (VERBOSE, COSTS OFF) "
                f"SELECT {column} FROM leora_pipeline.customer_state AS s"
            )
            if "Output:" in row[0]
        )
        assert "leora_pipeline." not in output, column
