"""Who may do what: the catalogue, the documentation, and what is refused to each role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from leora_pipeline.core.crm.requirements import CRM_COLUMNS
from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.roles import connected_as, made_role

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"

ROLES = ("leora_owner", "leora_runtime", "leora_hook", "leora_reader", "PUBLIC")

GRANTED = """
    SELECT a.grantee, c.oid::regclass::text AS object, a.privilege_type AS privilege
    FROM pg_class AS c, aclexplode(c.relacl) AS a
    WHERE c.relowner <> a.grantee
    UNION ALL
    SELECT x.grantee, a.attrelid::regclass::text, format('%s (%I)', x.privilege_type, a.attname)
    FROM pg_attribute AS a, aclexplode(a.attacl) AS x
    UNION ALL
    SELECT a.grantee, 'schema ' || n.nspname, a.privilege_type
    FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
    WHERE n.nspname IN ('public', 'leora_pipeline') AND a.grantee <> n.nspowner
    UNION ALL
    SELECT a.grantee, 'function leora_pipeline.' || p.proname, a.privilege_type
    FROM pg_proc AS p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) AS a
    WHERE p.pronamespace = 'leora_pipeline'::regnamespace AND a.grantee <> p.proowner
"""
"""What is granted to others than the owner, with what PostgreSQL grants to everybody by itself."""


def granted(build: CrmBuilder) -> set[tuple[str, str, str]]:
    """Returns (role, object, privilege) as the catalogue has it."""
    return {
        (row.role, row.object, row.privilege)
        for row in build.run(
            "SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END AS role, "
            f"g.object, g.privilege FROM ({GRANTED}) AS g "
            "WHERE g.grantee <> 10 AND g.object !~ '^(pg_catalog|information_schema|pg_)'"
        )
    }


def documented() -> set[tuple[str, str, str]]:
    """Returns the same as the documentation has it."""
    found = set()
    text = SECURITY.read_text(encoding="utf-8")
    for role, objects, privileges in re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text, re.M):
        for name in re.findall(r"`([^`]+)`", objects):
            object_ = name
            if re.fullmatch(r"\w+\(\)", name):
                object_ = f"function leora_pipeline.{name[:-2]}"
            elif re.fullmatch(r"[a-z_]+", name):
                object_ = f"leora_pipeline.{name}"
            for privilege, columns in re.findall(r"([A-Z]+)(?: \(([^)]+)\))?", privileges):
                names = columns.split(", ") if columns else [""]
                found |= {(role, object_, f"{privilege} ({n})" if n else privilege) for n in names}
    return found


def test_the_documentation_says_what_the_catalogue_says(build: CrmBuilder) -> None:
    assert documented() == granted(build)


def test_the_crms_columns_are_named_one_by_one(build: CrmBuilder) -> None:
    written = {
        (table, privilege)
        for role, table, privilege in granted(build)
        if role == "leora_runtime" and "UPDATE" in privilege and table.startswith('"')
    }

    assert written == {
        ('"Customer"', f'UPDATE ("{column}")')
        for column in ("accountType", "lastOrderDate", "updatedAt")
    }


CRM = [
    'DELETE FROM "Customer"',
    'DELETE FROM "Order"',
    'UPDATE "Order" SET "orderedAt" = now()',
    "UPDATE \"Customer\" SET name = 'x'",
    'UPDATE "Customer" SET "tenantId" = gen_random_uuid()',
    'INSERT INTO "Customer" (id) VALUES (gen_random_uuid())',
    'INSERT INTO "Order" (id) VALUES (gen_random_uuid())',
    'TRUNCATE "Order"',
    'ALTER TABLE "Order" DISABLE TRIGGER USER',
    'DROP TABLE "Order"',
    'CREATE TRIGGER x AFTER INSERT ON "Order" FOR EACH STATEMENT '
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    'SELECT * FROM "Customer"',
    'SELECT * FROM "Order"',
    'SELECT "billingEmail" FROM "Customer"',
    'SELECT "hashedPassword" FROM "User"',
    'SELECT email FROM "User"',
    "CREATE TABLE public.loot (id uuid)",
    "CREATE SCHEMA loot",
    "CREATE ROLE loot",
]
"""What no role of the pipeline's may do to the CRM."""

SCHEMA = [
    "CREATE TABLE leora_pipeline.loot (id uuid)",
    "CREATE FUNCTION leora_pipeline.loot() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP TABLE leora_pipeline.account_type_transition",
    "ALTER FUNCTION leora_pipeline.capture_orders SECURITY INVOKER",
    "CREATE TRIGGER x AFTER INSERT ON leora_pipeline.listener FOR EACH STATEMENT "
    "EXECUTE FUNCTION leora_pipeline.capture_orders()",
    "TRUNCATE leora_pipeline.account_type_transition",
    "UPDATE leora_pipeline.alembic_version SET version_num = 'x'",
]
"""What nobody but the owner may do to the pipeline's schema."""

