"""Ways in through the functions, which the CRM's sessions run as the schema's owner."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import UnfitDatabaseError, update_account_types
from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.migrations import install_schema, print_schema, remove_schema
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.databases import psql
from leora_pipeline_tests.roles import connected_as, made_role, make_roles

EVIL_COLUMN = (
    "CREATE TYPE {schema}.evil AS (value uuid)",
    "CREATE FUNCTION {schema}.as_uuid(given {schema}.evil) RETURNS uuid LANGUAGE plpgsql AS "
    "$$ BEGIN INSERT INTO {schema}.proof SELECT current_user; RETURN given.value; END $$",
    "CREATE CAST ({schema}.evil AS uuid) WITH FUNCTION {schema}.as_uuid AS ASSIGNMENT",
    'CREATE TABLE {schema}.bait (id {schema}.evil, "tenantId" {schema}.evil, '
    '"customerId" {schema}.evil, status text, "orderedAt" timestamp)',
)
"""A table whose ids become uuids by a function of its owner's, which notes as whom it ran."""

ATTACH = (
    "CREATE TRIGGER bait AFTER INSERT ON {schema}.bait REFERENCING NEW TABLE AS after_change "
    "FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.capture_orders()"
)

BITE = "INSERT INTO {schema}.bait VALUES ({row}, {row}, {row}, 'FULFILLED', now())".replace(
    "{row}", "ROW(gen_random_uuid())::{schema}.evil"
)


@pytest.fixture
def stranger(build: CrmBuilder) -> Iterator[str]:
    """A role with a schema of its own, that may look into the pipeline's."""
    with made_role(build, "", ["USAGE ON SCHEMA leora_pipeline"]) as name:
        build.run(f"CREATE SCHEMA {name} AUTHORIZATION {name}")
        build.run(f"CREATE TABLE {name}.proof (as_whom text)")
        build.run(f"GRANT ALL ON {name}.proof TO PUBLIC")
        build.run(f"GRANT USAGE ON SCHEMA {name} TO PUBLIC")
        yield name


def test_nobody_may_execute_a_function_but_by_name(build: CrmBuilder) -> None:
    """Over all functions, so that the next one is covered too."""
    open_to_all = build.run(
        "SELECT p.oid::regprocedure::text FROM pg_proc AS p, "
        "aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) AS a "
        "WHERE p.pronamespace = 'leora_pipeline'::regnamespace AND a.grantee = 0"
    )

    assert open_to_all == []


def test_what_runs_as_the_owner_has_a_search_path_of_its_own(build: CrmBuilder) -> None:
    functions = build.run(
        "SELECT proname, proconfig FROM pg_proc "
        "WHERE pronamespace = 'leora_pipeline'::regnamespace AND prosecdef"
    )

    assert {row.proname for row in functions} == {
        "capture_customers",
        "capture_orders",
        "update_ticketed_customers",
    }
    for row in functions:
        assert "search_path=pg_catalog, public, pg_temp" in row.proconfig


def test_a_stranger_cannot_attach_a_trigger_function_to_a_table_of_its_own(
    engine: sa.Engine, stranger: str
) -> None:
    with connected_as(engine, stranger) as own:
        build = CrmBuilder(own)
        for sql in EVIL_COLUMN:
            build.run(sql.format(schema=stranger))

        with pytest.raises(sa.exc.ProgrammingError, match="permission denied for function"):
            build.run(ATTACH.format(schema=stranger))


