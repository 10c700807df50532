"""Removal: all of the schema goes, or nothing."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from leora_pipeline import LeoraError, UnfitDatabaseError, migrations
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.migrations import remove_schema
from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.databases import dump
from leora_pipeline_tests.roles import connected_as, made_role

OBSTACLES = {
    "somebody's table in it": (
        "CREATE TABLE leora_pipeline.notes (id integer)",
        "notes is not the pipeline's",
    ),
    "somebody's view outside": (
        "CREATE VIEW public.types AS SELECT account_type FROM leora_pipeline.customer_state",
        "view types depends on it",
    ),
    "somebody's foreign key": (
        "CREATE TABLE public.notes (tenant_id uuid REFERENCES leora_pipeline.tenant_policy)",
        "on table notes depends on it",
    ),
    "somebody's trigger": (
        'CREATE TRIGGER notes AFTER INSERT ON "Tenant" REFERENCING NEW TABLE AS after_change '
        "FOR EACH STATEMENT EXECUTE FUNCTION leora_pipeline.capture_orders()",
        'trigger notes on table "Tenant" depends on it',
    ),
    "somebody's default": (
        "CREATE TABLE public.notes (made timestamptz DEFAULT leora_pipeline.clock())",
        "table notes depends on it",
    ),
}


@pytest.mark.parametrize("what", OBSTACLES)
def test_nothing_is_removed_where_something_of_somebody_elses_would_go_too(
    admin: sa.Engine, build: CrmBuilder, pipeline_url: str, what: str
) -> None:
    obstacle, reported = OBSTACLES[what]
    build.run(obstacle)
    before = dump(pipeline_url)

    with pytest.raises(UnfitDatabaseError, match="nothing was changed") as refusal:
        remove_schema(admin)

    assert reported in str(refusal.value)
    assert dump(pipeline_url) == before


def test_nothing_is_removed_by_a_role_that_does_not_own_it(
    admin: sa.Engine, build: CrmBuilder, pipeline_url: str
) -> None:
    before = dump(pipeline_url)
    with (
        made_role(build, "BYPASSRLS", ["USAGE ON SCHEMA leora_pipeline"]) as name,
        connected_as(admin, name) as other,
        pytest.raises(UnfitDatabaseError, match="it belongs to role leora_owner"),
    ):
        remove_schema(other)

    assert dump(pipeline_url) == before


@pytest.mark.parametrize("table", ['"Order"', '"Customer"', "leora_pipeline.pending_customer"])
def test_nothing_is_removed_while_a_table_stays_locked(
    admin: sa.Engine, pipeline_url: str, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 20)
    before = dump(pipeline_url)

    with transaction(admin) as somebody:
        somebody.exec_driver_sql(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")
        with pytest.raises(LeoraError, match="stayed locked"):
            remove_schema(admin)

    assert dump(pipeline_url) == before
    remove_schema(admin)
    assert "leora_pipeline" not in dump(pipeline_url)
