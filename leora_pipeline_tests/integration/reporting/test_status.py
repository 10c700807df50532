"""Status: what is wrong is said, each thing in a line, and nothing where nothing is."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.reporting.problems import find_problems
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline_tests.crm_builder import CrmBuilder, ago


@pytest.fixture
def healthy(engine: sa.Engine, build: CrmBuilder) -> CrmBuilder:
    """A CRM of one tenant right after its nightly run."""
    build.customer(build.tenant("cellar"), orders=(ago(days=1),))
    update_account_types(engine=engine)
    assert find_problems(read_status(engine)) == []
    return build


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "status = 'failed', error = 'it broke'",
            "the last full run failed: it broke",
        ),
        (
            "status = 'running', finished_at = NULL, started_at = now() - interval '3 hours'",
            "the last full run never ended",
        ),
        (
            "finished_at = now() - interval '49 hours'",
            "no full run has succeeded for 48 hours",
        ),
    ],
)
def test_a_night_that_went_wrong_is_named(
    engine: sa.Engine, healthy: CrmBuilder, change: str, problem: str
) -> None:
    healthy.run('UPDATE "Tenant" SET "createdAt" = now()')
    healthy.run(f"UPDATE leora_pipeline.tenant_run SET {change}")
    (line,) = find_problems(read_status(engine))
    assert str(line).startswith(f"cellar: {problem}")


def test_a_run_that_is_at_work_is_no_problem(engine: sa.Engine, healthy: CrmBuilder) -> None:
    healthy.run(
        "INSERT INTO leora_pipeline.tenant_run SELECT tenant_id, 'another', mode, now(), NULL, "
        "'running', NULL, false FROM leora_pipeline.tenant_run"
    )
    assert find_problems(read_status(engine)) == []


def test_a_partial_run_does_not_hide_that_the_full_one_failed(
    engine: sa.Engine, healthy: CrmBuilder
) -> None:
    healthy.run("UPDATE leora_pipeline.tenant_run SET status = 'failed', error = 'it broke'")
    healthy.run(
        "INSERT INTO leora_pipeline.tenant_run SELECT tenant_id, 'another', 'partial', now(), "
        "now(), 'succeeded', NULL, false FROM leora_pipeline.tenant_run"
    )
    assert len(find_problems(read_status(engine))) == 1


def test_an_open_transaction_is_shown_with_its_age(engine: sa.Engine, healthy: CrmBuilder) -> None:
    with engine.connect() as connection, connection.begin():
        connection.execute(sa.text('SELECT count(*) FROM "Customer"'))
        age = read_status(engine).oldest_transaction_seconds
    assert age is not None
    assert age > 0


def test_customers_quarantined_are_a_problem_until_they_could_be_written(
    engine: sa.Engine, healthy: CrmBuilder
) -> None:
    (customer,) = (row.id for row in healthy.run('SELECT id FROM "Customer"'))
    healthy.run(
        "UPDATE leora_pipeline.customer_state SET error = 'no, never', failures = 1, "
        "quarantined_at = now(), retry_at = now() + interval '1 h'"
    )

    (line,) = find_problems(read_status(engine))
    assert line.kind == "customers_quarantined"
    assert "1 customers are quarantined, since the CRM's database refuses" in str(line)
    assert f"of customer {customer} it says: no, never" in str(line)

    healthy.run(
        "UPDATE leora_pipeline.customer_state "
        "SET error = NULL, failures = 0, quarantined_at = NULL, retry_at = NULL"
    )
    assert find_problems(read_status(engine)) == []


def test_the_listeners_that_run_are_shown_and_not_those_that_were_killed(
    engine: sa.Engine, healthy: CrmBuilder
) -> None:
    for name, seen in (("alive", 4), ("killed", 40)):
        healthy.run(
            "INSERT INTO leora_pipeline.listener "
            "SELECT :name, now(), now() - make_interval(secs => :seen), false",
            name=name,
            seen=seen,
        )

    assert [one.listener_id for one in read_status(engine).listeners] == ["alive"]