@pytest.mark.parametrize("where", ["a schema of its own", "the CRM's schema"])
def test_one_that_is_attached_all_the_same_runs_nothing_of_the_strangers(
    engine: sa.Engine, build: CrmBuilder, stranger: str, where: str
) -> None:
    """Each of the two other bars holds alone: the table's schema, and ids without casts."""
    schema = stranger
    if where == "the CRM's schema":
        schema = "public"
        build.run(f"CREATE TABLE public.proof AS TABLE {stranger}.proof")
        build.run(f"GRANT ALL ON public.proof, {stranger}.proof TO PUBLIC")
    for sql in (*EVIL_COLUMN, ATTACH):
        build.run(sql.format(schema=schema))
    build.run(f"GRANT INSERT ON {schema}.bait TO {stranger}")
    pending = build.pending()

    with connected_as(engine, stranger) as own:
        CrmBuilder(own).run(BITE.format(schema=schema))

    assert build.run(f"SELECT * FROM {schema}.proof") == []
    assert build.pending() == pending


def test_no_setting_of_a_writers_switches_capture_off(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)

    with transaction(build.engine) as crm:
        crm.exec_driver_sql("SET LOCAL leora_pipeline.is_applying = 'on'")
        crm.exec_driver_sql('UPDATE "Customer" SET "accountType" = \'PROSPECT\'')

    assert build.pending() == {customer}


@pytest.mark.parametrize(
    "write",
    [
        """UPDATE "Order" SET status = 'CANCELLED' WHERE {read_only}""",
        """DELETE FROM "Order" WHERE {read_only}""",
        """UPDATE "Customer" SET "accountType" = 'PROSPECT' WHERE {read_only}""",
    ],
)
def test_no_write_makes_its_transaction_read_only_before_it_is_captured(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, write: str
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)
    read_only = "set_config('transaction_read_only', 'on', true) = 'on'"

    with pytest.raises(sa.exc.DBAPIError, match="read-only transaction"):
        build.run(write.format(read_only=read_only))

    build.run(write.format(read_only="true"))
    assert build.pending() == {customer}


def test_the_marks_of_own_writes_and_of_tickets_are_out_of_the_crms_reach(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    with made_role(build) as role:
        build.run(f"GRANT leora_hook, leora_reader TO {role}")
        with connected_as(engine, role) as application:
            crm = CrmBuilder(application)
            for sql in (
                "INSERT INTO leora_pipeline.own_write VALUES (pg_current_xact_id(), 0)",
                "INSERT INTO leora_pipeline.hook_ticket VALUES ('1', gen_random_uuid())",
                "SELECT FROM leora_pipeline.own_write",
                "SELECT FROM leora_pipeline.hook_ticket",
                "DELETE FROM leora_pipeline.hook_ticket",
            ):
                with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
                    crm.run(sql)


def test_what_a_trigger_of_the_crms_changes_while_the_pipeline_writes_is_captured(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    sister = build.customer(tenant, "ACTIVE", orders=(ago(days=1),))
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=400),))
    update_account_types(engine=engine)
    build.run(
        "CREATE FUNCTION public.demote_sister() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"UPDATE \"Customer\" SET \"accountType\" = 'PROSPECT' WHERE id = '{sister}' "
        "AND \"accountType\" = 'ACTIVE'; RETURN NULL; END $$"
    )
    build.run(
        'CREATE TRIGGER demote_sister AFTER UPDATE ON "Customer" FOR EACH ROW '
        f"WHEN (NEW.id = '{customer}') EXECUTE FUNCTION public.demote_sister()"
    )
    build.order(tenant, customer, ago(days=2))

    update_account_types(engine=engine)

    assert build.pending() == {sister}
    assert build.run("SELECT FROM leora_pipeline.own_write") == []


@pytest.mark.parametrize("what", ["table", "function", "type"])
def test_a_schema_that_holds_somebody_elses_objects_is_refused(
    engine: sa.Engine, owner: sa.Engine, build: CrmBuilder, stranger: str, what: str
) -> None:
    build.run(f"GRANT CREATE ON SCHEMA leora_pipeline TO {stranger}")
    with connected_as(engine, stranger) as own:
        CrmBuilder(own).run(
            {
                "table": "CREATE TABLE leora_pipeline.loot (id uuid)",
                "function": "CREATE FUNCTION leora_pipeline.is_pinned(p_type varchar) "
                "RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
                "type": "CREATE TYPE leora_pipeline.loot AS ENUM ('x')",
            }[what]
        )

    for refused in (lambda: require_fit_database(engine), lambda: install_schema(owner)):
        with pytest.raises(UnfitDatabaseError, match=f"belongs to role {stranger}"):
            refused()
    build.run(f"REVOKE CREATE ON SCHEMA leora_pipeline FROM {stranger}")


