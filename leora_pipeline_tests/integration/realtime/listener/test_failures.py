"""Failures that are no customer's own: a tenant, a privilege, a table."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import (
    allow,
    assert_settled,
    at_rest,
    eventually,
    listening,
    quarantined,
    refuse,
    tries,
)


def test_a_tenant_that_fails_as_a_whole_is_left_alone_and_goes_on_when_repaired(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = build.tenant("market")
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(3)]
    refuse(build, customers, sqlstate="42501")
    with listening(engine):
        eventually(lambda: len(tries(caplog)) >= 4)
        for _ in range(3):
            free = build.customer(other, orders=(ago(days=2),))
            eventually(lambda free=free: build.type_of(free) == "ACTIVE")
        assert {build.type_of(customer) for customer in customers} == {None}
        assert quarantined(build) == {}
        allow(build)

        eventually(lambda: {build.type_of(customer) for customer in customers} == {"ACTIVE"})
        assert_settled(engine, build)

    assert tries(caplog)[:4] == [0.1, 0.2, 0.4, 0.4]
    assert all(str(tenant) in record.getMessage() for record in caplog.records)


def test_a_tenant_that_was_repaired_begins_with_short_pauses_again(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    refuse(build, [customer], sqlstate="42501")
    with listening(engine):
        eventually(lambda: len(tries(caplog)) >= 3)
        allow(build)
        eventually(lambda: build.type_of(customer) == "TARGET")
        eventually(lambda: at_rest(engine, build))
        caplog.clear()
        refuse(build, [customer], sqlstate="42501")
        build.order(tenant, customer, ago(days=1))

        eventually(lambda: tries(caplog))

    assert tries(caplog)[0] == 0.1


def test_a_privilege_that_is_revoked_quarantines_nobody(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    connect_as: Callable[[], sa.Engine],
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    role = connect_as()
    customers = [build.customer(tenant, "TARGET", orders=(ago(days=200),)) for _ in range(3)]
    with listening(role):
        eventually(lambda: at_rest(engine, build))
        build.run(f'REVOKE UPDATE ("accountType") ON "Customer" FROM {role.url.username}')
        for customer in customers:
            build.order(tenant, customer, ago(days=1))
        eventually(lambda: len(tries(caplog)) >= 3)
        assert {build.type_of(customer) for customer in customers} == {"TARGET"}
        assert quarantined(build) == {}
        build.run(f'GRANT UPDATE ("accountType") ON "Customer" TO {role.url.username}')

        eventually(lambda: {build.type_of(customer) for customer in customers} == {"ACTIVE"})
        assert_settled(engine, build)


def test_a_table_that_is_missing_for_a_while_quarantines_nobody(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    customer = build.customer(tenant, "TARGET", orders=(ago(days=200),))
    with listening(engine):
        eventually(lambda: at_rest(engine, build))
        build.run('ALTER TABLE "Order" RENAME TO "Orders"')
        build.run('UPDATE "Orders" SET "orderedAt" = "orderedAt" + interval \'199 days\'')
        eventually(lambda: len(tries(caplog)) >= 3)
        assert quarantined(build) == {}
        assert build.pending() == {customer}
        build.run('ALTER TABLE "Orders" RENAME TO "Order"')

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)


def test_pauses_grow_while_the_pipelines_own_tables_are_out_of_reach_too(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    connect_as: Callable[[], sa.Engine],
    short_pauses: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    role = connect_as()
    customer = build.customer(tenant, orders=(ago(days=2),))
    table = "leora_pipeline.listener"
    with listening(role):
        eventually(lambda: build.type_of(customer) == "ACTIVE")
        build.run(f"REVOKE INSERT ON {table} FROM {role.url.username}")
        # So that it has to open its own connection again, and say that it runs.
        build.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'listener' AND datname = current_database()"
        )
        eventually(lambda: len(tries(caplog)) >= 4)
        build.run(f"GRANT INSERT ON {table} TO {role.url.username}")
        build.order(tenant, build.customer(tenant), ago(days=1))

        eventually(lambda: at_rest(engine, build))

    assert max(tries(caplog)) == 0.4, "not 0.1 s for ever"
