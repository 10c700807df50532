"""The record of changes, what is refused, and what a change costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import WrongUsageError
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.policies import change as policies
from leora_pipeline.core.policies.change import read_policies
from leora_pipeline.core.policies.fields import REFUSALS, Value, parse_values
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.policies import catch_up, change, named, policy_tables, reclassifications
from leora_pipeline_tests.scenes import (
    LARGE_SCAN,
    everything,
    full,
    incremental,
    waiting,
)


def test_a_change_is_recorded_with_what_changed_alone(
    engine: sa.Engine, customers: list[UUID]
) -> None:
    begun = datetime.now(UTC)
    change(engine, active_within=90, gate_percent=12.5, target_within=365)
    change(engine, uncounted_statuses=["DRAFT"])
    change(engine, uncounted_statuses=None, gate_percent=None)

    [policy] = read_policies(engine, [named(engine)])

    assert {entry.changed_by for entry in policy.changes} == {"ann@desk as leora_runtime"}
    assert [(entry.before, entry.after) for entry in policy.changes] == [
        (
            {"uncounted_statuses": ["DRAFT"], "gate_percent": 12.5},
            {"uncounted_statuses": ["CANCELLED", "DRAFT"], "gate_percent": 20},
        ),
        ({"uncounted_statuses": ["CANCELLED", "DRAFT"]}, {"uncounted_statuses": ["DRAFT"]}),
        (
            {"active_within": 180, "gate_percent": 20},
            {"active_within": 90, "gate_percent": 12.5},
        ),
    ]
    times = [entry.changed_at for entry in policy.changes]
    assert begun - timedelta(seconds=1) < times[2] < times[1] < times[0]
    assert {n for n, v in policy.policy.items() if policy.default[n] != v} == {"active_within"}


def test_what_is_so_already_writes_nothing(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID]
) -> None:
    change(engine, active_within=90)
    incremental(engine)
    before = [*policy_tables(build), *everything(build)]

    done = change(engine, active_within=90, target_within=None, uncounted_statuses=None)

    assert (done.before, done.after, done.moves) == ({}, {}, [])
    assert [*policy_tables(build), *everything(build)] == before


def test_limits_alone_move_nobody(
    engine: sa.Engine, build: CrmBuilder, customers: list[UUID]
) -> None:
    done = change(engine, gate_percent=50, gate_customers=3, min_customers=0, high_churn_below=1.5)

    assert done.moves == []
    assert waiting(engine) == []


@pytest.mark.parametrize(
    ("values", "reported"),
    [
        ({"active_within": 365}, "active-within must be at least 1 and less than target-within"),
        ({"active_within": 0}, "active-within must be at least 1"),
        ({"target_within": 36501}, "target-within at most 36500"),
        ({"threshold_unit": "week"}, "threshold-unit takes day or month"),
        ({"healthy_active_min": 80}, "its min not above its max"),
        ({"high_churn_below": 100.5}, "high-churn-below takes a percentage from 0 to 100"),
        ({"gate_customers": -1}, "gate-customers takes a whole number, 0 or more"),
        ({"gate_percent": 1000}, "a number is too large"),
        ({"min_customers": 2**31}, "a number is too large"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_database_and_explained(
    engine: sa.Engine,
    build: CrmBuilder,
    customers: list[UUID],
    values: dict[str, Value],
    reported: str,
) -> None:
    before = policy_tables(build)

    with pytest.raises(WrongUsageError, match=reported):
        change(engine, **values)

    assert policy_tables(build) == before


def test_every_constraint_of_a_policy_has_words(build: CrmBuilder) -> None:
    constraints = build.run(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' "
        "AND conrelid = 'leora_pipeline.tenant_policy'::regclass"
    )
    # A list of statuses without one cannot be written down.
    assert {row.conname for row in constraints} - set(REFUSALS) == {"statuses_known"}
    columns = build.run("SELECT * FROM leora_pipeline.effective_policy(NULL)")[0]._fields
    assert list(columns) == ["tenant_id", *policies.SETTINGS]


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["active-within=90", "TARGET_within=1"], "no 'TARGET_within'; it has threshold-unit, "),
        (["active-within"], "'active-within' sets nothing; write NAME=VALUE"),
        (["active-within=1", "active_within=2"], "active-within is given twice"),
        (["active-within=9.5"], "active-within cannot be '9.5'; it takes a whole number"),
        (["gate-percent=12.345"], "at most two decimals"),
        (["gate-percent=NaN"], "gate-percent cannot be 'NaN'"),
        (["min-customers="], "min-customers cannot be ''"),
        (["uncounted-statuses=DRAFT,Lost"], "no status Lost; known are: DRAFT, SUBMITTED, "),
        (
            ["active-within= 90", "gate_percent=12.50", "uncounted-statuses=PICKED, DRAFT,"],
            {"active_within": 90, "gate_percent": 12.5, "uncounted_statuses": ["DRAFT", "PICKED"]},
        ),
        (["uncounted-statuses="], {"uncounted_statuses": []}),
        (["threshold-unit=month"], {"threshold_unit": "month"}),
    ],
)
def test_what_people_write_is_read_or_explained(
    engine: sa.Engine, assignments: list[str], expected: str | dict[str, Value]
) -> None:
    with transaction(engine) as connection:
        if isinstance(expected, dict):
            assert parse_values(connection, assignments) == expected
        else:
            with pytest.raises(WrongUsageError, match=expected):
                parse_values(connection, assignments)


def test_a_status_that_the_crm_adds_counts_and_can_be_named(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    build.run("ALTER TYPE \"OrderStatus\" ADD VALUE 'RETURNED'")
    customer = build.customer(tenant)
    build.order(tenant, customer, ago(days=1), "RETURNED")
    change(engine, uncounted_statuses=["DRAFT"])
    full(engine)
    assert build.type_of(customer) == "ACTIVE"

    with transaction(engine) as connection:
        values = parse_values(connection, ["uncounted-statuses=DRAFT,RETURNED"])
    change(engine, **values)

    catch_up(engine, build)
    assert build.type_of(customer) == "PROSPECT"


def test_nothing_stays_of_customers_and_tenants_that_are_deleted(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customers: list[UUID]
) -> None:
    other = build.customer(build.tenant("market"), orders=(ago(days=100),))
    full(engine)
    for slug in ("cellar", "market"):
        change(engine, slug, active_within=30)
    assert reclassifications(build) == 3
    build.run('DELETE FROM "Customer" WHERE id = :id', id=customers[2])
    build.run("DELETE FROM \"Tenant\" WHERE slug = 'market'")
    build.run("DELETE FROM leora_pipeline.pending_customer")  # As where no trigger notes it.

    full(engine)

    assert build.run('SELECT FROM "Customer" WHERE id = :id', id=other) == []
    assert reclassifications(build) == 0


@pytest.mark.parametrize(("active", "target"), [(260, 520), (60, 300)])
def test_whom_changed_thresholds_move_is_found_by_index_ranges(
    large: sa.Engine, build: CrmBuilder, active: int, target: int
) -> None:
    slug = build.run('SELECT slug FROM "Tenant" ORDER BY slug')[0].slug
    tenant = named(large, slug)
    done = change(large, slug, active_within=active, target_within=target)
    moved = sum(move.count for move in done.moves)
    assert moved > 100
    with transaction(large) as connection:
        parameters = {"tenant_ids": [tenant.tenant_id], "as_of": now(connection)}
        lines = list(
            connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "
                f"{statements('leora_pipeline.core.run.refresh').for_driver('changed_customers')}",
                parameters,
            ).scalars()
        )

    reported = "\n".join(lines)
    print(reported)
    assert [line for line in lines if LARGE_SCAN.search(line)] == [], reported
    ranges = [line for line in lines if "Index Cond" in line and "last_order_at" in line]
    assert len(ranges) == 4, reported
    assert sum("customer_state_by_date" in line for line in lines) == 4, reported
    incremental(large)
    assert {
        row.cause: row.n
        for row in build.run(
            "SELECT cause, count(*) AS n FROM leora_pipeline.account_type_transition "
            "WHERE cause = 'policy' GROUP BY 1"
        )
    } == {"policy": moved}
    assert waiting(large) == []
