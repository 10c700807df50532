"""The hook on the caller's own connection."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    HookResult,
    update_account_types,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.hooks import assert_at_rest, assert_left, hook, ordered_again
from leora_pipeline_tests.scenes import (
    everything,
    incremental,
    insert_order,
)


def test_an_order_that_is_not_yet_committed_counts_on_the_callers_connection(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    ordered = ago(days=1)

    with transaction(build.engine) as crm:
        insert_order(crm, tenant, customer, ordered)
        assert hook(customer, engine=engine) == HookResult(unchanged=1), "from elsewhere: unseen"
        assert hook(customer, connection=crm) == HookResult(updated=1)
        assert build.type_of(customer) == "TARGET", "until it commits"

    assert build.read(customer)[:2] == ("ACTIVE", ordered)
    assert build.pending() == set()
    assert_at_rest(engine, build)


def test_what_the_hook_did_is_rolled_back_with_the_callers_transaction(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    before = everything(build)

    with build.engine.connect() as crm:
        insert_order(crm, tenant, customer, ago(days=1))
        assert hook(customer, connection=crm) == HookResult(updated=1)
        crm.rollback()

    assert everything(build) == before
    assert_at_rest(engine, build)


def test_a_customer_without_a_state_is_deferred_on_the_callers_connection_and_taken_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    with transaction(build.engine) as crm:
        customer = uuid4()
        crm.execute(
            sa.text(
                'INSERT INTO "Customer" (id, "tenantId", name, "updatedAt") '
                "VALUES (:id, :tenant, 'Shop', now())"
            ),
            {"id": customer, "tenant": tenant},
        )
        insert_order(crm, tenant, customer, ago(days=1))
        assert hook(customer, connection=crm) == HookResult(deferred=1)
        # Nor does it keep anybody who meets the customer's tenant waiting.
        incremental(engine)

    assert build.type_of(customer) is None
    incremental(engine)
    assert build.type_of(customer) == "ACTIVE"
    assert_at_rest(engine, build)


def test_a_hook_that_fails_does_nothing_to_the_callers_transaction(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    (customer,) = ordered_again(build, tenant)
    build.run("DROP FUNCTION leora_pipeline.after_order_create")
    ordered = ago(hours=1)

    with transaction(build.engine) as crm:
        insert_order(crm, tenant, customer, ordered)
        result = hook(customer, connection=crm)
        crm.execute(sa.text("UPDATE \"Customer\" SET name = 'Renamed'"))

    assert (result.deferred, result.error is not None) == (1, True)
    assert build.run('SELECT name FROM "Customer"') == [("Renamed",)]
    assert build.run('SELECT max("orderedAt") FROM "Order"') == [(stored(ordered),)]
    incremental(engine)
    assert_at_rest(engine, build)


def test_a_transaction_that_has_failed_before_stays_the_callers_to_roll_back(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, reported: Callable[[], str]
) -> None:
    (customer,) = ordered_again(build, tenant)

    with build.engine.connect() as crm:
        with pytest.raises(sa.exc.DataError):
            crm.exec_driver_sql("SELECT 1 / 0")
        assert_left(hook(customer, connection=crm), "current transaction is aborted", reported)
        with pytest.raises(sa.exc.InternalError, match="current transaction is aborted"):
            crm.exec_driver_sql("SELECT 1")
        crm.rollback()
        assert hook(customer, connection=crm) == HookResult(updated=1)
        crm.commit()

    assert_at_rest(engine, build)


def test_a_connection_that_is_closed_is_logged(
    build: CrmBuilder, reported: Callable[[], str]
) -> None:
    with build.engine.connect() as crm:
        pass

    assert_left(hook(uuid4(), connection=crm), "closed", reported)
