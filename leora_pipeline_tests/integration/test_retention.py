"""Retention: what is deleted of the pipeline's tables, and what stays however old it is."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline.core.retention import delete_older_than
from leora_pipeline_tests.crm_builder import CrmBuilder, ago

TABLES = {
    "account_type_transition": "recorded_at",
    "account_type_distribution": "as_of",
    "tenant_run": "started_at",
    "health_verdict": "checked_at",
}


def age(build: CrmBuilder, days: int) -> None:
    """Makes all that the pipeline has recorded older."""
    for table, column in TABLES.items():
        other = {"tenant_run": ", finished_at = finished_at - d", "account_type_distribution": ""}
        day = ", day = day - :days" if table == "account_type_distribution" else ""
        build.run(
            f"UPDATE leora_pipeline.{table} SET {column} = {column} - d{other.get(table, '')}{day} "
            "FROM make_interval(days => :days) AS d",
            days=days,
        )


def count(build: CrmBuilder, table: str) -> int:
    return int(build.run(f"SELECT count(*) FROM leora_pipeline.{table}")[0][0])


@pytest.fixture
def tenant_of_old(engine: sa.Engine, build: CrmBuilder) -> None:
    """A tenant whose last run was forty days ago, and the one before it eighty."""
    tenant = build.tenant()
    for days in (300, 1):
        build.customer(tenant, orders=(ago(days=days),))
        update_account_types(engine=engine)
        age(build, 40)


@pytest.mark.usefixtures("tenant_of_old")
def test_history_stays_as_long_as_it_is_to_be_kept_and_not_longer(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    assert delete_older_than(engine, history_days=81, record_days=81)["transitions"] == 0
    assert count(build, "account_type_transition") == 2

    deleted = delete_older_than(engine, history_days=79, record_days=81)

    assert (deleted["transitions"], deleted["distributions"]) == (1, 1)
    assert count(build, "account_type_transition") == 1
    assert count(build, "account_type_distribution") == 1


@pytest.mark.usefixtures("tenant_of_old")
def test_how_things_stand_is_known_however_old_it_is(engine: sa.Engine, build: CrmBuilder) -> None:
    before = read_status(engine).tenants

    deleted = delete_older_than(engine, history_days=7, record_days=7)

    assert deleted["tenant_runs"] == 1, "the run before the last"
    assert read_status(engine).tenants == before
    assert count(build, "account_type_distribution") == 1, "the latest is what checks look at"
    assert count(build, "account_type_transition") == 0


def test_the_last_success_stays_when_all_later_runs_failed(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    update_account_types(engine=engine)
    age(build, 50)
    for days in (40, 30):
        build.run(
            "INSERT INTO leora_pipeline.tenant_run SELECT :tenant, 'failed ' || :days, 'full', "
            "clock_timestamp() - d, clock_timestamp() - d, 'failed', 'no luck', false "
            "FROM make_interval(days => :days) AS d",
            tenant=tenant,
            days=days,
        )

    assert delete_older_than(engine, history_days=7, record_days=7)["tenant_runs"] == 1

    (left,) = read_status(engine).tenants
    assert left.last_full_success is not None
    assert (left.last_status, left.last_error) == ("failed", "no luck")


def test_a_hold_in_force_stays(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    for released in ("NULL, NULL", "clock_timestamp() - interval '1 year', 'full run'"):
        build.run(
            "INSERT INTO leora_pipeline.tenant_hold SELECT :tenant, clock_timestamp() "
            f"- interval '2 years' + random() * interval '1 day', 'run', 11, 20, {released}",
            tenant=tenant,
        )

    assert delete_older_than(engine, history_days=30, record_days=30)["holds"] == 1
    assert len(read_status(engine).holds) == 1


def test_tickets_that_were_taken_out_without_the_hook_are_deleted_and_one_in_use_is_not(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    customer = build.customer(build.tenant())
    ticket = "INSERT INTO leora_pipeline.hook_ticket (customer_id) VALUES (:id)"
    build.run(ticket, id=customer)
    with build.engine.begin() as crm:
        crm.execute(sa.text(ticket), {"id": customer})

        assert delete_older_than(engine, history_days=1, record_days=1)["tickets"] == 1

    assert count(build, "hook_ticket") == 1