def test_a_trigger_that_somebody_set_while_he_could_is_refused(
    engine: sa.Engine, owner: sa.Engine, build: CrmBuilder, stranger: str
) -> None:
    """It would run as the pipeline, though the privilege to set it is gone."""
    build.run(f"GRANT TRIGGER ON leora_pipeline.customer_state TO {stranger}")
    with connected_as(engine, stranger) as own:
        CrmBuilder(own).run(
            f"CREATE FUNCTION {stranger}.note() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN INSERT INTO {stranger}.proof SELECT current_user; RETURN NULL; END $$"
        )
        CrmBuilder(own).run(
            "CREATE TRIGGER note AFTER INSERT ON leora_pipeline.customer_state "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {stranger}.note()"
        )
    build.run(f"REVOKE TRIGGER ON leora_pipeline.customer_state FROM {stranger}")

    for refused in (lambda: require_fit_database(engine), lambda: install_schema(owner)):
        with pytest.raises(UnfitDatabaseError, match=f"trigger note .* belongs to role {stranger}"):
            refused()


def test_a_schema_that_somebody_else_made_before_is_refused(crm: sa.Engine, crm_url: str) -> None:
    build = CrmBuilder(crm)
    with made_role(build) as name:
        build.run(f"CREATE SCHEMA leora_pipeline AUTHORIZATION {name}")
        build.run('ALTER TABLE "Customer" OWNER TO leora_owner')
        build.run(f"GRANT CREATE ON DATABASE {crm.url.database} TO leora_owner")
        with (
            connected_as(crm, "leora_owner") as owner,
            pytest.raises(UnfitDatabaseError, match=f"it belongs to role {name}"),
        ):
            install_schema(owner)
        build.run("DROP SCHEMA leora_pipeline")


@pytest.mark.parametrize("attempt", [install_schema, remove_schema, require_fit_database])
def test_a_superuser_calls_nothing_in_a_schema_that_somebody_else_made_before(
    crm: sa.Engine, attempt: Callable[[sa.Engine], None]
) -> None:
    """PostgreSQL takes a superuser for a member of every role, which is no reason to trust one."""
    build = CrmBuilder(crm)
    with made_role(build) as name:
        build.run(f"CREATE SCHEMA leora_pipeline AUTHORIZATION {name}")
        with connected_as(crm, name) as stranger:
            own = CrmBuilder(stranger)
            own.run("CREATE TABLE leora_pipeline.alembic_version AS SELECT '0001' AS version_num")
            own.run(
                "CREATE FUNCTION leora_pipeline.functions_fingerprint() RETURNS text "
                "LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION USING MESSAGE = 'ran as ' || current_user; END $$"
            )

        with pytest.raises(UnfitDatabaseError, match=f"it belongs to role {name}"):
            attempt(crm)
        build.run("DROP SCHEMA leora_pipeline CASCADE")


def test_the_printed_sql_installs_nothing_in_a_schema_that_is_there(
    crm: sa.Engine, crm_url: str
) -> None:
    """Its owner could replace what the functions call, which run as whoever runs the SQL."""
    build = CrmBuilder(crm)
    printed = io.StringIO()
    print_schema(printed)
    with made_role(build) as name:
        build.run(f"CREATE SCHEMA leora_pipeline AUTHORIZATION {name}")

        with pytest.raises(subprocess.CalledProcessError) as failed:
            psql(crm_url, printed.getvalue())

        assert 'schema "leora_pipeline" already exists' in failed.value.stderr
        assert build.run("SELECT FROM pg_trigger WHERE tgname LIKE 'leora%'") == []
        build.run("DROP SCHEMA leora_pipeline")


