"""Installing as two roles, as `docs/security.md` has it, as one, or as a superuser."""

from __future__ import annotations

import io
from uuid import uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import UnfitDatabaseError, update_account_types
from leora_pipeline.core.crm.requirements import open_doors, require_fit_database
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.policies.change import change_policy
from leora_pipeline.core.quality.catalog import CHECKS
from leora_pipeline.core.quality.checks import run_check
from leora_pipeline.core.reporting.problems import find_problems
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline.migrations import (
    install_schema,
    is_installed,
    print_roles,
    remove_schema,
    superuser_that_owns,
)
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.databases import dump, psql
from leora_pipeline_tests.roles import connected_as, made_role, make_roles, take_back


def owner_of_schema(build: CrmBuilder) -> set[str]:
    """Returns to whom the schema and the relations and functions in it belong."""
    return {
        row.owner
        for row in build.run(
            "SELECT nspowner::regrole::text AS owner FROM pg_namespace "
            "WHERE nspname = 'leora_pipeline' "
            "UNION SELECT relowner::regrole::text FROM pg_class "
            "WHERE relnamespace = 'leora_pipeline'::regnamespace "
            "UNION SELECT proowner::regrole::text FROM pg_proc "
            "WHERE pronamespace = 'leora_pipeline'::regnamespace"
        )
    }


def doors(engine: sa.Engine) -> list[str]:
    with transaction(engine) as connection:
        return open_doors(connection)


def test_two_roles_as_documented(crm: sa.Engine, crm_url: str) -> None:
    make_roles(crm_url)
    build = CrmBuilder(crm)
    tenant = build.tenant()
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=3),))

    with connected_as(crm, "leora_owner") as owner, connected_as(crm, "leora_runtime") as runtime:
        install_schema(owner)

        assert owner_of_schema(build) == {"leora_owner"}
        reported = doors(runtime)
        assert any('has TRIGGER on "Order"' in door for door in reported)
        assert any("has CREATE on DATABASE" in door for door in reported)
        take_back(crm)
        assert doors(runtime) == read_status(runtime).open_doors == []

        require_fit_database(runtime)
        update_account_types(engine=runtime)
        assert build.type_of(customer) == "ACTIVE"
        install_schema(owner)  # Looks, and finds all there.
        with pytest.raises(UnfitDatabaseError, match="it belongs to role leora_owner"):
            remove_schema(runtime)
        remove_schema(owner)
        assert not build.run("SELECT FROM pg_trigger WHERE tgname LIKE 'leora_pipeline%'")


def test_the_roles_can_be_made_again_and_dropped(crm: sa.Engine, crm_url: str) -> None:
    make_roles(crm_url)
    once = dump(crm_url)
    make_roles(crm_url)
    assert dump(crm_url) == once

    dropping = io.StringIO()
    print_roles(dropping, down=True)
    # In a transaction that is rolled back: all databases of the server share the roles.
    with crm.connect() as connection:
        drop_owned, drop_roles = dropping.getvalue().split(";\n")[:2]
        connection.exec_driver_sql(drop_owned)
        with pytest.raises(sa.exc.InternalError, match="objects in database"):
            connection.exec_driver_sql(drop_roles)


def test_where_the_crm_has_row_level_security_the_printed_sql_exempts_the_two_roles(
    crm: sa.Engine, crm_url: str
) -> None:
    build = CrmBuilder(crm)
    build.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    try:
        make_roles(crm_url)
        exempt = build.run("SELECT rolname FROM pg_roles WHERE rolname ~ '^leora' AND rolbypassrls")
        assert {row.rolname for row in exempt} == {"leora_owner", "leora_runtime"}
    finally:
        for role in ("leora_owner", "leora_runtime"):
            build.run(f"ALTER ROLE {role} NOBYPASSRLS")


def test_the_printed_sql_finds_a_crm_in_another_schema(crm: sa.Engine, crm_url: str) -> None:
    build = CrmBuilder(crm)
    build.run('CREATE SCHEMA "Vino & Co"')
    for table in ("Tenant", "Customer", "Order", "SalesRep", "User"):
        build.run(f'ALTER TABLE "{table}" SET SCHEMA "Vino & Co"')
    printed = io.StringIO()
    print_roles(printed, crm_schema="Vino & Co")

    psql(crm_url, printed.getvalue())

    [privilege] = build.run(
        "SELECT has_column_privilege("
        "'leora_runtime', '\"Vino & Co\".\"Order\"', 'orderedAt', 'SELECT') AS is_granted"
    )
    assert privilege.is_granted


