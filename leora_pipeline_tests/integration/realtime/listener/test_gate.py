"""The gate, and row level security: a listener demotes nobody for orders that are gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.policies.change import change_policy
from leora_pipeline.core.realtime.batch import take_actionable, take_pending
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import (
    DO_LISTEN,
    assert_settled,
    at_rest,
    drain,
    eventually,
    listening,
    quarantined,
    tries,
)
from leora_pipeline_tests.scenes import (
    add_customers,
    bring_orders_back,
    counts,
    holds,
    is_held,
    lose_orders,
)


def demoted(build: CrmBuilder, tenant: UUID) -> int:
    """Returns how many demotions by order loss were written to the CRM."""
    return int(
        build.run(
            "SELECT count(*) AS n FROM leora_pipeline.account_type_transition "
            "WHERE tenant_id = :tenant AND cause = 'order removed'",
            tenant=tenant,
        )[0].n
    )


MANY = 65


AT_MOST = MANY // 5
"""What the gate guarantees on every path: never more than 20 % (and more than 10) within a day."""


@pytest.mark.parametrize("listeners", [1, 2])
@pytest.mark.parametrize("how", ["one statement", "many transactions"])
def test_a_tenant_whose_orders_vanish_under_a_listener_is_held_until_a_full_run_sees_them_back(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    small_batches: int,
    listeners: int,
    how: str,
) -> None:
    customers = add_customers(build, tenant, MANY - 1, ordered=ago(days=10))
    riser = build.customer(tenant, "PROSPECT")
    lost = customers[5:]
    update_account_types(engine=engine)
    with listening(engine), (listening if listeners == 2 else no_listening)(engine):
        if how == "one statement":
            lose_orders(build, lost)
        else:
            for customer in lost:
                lose_orders(build, [customer])
        eventually(lambda: is_held(build, tenant))
        eventually(lambda: at_rest(engine, build))
        assert demoted(build, tenant) <= AT_MOST
        assert counts(build, tenant)["ACTIVE"] >= len(customers) - AT_MOST

        build.order(tenant, riser, ago(days=1))
        eventually(lambda: build.type_of(riser) == "ACTIVE", "upward moves go on")

        bring_orders_back(build, lost)
        eventually(lambda: counts(build, tenant) == {"ACTIVE": MANY})
        eventually(lambda: at_rest(engine, build))
        assert is_held(build, tenant), "only a full run has seen all of a tenant"
        update_account_types(engine=engine)

    assert [hold.released_by for hold in holds(build, tenant)] == ["full run"]
    assert_settled(engine, build)


@contextmanager
def no_listening(engine: sa.Engine) -> Iterator[None]:
    """Runs no listener."""
    yield


@pytest.mark.parametrize("count", [40, 43])
def test_orders_that_vanish_in_one_statement_demote_nobody(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int, count: int
) -> None:
    customers = add_customers(build, tenant, count, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers)

    drain(engine, tenant)
    take_actionable(engine, DO_LISTEN, tenant)

    assert demoted(build, tenant) == 0
    assert counts(build, tenant) == {"ACTIVE": count}
    assert [tuple(hold) for hold in holds(build, tenant)] == [(count, count, None)]
    assert_settled(engine, build)


def test_a_look_at_who_is_still_unsynced_amid_a_long_queue_does_not_hide_it_from_the_gate(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    customers = add_customers(build, tenant, 43, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers)

    last = take_pending(engine, DO_LISTEN, tenant).last
    take_actionable(engine, DO_LISTEN, tenant)
    assert last is not None
    while (batch := take_pending(engine, DO_LISTEN, tenant, after=last)).last is not None:
        last = batch.last
        take_actionable(engine, DO_LISTEN, tenant)

    assert is_held(build, tenant)
    assert demoted(build, tenant) == 0


def test_what_another_listener_has_claimed_belongs_to_the_queue(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    # The end of the queue is no end while somebody else has the rest of it in hand.
    customers = add_customers(build, tenant, 4 * small_batches, ordered=ago(days=10))
    update_account_types(engine=engine)
    with transaction(engine) as connection:
        [of_policy] = find_tenants(connection)
    change_policy(engine, of_policy, {"gate_customers": small_batches}, changed_by="test")
    lose_orders(build, customers[: 2 * small_batches - 1])

    with transaction(build.engine) as other:
        claimed = other.execute(
            statements("leora_pipeline.core.realtime.batch").claim_pending,
            {"tenant_id": tenant, "after": 0, "batch": small_batches},
        ).all()
        assert len(claimed) == small_batches
        take_pending(engine, DO_LISTEN, tenant)
        assert demoted(build, tenant) == 0
    drain(engine, tenant)
    take_actionable(engine, DO_LISTEN, tenant)

    assert is_held(build, tenant)
    assert demoted(build, tenant) == 0


def test_few_order_losses_amid_a_long_queue_are_reported_at_its_end(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, small_batches: int
) -> None:
    customers = add_customers(build, tenant, 4 * small_batches, ordered=ago(days=10))
    update_account_types(engine=engine)
    lose_orders(build, customers[:3])
    for customer in customers:
        build.order(tenant, customer, ago(days=300))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        assert_settled(engine, build)

    assert [build.type_of(customer) for customer in customers[:3]] == ["TARGET"] * 3
    assert not is_held(build, tenant)


@pytest.mark.parametrize("table", ["Order", "Customer"])
def test_row_level_security_switched_on_under_a_listener_demotes_nobody(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    connect_as: Callable[[], sa.Engine],
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
    table: str,
) -> None:
    role = connect_as()
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(3)]
    with listening(role):
        eventually(lambda: {build.type_of(customer) for customer in customers} == {"ACTIVE"})
        eventually(lambda: at_rest(engine, build))
        for change in ("ENABLE", "FORCE"):
            build.run(f'ALTER TABLE "{table}" {change} ROW LEVEL SECURITY')
        build.run(
            f'CREATE POLICY own ON "{table}" '
            "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
        )
        for customer in customers:
            build.order(tenant, customer, ago(days=1))
        eventually(lambda: len(tries(caplog)) >= 3)
        reported = [record.getMessage() for record in caplog.records]
        assert len(reported) == len(tries(caplog)), "a line for each try"
        assert all(re.search(f'row.level security.*"{table}"', line) for line in reported), reported
        assert not any("\n" in line for line in reported)
        assert {build.type_of(customer) for customer in customers} == {"ACTIVE"}
        assert quarantined(build) == {}
        build.run(f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY')

        eventually(lambda: at_rest(engine, build))
        assert_settled(engine, build)

    assert len(build.log()) == len(customers), "the types were set once, and never again"
