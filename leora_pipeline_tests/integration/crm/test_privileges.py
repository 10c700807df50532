"""The role that `docs/install.md` describes: its grants are enough for all the pipeline does."""

from __future__ import annotations

from uuid import uuid4

import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.policies.change import change_policy
from leora_pipeline.core.quality.catalog import CHECKS
from leora_pipeline.core.quality.checks import run_check
from leora_pipeline.core.reporting.problems import find_problems
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline.migrations import install_schema, remove_schema
from leora_pipeline_tests.crm_builder import CrmBuilder, ago


def test_the_documented_grants_suffice_and_row_level_security_does_not_matter(
    crm: sa.Engine,
) -> None:
    build = CrmBuilder(crm)
    role = f"leora_{uuid4().hex}"
    tenant = build.tenant()
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=3),))
    for statement in (
        f"CREATE ROLE {role} LOGIN BYPASSRLS",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f'GRANT SELECT ON "Tenant", "Customer", "Order" TO {role}',
        f'GRANT UPDATE ("accountType", "lastOrderDate", "updatedAt") ON "Customer" TO {role}',
        f'GRANT TRIGGER ON "Customer", "Order" TO {role}',
        f"GRANT CREATE ON DATABASE {crm.url.database} TO {role}",
        'ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY',
        'ALTER TABLE "Order" FORCE ROW LEVEL SECURITY',
    ):
        build.run(statement)
    engine = create_engine(crm.url.set(username=role).render_as_string(hide_password=False))
    try:
        install_schema(engine)
        require_fit_database(engine)
        update_account_types(engine=engine)
        with transaction(engine) as connection:
            [policy_tenant] = find_tenants(connection)
        change_policy(engine, policy_tenant, {"uncounted_statuses": ["DRAFT"]}, changed_by="ann")
        verdicts = [verdict for check in CHECKS for verdict in run_check(engine, check)]
        status = read_status(engine)
        build.run(f"REVOKE CREATE ON DATABASE {crm.url.database} FROM {role}")
        install_schema(engine)  # Looks, and finds all there.
        remove_schema(engine)
        left = build.run("SELECT FROM pg_trigger WHERE tgname LIKE 'leora_pipeline%'")
    finally:
        engine.dispose()
        build.run(f"DROP OWNED BY {role} CASCADE")
        build.run(f"DROP ROLE {role}")

    assert build.type_of(customer) == "ACTIVE"
    assert {verdict.status for verdict in verdicts} <= {"passed", "not judged"}
    assert not find_problems(status)
    assert not left