def test_an_installation_of_a_superusers_is_handed_over_whole(crm: sa.Engine, crm_url: str) -> None:
    build = CrmBuilder(crm)
    tenant = build.tenant()
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=3),))
    install_schema(crm)
    assert superuser_that_owns(crm) == "postgres"
    with connected_as(crm, "leora_runtime") as runtime:
        assert any("belongs to superuser postgres" in door for door in doors(runtime))
    assert not is_installed(crm, owner="leora_owner")

    install_schema(crm, owner="leora_owner")

    assert is_installed(crm, owner="leora_owner")
    assert superuser_that_owns(crm) is None
    assert owner_of_schema(build) == {"leora_owner"}
    handed_over = dump(crm_url)
    # What a superuser installs from now on belongs to the same role.
    build.run("UPDATE leora_pipeline.alembic_version SET version_num = '0001'")
    build.run(
        "DROP TABLE leora_pipeline.own_write, leora_pipeline.hook_ticket, leora_pipeline.work_lock"
    )
    install_schema(crm)
    assert owner_of_schema(build) == {"leora_owner"}
    assert dump(crm_url) == handed_over
    with connected_as(crm, "leora_runtime") as runtime:
        assert doors(runtime) == []
        update_account_types(engine=runtime)
    assert build.type_of(customer) == "ACTIVE"


@pytest.mark.parametrize(
    ("role", "refusal"),
    [
        ("leora_nobody", "there is no role leora_nobody; `leora migrate --sql --roles` prints"),
        ("leora_reader", 'role leora_reader lacks SELECT and UPDATE .* on "Customer"'),
    ],
)
def test_an_owner_that_could_not_run_the_functions_is_refused(
    crm: sa.Engine, crm_url: str, role: str, refusal: str
) -> None:
    before = dump(crm_url)

    with pytest.raises(UnfitDatabaseError, match=refusal):
        install_schema(crm, owner=role)

    assert dump(crm_url) == before


def test_roles_that_are_made_later_are_granted_by_the_next_migrate(
    admin: sa.Engine, build: CrmBuilder, pipeline_url: str
) -> None:
    granted = dump(pipeline_url)
    for role in ("leora_runtime", "leora_hook", "leora_reader"):
        build.run(f"REVOKE ALL ON ALL TABLES IN SCHEMA leora_pipeline FROM {role}")
        build.run(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA leora_pipeline FROM {role}")
        build.run(f"REVOKE ALL ON SCHEMA leora_pipeline FROM {role}")
    assert dump(pipeline_url) != granted
    assert not is_installed(admin)

    install_schema(admin)

    assert sorted(dump(pipeline_url).splitlines()) == sorted(granted.splitlines())


@pytest.mark.parametrize(
    "grant",
    [
        "EXECUTE ON FUNCTION leora_pipeline.capture_orders TO PUBLIC",
        "EXECUTE ON FUNCTION leora_pipeline.capture_orders TO {role}",
        "CREATE ON SCHEMA public TO PUBLIC",
        "CREATE ON SCHEMA public TO {role}",
        "CREATE ON SCHEMA leora_pipeline TO {role}",
        "SELECT ON leora_pipeline.tenant_alert_url TO {role}",
        "SELECT (url) ON leora_pipeline.tenant_alert_url TO {role}",
        "INSERT ON leora_pipeline.own_write TO {role}",
        "TRIGGER ON leora_pipeline.customer_state TO {role}",
        "SELECT ON leora_pipeline.customer_state TO PUBLIC",
        'TRIGGER ON "Customer" TO leora_runtime',
        'TRIGGER ON "Customer" TO {role}',
        'TRIGGER ON "Customer" TO PUBLIC',
    ],
)
def test_an_open_door_is_named_with_what_closes_it(
    admin: sa.Engine, build: CrmBuilder, grant: str
) -> None:
    with made_role(build) as name:
        build.run(f"GRANT {grant.format(role=name)}")
        [door] = doors(admin)
        assert "(REVOKE " in door

        take_back(admin)

        assert doors(admin) == []


def test_a_door_that_was_passed_on_is_closed_to_all(admin: sa.Engine, build: CrmBuilder) -> None:
    with made_role(build) as one, made_role(build) as other:
        build.run(f"GRANT CREATE ON SCHEMA leora_pipeline TO {one} WITH GRANT OPTION")
        with connected_as(admin, one) as passing_on:
            CrmBuilder(passing_on).run(f"GRANT CREATE ON SCHEMA leora_pipeline TO {other}")
        assert len(doors(admin)) == 2

        take_back(admin)

        assert doors(admin) == []


def test_one_role_that_owns_and_runs_all_of_it_needs_no_more(
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
