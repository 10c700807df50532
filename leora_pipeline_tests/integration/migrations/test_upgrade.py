"""Upgrades: from every released revision, and over the functions of another version."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from leora_pipeline import UnfitDatabaseError, migrations, update_account_types
from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.migrations import SCHEMA, install_schema, is_installed
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.databases import dump
from leora_pipeline_tests.roles import connected_as, made_role

if TYPE_CHECKING:
    from collections.abc import Iterator

REVISIONS = [
    revision.revision
    for revision in ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions()
]


@contextmanager
def role(build: CrmBuilder, grant: str) -> Iterator[sa.Engine]:
    """Connects as a new role that has one grant."""
    with made_role(build, "BYPASSRLS", [grant]) as name, connected_as(build.engine, name) as engine:
        yield engine


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_upgrade_from_each_revision_gives_what_a_fresh_installation_gives(
    crm: sa.Engine, crm_url: str, revision: str
) -> None:
    install_schema(crm)
    fresh = dump(crm_url)
    migrations.remove_schema(crm)
    with transaction(crm) as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
        command.upgrade(migrations._config(connection=connection), revision)
        # Of the functions of that time, those that make a difference.
        connection.exec_driver_sql(
            "CREATE FUNCTION leora_pipeline.functions_fingerprint() RETURNS text "
            "LANGUAGE sql AS $$ SELECT 'of then' $$;"
            "CREATE FUNCTION leora_pipeline.capture_orders() RETURNS trigger LANGUAGE plpgsql "
            "SECURITY DEFINER AS $$ BEGIN RETURN NULL; END $$;"
            "CREATE FUNCTION leora_pipeline.after_order_create(p_customer_ids uuid[], "
            "p_write_last_order_date boolean DEFAULT true) RETURNS TABLE (customer_id uuid, "
            "outcome text, error text) LANGUAGE plpgsql AS $$ BEGIN END $$"
        )
        connection.execute(migrations.TRIGGERS_SQL.order_insert)

    install_schema(crm)

    assert dump(crm_url) == fresh


def test_an_upgrade_that_would_take_the_hook_from_its_callers_is_refused_by_name(
    admin: sa.Engine, build: CrmBuilder, pipeline_url: str
) -> None:
    build.run("UPDATE leora_pipeline.alembic_version SET version_num = '0001'")
    build.run(
        "DROP TABLE leora_pipeline.own_write, leora_pipeline.hook_ticket, leora_pipeline.work_lock"
    )
    with made_role(build, "", ["USAGE ON SCHEMA leora_pipeline"]) as name:
        before = dump(pipeline_url)
        with pytest.raises(UnfitDatabaseError, match=f"GRANT leora_hook .* TO {name}"):
            install_schema(admin)
        assert dump(pipeline_url) == before

        build.run(f"GRANT leora_hook TO {name}")
        install_schema(admin)

    require_fit_database(admin)


def test_functions_of_another_version_are_refused_and_replaced(
    admin: sa.Engine, owner: sa.Engine, pipeline_url: str
) -> None:
    installed = dump(pipeline_url)
    as_owner = CrmBuilder(owner)
    for change in (
        "CREATE OR REPLACE FUNCTION leora_pipeline.is_pinned(p_type text) RETURNS boolean "
        "LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT true $$",
        # One with other parameters, and one that is no more.
        "CREATE FUNCTION leora_pipeline.is_pinned(p_type text, p_strict boolean) RETURNS boolean "
        "LANGUAGE sql AS $$ SELECT true $$",
        "CREATE FUNCTION leora_pipeline.of_old() RETURNS boolean LANGUAGE sql AS $$ SELECT true $$",
        "CREATE OR REPLACE FUNCTION leora_pipeline.functions_fingerprint() RETURNS text "
        "LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 'another' $$",
    ):
        as_owner.run(change)
    with pytest.raises(UnfitDatabaseError, match="functions of the schema"):
        require_fit_database(admin)

    install_schema(admin)

    require_fit_database(admin)
    assert dump(pipeline_url) == installed


def test_grants_on_functions_survive_their_replacement(
    admin: sa.Engine, build: CrmBuilder, pipeline_url: str
) -> None:
    build.run(
        "CREATE OR REPLACE FUNCTION leora_pipeline.functions_fingerprint() RETURNS text "
        "LANGUAGE sql AS $$ SELECT 'another' $$"
    )
    with role(build, "EXECUTE ON FUNCTION leora_pipeline.after_order_create"):
        granted = build.run("SELECT proacl FROM pg_proc WHERE proname = 'after_order_create'")

        install_schema(admin)

        assert granted[0].proacl is not None
        assert granted == build.run(
            "SELECT proacl FROM pg_proc WHERE proname = 'after_order_create'"
        )


def test_where_all_is_there_migrate_only_reads_and_waits_for_nobody(
    admin: sa.Engine, build: CrmBuilder, pipeline_url: str
) -> None:
    before = dump(pipeline_url)
    with (
        role(build, "USAGE ON SCHEMA leora_pipeline") as reader,
        transaction(admin) as somebody,
    ):
        build.run(f"GRANT SELECT ON leora_pipeline.alembic_version TO {reader.url.username}")
        build.run(
            "GRANT EXECUTE ON FUNCTION leora_pipeline.functions_fingerprint "
            f"TO {reader.url.username}"
        )
        build.run(f"ALTER ROLE {reader.url.username} SET default_transaction_read_only = on")
        build.run(f"ALTER ROLE {reader.url.username} SET lock_timeout = '100ms'")
        # What an order, a customer, a run and another migration hold meanwhile.
        somebody.exec_driver_sql('LOCK TABLE "Order", "Customer" IN ROW EXCLUSIVE MODE')
        somebody.exec_driver_sql(
            "LOCK TABLE leora_pipeline.customer_state, leora_pipeline.pending_customer "
            "IN ROW EXCLUSIVE MODE"
        )
        somebody.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('leora_pipeline.migrate'))")

        assert is_installed(reader)
        install_schema(reader)

        build.run(
            "REVOKE EXECUTE ON FUNCTION leora_pipeline.functions_fingerprint "
            f"FROM {reader.url.username}"
        )
    assert dump(pipeline_url) == before


def test_a_missing_trigger_alone_is_set_again(
    admin: sa.Engine, build: CrmBuilder, pipeline_url: str
) -> None:
    before = dump(pipeline_url)
    build.run('DROP TRIGGER leora_pipeline_update ON "Order"')
    build.run('ALTER TABLE "Customer" DISABLE TRIGGER leora_pipeline_insert')
    assert not is_installed(admin)
    assert is_installed(admin, triggers=False)

    install_schema(admin)

    assert dump(pipeline_url) == before


def test_a_schema_from_before_the_first_release_is_refused_with_the_way_out(
    admin: sa.Engine, build: CrmBuilder, crm_url: str, pipeline_url: str
) -> None:
    customer = build.customer(build.tenant(), orders=(ago(days=1),))
    update_account_types(engine=admin)
    # Its revisions were numbered like those of now; it could not name its functions.
    build.run("DROP FUNCTION leora_pipeline.functions_fingerprint")
    build.run("CREATE TABLE leora_pipeline.set_aside_customer (customer_id uuid)")
    build.run("ALTER TABLE leora_pipeline.set_aside_customer OWNER TO leora_owner")
    before = dump(pipeline_url)

    for refused in (lambda: require_fit_database(admin), lambda: install_schema(admin)):
        with pytest.raises(UnfitDatabaseError) as refusal:
            refused()
        text = str(refusal.value)
        assert "\n" not in text
        assert "`leora migrate --down`" in text
        copy = text[text.index("CREATE TABLE") : text.rindex(")")]
        assert dump(pipeline_url) == before

    build.run(copy)
    migrations.remove_schema(admin)
    assert len(build.run("SELECT FROM public.leora_transitions")) == 1
    build.run("DROP TABLE public.leora_transitions")
    assert dump(pipeline_url) == dump(crm_url)
    install_schema(admin)
    assert build.type_of(customer) == "ACTIVE"