PLANTED = (
    "CREATE FUNCTION {schema}.format(text, name) RETURNS text LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION USING MESSAGE = 'ran as ' || current_user; END $$",
    "CREATE FUNCTION {schema}.format(text, name, regclass) RETURNS text LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION USING MESSAGE = 'ran as ' || current_user; END $$",
    "CREATE FUNCTION {schema}.quote_ident(name) RETURNS text LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION USING MESSAGE = 'ran as ' || current_user; END $$",
    "CREATE FUNCTION {schema}.unlike(name, name) RETURNS boolean LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION USING MESSAGE = 'ran as ' || current_user; END $$",
    "CREATE OPERATOR {schema}.!~~ (LEFTARG = name, RIGHTARG = name, FUNCTION = {schema}.unlike)",
)
"""What fits some of the pipeline's statements better than what PostgreSQL has by these names."""


@pytest.mark.parametrize("everybody", [True, False])
@pytest.mark.parametrize("attempt", [install_schema, remove_schema, require_fit_database])
def test_a_superuser_works_in_no_schema_in_which_others_may_create(
    crm: sa.Engine, attempt: Callable[[sa.Engine], None], everybody: bool
) -> None:
    build = CrmBuilder(crm)
    with made_role(build) as name:
        grantee = "PUBLIC" if everybody else name
        build.run(f"GRANT CREATE ON SCHEMA public TO {grantee}")
        with connected_as(crm, name) as stranger:
            for sql in PLANTED:
                CrmBuilder(stranger).run(sql.format(schema="public"))

        with pytest.raises(
            UnfitDatabaseError, match=rf"\(REVOKE CREATE ON SCHEMA public FROM {grantee}\)"
        ):
            attempt(crm)


@pytest.mark.parametrize("role", ["leora_runtime", "leora_owner"])
def test_a_schema_that_somebody_else_named_like_a_role_is_not_where_that_role_looks(
    engine: sa.Engine, build: CrmBuilder, role: str
) -> None:
    """It would come first on its search path, with tables in the place of the CRM's."""
    with made_role(build) as name, connected_as(engine, role) as connected:
        build.run(f"CREATE SCHEMA {role} AUTHORIZATION {name}")
        with connected_as(engine, name) as stranger:
            CrmBuilder(stranger).run(f"GRANT USAGE ON SCHEMA {role} TO {role}")

        for refused in (require_fit_database, install_schema, remove_schema):
            with pytest.raises(UnfitDatabaseError, match=f"{role} belongs to role {name}"):
                refused(connected)


def test_the_printed_sql_runs_nothing_of_somebody_elses_as_a_superuser(
    crm: sa.Engine, crm_url: str
) -> None:
    build = CrmBuilder(crm)
    printed = io.StringIO()
    print_schema(printed)
    build.run("GRANT CREATE ON SCHEMA public TO PUBLIC")
    with made_role(build) as name, connected_as(crm, name) as stranger:
        for sql in PLANTED:
            CrmBuilder(stranger).run(sql.format(schema="public"))

        with pytest.raises(subprocess.CalledProcessError) as failed:
            psql(crm_url, printed.getvalue())

    assert "(REVOKE CREATE ON SCHEMA public FROM PUBLIC)" in failed.value.stderr


def test_the_printed_sql_that_makes_the_roles_runs_nothing_of_somebody_elses(
    crm: sa.Engine, crm_url: str
) -> None:
    """An administrator runs it, before anything of the pipeline's could warn him."""
    build = CrmBuilder(crm)
    with made_role(build) as name:
        build.run(f"GRANT CREATE ON SCHEMA public TO {name}")
        with connected_as(crm, name) as stranger:
            for sql in PLANTED:
                CrmBuilder(stranger).run(sql.format(schema="public"))

        make_roles(crm_url)
