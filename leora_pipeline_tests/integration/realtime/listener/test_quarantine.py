"""Customers that the CRM's database refuses to have written."""

from __future__ import annotations

from uuid import UUID

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.realtime.batch import take_actionable
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import (
    DO_LISTEN,
    allow,
    assert_settled,
    drain,
    eventually,
    listening,
    pass_time,
    quarantined,
    refuse,
)
from leora_pipeline_tests.scenes import (
    waiting,
)


def end_pauses(build: CrmBuilder) -> None:
    build.run(
        "UPDATE leora_pipeline.customer_state SET retry_at = clock_timestamp() "
        "WHERE retry_at IS NOT NULL"
    )


@pytest.mark.parametrize("how", ["trigger", "check constraint"])
def test_a_customer_whom_the_crm_refuses_is_quarantined_and_the_others_are_done(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(9)]
    bad = [customers[2], customers[6]]
    if how == "trigger":
        refuse(build, bad)
    else:
        build.run("UPDATE \"Customer\" SET name = 'bad' WHERE id = ANY (:ids)", ids=bad)
        build.run(
            'ALTER TABLE "Customer" ADD CONSTRAINT credit CHECK '
            "(name <> 'bad' OR \"accountType\" IS NOT DISTINCT FROM 'HOLD') NOT VALID"
        )
    with listening(engine):
        eventually(lambda: len(quarantined(build)) == 2)
        eventually(lambda: not build.pending())

    found = quarantined(build)
    assert set(found) == set(bad)
    for row in found.values():
        assert ("on credit hold" if how == "trigger" else "credit") in row.error
        assert (row.failures, row.first_pause) == (1, 10)
    for customer in customers:
        refused_ = customer in bad
        assert build.type_of(customer) == (None if refused_ else "ACTIVE")
        assert build.log(customer) == ([] if refused_ else [(None, "ACTIVE", "order")])
    reported = [record.getMessage() for record in caplog.records if "quarantined" in record.message]
    assert len(reported) == 2
    assert all(str(customer) in "".join(reported) for customer in bad)


def test_a_customer_quarantined_is_tried_again_after_pauses_that_grow_to_an_hour(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=2),))
    refuse(build, [customer])
    drain(engine, tenant)
    assert build.pending() == set(), "nobody else is to try it meanwhile"
    since = quarantined(build)[customer].quarantined_at
    pauses = [quarantined(build)[customer].pause]
    for _ in range(11):
        assert take_actionable(engine, DO_LISTEN, tenant).customers == 0, "not in the pause"
        end_pauses(build)
        take_actionable(engine, DO_LISTEN, tenant)
        pauses.append(quarantined(build)[customer].pause)

    expected = [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]
    assert all(abs(one - other) <= 2 for one, other in zip(pauses, expected, strict=True)), pauses
    assert quarantined(build)[customer].failures == 12
    assert quarantined(build)[customer].quarantined_at == since


def test_a_customer_quarantined_is_done_once_the_crm_takes_it(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=2),))
    refuse(build, [customer])
    with listening(engine):
        eventually(lambda: customer in quarantined(build))
        allow(build)
        end_pauses(build)

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        eventually(lambda: not quarantined(build))
        assert_settled(engine, build)

    assert build.log(customer) == [(None, "ACTIVE", "order")]


def test_changes_of_a_customer_in_its_pause_wait_for_its_end(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer, other = (build.customer(tenant, orders=(ago(days=200),)) for _ in range(2))
    refuse(build, [customer])
    with listening(engine):
        eventually(lambda: customer in quarantined(build))
        for each in (customer, other):
            build.order(tenant, each, ago(days=1))
        eventually(lambda: build.type_of(other) == "ACTIVE")
        eventually(lambda: not build.pending(), "nor does it stay in the queue")
        assert quarantined(build)[customer].failures == 1
        allow(build)
        end_pauses(build)

        eventually(lambda: build.type_of(customer) == "ACTIVE")
        assert_settled(engine, build)


@pytest.mark.parametrize("leaves", ["deleted", "moved", "held by a person"])
def test_a_customer_who_needs_no_more_sync_stays_quarantined_no_longer(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, leaves: str
) -> None:
    other = build.tenant("market")
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=2),))
    refuse(build, [customer])
    drain(engine, tenant)
    assert set(quarantined(build)) == {customer}
    allow(build)
    if leaves == "deleted":
        build.run('DELETE FROM "Customer" WHERE id = :id', id=customer)
    elif leaves == "moved":
        build.run('UPDATE "Customer" SET "tenantId" = :t WHERE id = :id', t=other, id=customer)
    else:
        build.run(
            'UPDATE "Customer" SET "accountType" = \'HOLD\', "lastOrderDate" = '
            '(SELECT max("orderedAt") FROM "Order") WHERE id = :id',
            id=customer,
        )
    with listening(engine):
        end_pauses(build)
        eventually(lambda: not quarantined(build))
        assert_settled(engine, build)


def test_a_full_run_passes_over_a_customer_in_its_pause_and_succeeds(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=2),)) for _ in range(3)]
    refuse(build, customers[:1])
    drain(engine, tenant)
    for customer in customers:
        build.set_type(customer, "TARGET") if customer != customers[0] else None
        build.order(tenant, customer, ago(days=1))

    update_account_types(engine=engine)

    assert [build.type_of(customer) for customer in customers] == [None, "ACTIVE", "ACTIVE"]
    assert set(quarantined(build)) == {customers[0]}
    assert build.run("SELECT status, error FROM leora_pipeline.tenant_run") == [("succeeded", None)]
    assert waiting(engine) == [], "nor is it a reason to launch a run"


def test_a_customer_in_its_pause_is_no_reason_to_launch_a_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=175),))
    update_account_types(engine=engine)
    refuse(build, [customer])
    pass_time(build, 10)
    take_actionable(engine, DO_LISTEN, tenant)
    assert set(quarantined(build)) == {customer}

    assert waiting(engine) == []
    end_pauses(build)
    assert waiting(engine) == [tenant]