RUNTIME = [
    "UPDATE leora_pipeline.policy_change SET changed_by = 'x'",
    "UPDATE leora_pipeline.pending_customer SET customer_id = gen_random_uuid()",
    "UPDATE leora_pipeline.health_verdict SET status = 'passed'",
    "UPDATE leora_pipeline.tenant_policy SET active_within = 1",
]
"""What the runtime role may not do either: records are added and deleted, not changed."""

READER = [
    "SELECT FROM leora_pipeline.work_lock FOR KEY SHARE",
    "INSERT INTO leora_pipeline.work_lock VALUES (gen_random_uuid(), 'gate')",
    "SELECT FROM leora_pipeline.tenant_alert_url",
    "SELECT FROM leora_pipeline.alert_message",
    "SELECT FROM leora_pipeline.incident",
    "INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id) "
    "VALUES (gen_random_uuid(), gen_random_uuid())",
    "UPDATE leora_pipeline.customer_state SET account_type = 'ACTIVE'",
    "SELECT * FROM leora_pipeline.write_customers(NULL, NULL, NULL, true, false, '', '')",
    "SELECT * FROM leora_pipeline.after_order_create('{}')",
]

HOOK = [
    *READER[:-1],
    "SELECT FROM leora_pipeline.customer_state",
    "SELECT FROM leora_pipeline.account_type_transition",
    "SELECT * FROM leora_pipeline.refresh_customers(NULL, '{}', NULL, true)",
    "SELECT leora_pipeline.capture_orders()",
]

REFUSED = [
    *(("leora_owner", sql) for sql in CRM),
    *(("leora_runtime", sql) for sql in [*CRM, *SCHEMA, *RUNTIME]),
    *(("leora_reader", sql) for sql in [*CRM, *SCHEMA, *READER]),
    *(("leora_hook", sql) for sql in [*CRM, *SCHEMA, *HOOK]),
]


@pytest.fixture
def of_role(engine: sa.Engine, build: CrmBuilder) -> Iterator[dict[str, sa.Engine]]:
    """An engine for each of the pipeline's roles; of a group role, as a member of it."""
    with (
        made_role(build) as reader,
        made_role(build) as hook,
        connected_as(engine, "leora_owner") as as_owner,
        connected_as(engine, reader) as as_reader,
        connected_as(engine, hook) as as_hook,
    ):
        build.run(f"GRANT leora_reader TO {reader}")
        build.run(f"GRANT leora_hook TO {hook}")
        yield {
            "leora_owner": as_owner,
            "leora_runtime": engine,
            "leora_reader": as_reader,
            "leora_hook": as_hook,
        }


@pytest.mark.parametrize("role", ["leora_owner", "leora_runtime", "leora_reader", "leora_hook"])
def test_everything_else_is_refused(
    build: CrmBuilder, of_role: dict[str, sa.Engine], role: str
) -> None:
    build.customer(build.tenant())
    as_role = CrmBuilder(of_role[role])
    allowed = []
    for refused_to, sql in REFUSED:
        if refused_to == role:
            try:
                as_role.run(sql)
            except sa.exc.ProgrammingError as error:
                message = str(error.orig)
                assert re.search("permission denied|must be owner", message), (sql, message)
            else:
                allowed.append(sql)

    assert allowed == []


def test_a_reader_reads_the_tables_of_the_contract_and_no_other(
    build: CrmBuilder, of_role: dict[str, sa.Engine]
) -> None:
    reader = CrmBuilder(of_role["leora_reader"])
    tables = build.run("SELECT tablename FROM pg_tables WHERE schemaname = 'leora_pipeline'")
    readable = set()
    for row in tables:
        try:
            reader.run(f"SELECT * FROM leora_pipeline.{row.tablename}")
        except sa.exc.ProgrammingError:
            continue
        readable.add(row.tablename)

    assert readable == {
        "account_type_change",
        "account_type_distribution",
        "account_type_transition",
        "customer_state",
        "health_verdict",
        "pending_customer",
        "tenant_hold",
        "tenant_policy",
        "tenant_run",
    }


def test_what_the_pipeline_asks_for_is_what_it_is_granted(build: CrmBuilder) -> None:
    for table, columns in CRM_COLUMNS.items():
        named = {
            privilege
            for role, object_, privilege in granted(build)
            if (role, object_) == ("leora_runtime", f'"{table}"') and "SELECT" in privilege
        }
        asked = {
            f"SELECT ({name if name.islower() else f'{chr(34)}{name}{chr(34)}'})"
            for name in columns
        }
        assert asked <= named
