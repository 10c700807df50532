"""A run beside transactions of the CRM: neither waits for the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    TenantsFailedError,
    update_account_types,
    update_customer_account_type,
)
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.customers.write_back import apply_customers, lock_customers
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.run import refresh as refresh_step
from leora_pipeline.core.run.refresh import refresh
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.interleaving import DEADLINE, failed_run, state
from leora_pipeline_tests.scenes import (
    WAITS_FOR_LOCK,
    insert_order,
    settle,
)


def test_a_run_does_not_wait_for_a_customer_that_the_crm_holds(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    held, free = (build.customer(tenant, orders=(ago(days=1),)) for _ in range(2))

    with transaction(build.engine) as crm:
        crm.execute(sa.text('UPDATE "Customer" SET name = name WHERE id = :id'), {"id": held})
        update_account_types(engine=engine)
        assert (build.type_of(held), build.type_of(free)) == (None, "ACTIVE")
        assert state(build, held).needs_sync
        assert not update_customer_account_type(held, engine=engine).is_changed

    settle(engine, build)
    assert build.type_of(held) == "ACTIVE"
    assert [entry[:2] for entry in build.log(held)] == [(None, "ACTIVE")]


@pytest.mark.parametrize(
    ("by_hand", "afterwards", "log"),
    [
        ("HOLD", "HOLD", []),
        ("ACTIVE", "ACTIVE", []),
        ("TARGET", "ACTIVE", [("TARGET", "ACTIVE", "by hand")]),
    ],
)
def test_what_the_crm_sets_while_it_holds_a_customer_is_what_the_next_run_finds(
    engine: sa.Engine, build: CrmBuilder, by_hand: str, afterwards: str, log: list[object]
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=1),))

    with transaction(build.engine) as crm:
        crm.execute(
            sa.text('UPDATE "Customer" SET "accountType" = CAST(:type AS "AccountType")'),
            {"type": by_hand},
        )
        update_account_types(engine=engine)
    assert build.type_of(customer) == by_hand

    settle(engine, build)
    assert build.type_of(customer) == afterwards
    assert build.log(customer) == log


def test_an_order_in_the_making_holds_up_no_run(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=200),))
    ordered = ago(days=1)

    with transaction(build.engine) as crm:
        insert_order(crm, tenant, customer, ordered)
        update_account_types(engine=engine)
        assert build.type_of(customer) == "TARGET", "reported despite the foreign key's lock"

    settle(engine, build)
    assert build.read(customer)[:2] == ("ACTIVE", ordered)


def test_a_run_holds_up_no_order(engine: sa.Engine, build: CrmBuilder) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=200),))
    run = resolve_run(engine)
    refresh(engine, run)

    with transaction(engine) as pipeline:
        locked = lock_customers(pipeline, tenant)
        assert apply_customers(pipeline, run.writer, tenant, locked).moved == 1
        with transaction(build.engine) as crm:
            crm.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            insert_order(crm, tenant, customer, ago(days=1))

    settle(engine, build)
    assert build.type_of(customer) == "ACTIVE"


def test_a_migration_of_the_crm_in_the_middle_of_a_run_does_not_hang_both(
    engine: sa.Engine,
    build: CrmBuilder,
    background: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # ALTER TABLE waits for whoever reads the orders, and whoever wants to read them next queues
    # behind it. Would the run keep its read of candidates open while it refreshes them on another
    # connection, neither could ever get on, and nor could the CRM.
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=1),))
    migrations: list[Future[None]] = []

    def alter() -> None:
        with transaction(build.engine) as crm:
            crm.exec_driver_sql("SET LOCAL statement_timeout = 0")
            crm.exec_driver_sql('ALTER TABLE "Order" ADD COLUMN "note" text')

    def alter_first(*args: Any, **options: Any) -> list[UUID]:
        if not migrations:
            migrations.append(background.submit(alter))
            give_up = monotonic() + DEADLINE
            while not migrations[0].done() and not build.run(WAITS_FOR_LOCK):
                assert monotonic() < give_up
        return refresh_customers(*args, **options)

    monkeypatch.setattr(refresh_step, "refresh_customers", alter_first)
    build.run(f"ALTER DATABASE {engine.url.database} SET statement_timeout = '5s'")
    engine.dispose()
    run = resolve_run(engine)
    with suppress(TenantsFailedError):  # It may give up on a tenant, rather than wait.
        run_all_steps(engine, run)
    migrations[0].result(DEADLINE)

    ((_, error),) = failed_run(build, run)
    assert "statement timeout" not in (error or ""), "they would have waited for ever"
    settle(engine, build)
    assert build.type_of(customer) == "ACTIVE"
