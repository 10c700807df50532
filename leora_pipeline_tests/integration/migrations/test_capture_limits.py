"""Capture under the CRM's own time limit: a locked pending table does not end its statement.

The triggers wait for the pending table no longer than their lock timeout. This is about how that
goes together with the ``statement_timeout`` of the CRM's session, which counts their time too.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.crm_builder import CrmBuilder, ago

INSERT_ORDER = (
    'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
    "VALUES (gen_random_uuid(), %s, %s, 'FULFILLED', now(), now())"
)


@pytest.fixture
def customer(build: CrmBuilder, tenant: UUID) -> UUID:
    return build.customer(tenant, orders=(ago(days=3),))


@pytest.fixture
def session(pipeline_url: str) -> Iterator[psycopg.Connection]:
    """A session of the CRM's."""
    with psycopg.connect(pipeline_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
def warnings(session: psycopg.Connection) -> list[str | None]:
    """The warnings that the session gets beside its results."""
    reported: list[str | None] = []
    session.add_notice_handler(lambda notice: reported.append(notice.message_primary))
    return reported


@pytest.fixture
def _pending_is_locked(build: CrmBuilder, customer: UUID) -> Iterator[None]:
    """Somebody holds the pending table for as long as the test lasts."""
    assert customer
    with transaction(build.engine) as somebody:
        somebody.exec_driver_sql(
            "LOCK TABLE leora_pipeline.pending_customer IN ACCESS EXCLUSIVE MODE"
        )
        yield


def orders(build: CrmBuilder, customer: UUID) -> int:
    """Returns how many orders a customer has."""
    return len(build.run('SELECT FROM "Order" WHERE "customerId" = :id', id=customer))


LEFT = "leora_pipeline: inserted orders are left to the nightly run: "


@pytest.mark.usefixtures("_pending_is_locked")
def test_a_statement_limited_to_longer_than_the_triggers_wait_goes_through_with_a_warning(
    build: CrmBuilder,
    session: psycopg.Connection,
    warnings: list[str | None],
    tenant: UUID,
    customer: UUID,
) -> None:
    session.execute("SET statement_timeout = '500ms'")

    session.execute(INSERT_ORDER, [tenant, customer])

    assert orders(build, customer) == 2
    assert [str(reported).startswith(LEFT) for reported in warnings] == [True]


@pytest.mark.usefixtures("_pending_is_locked")
def test_a_statement_limited_to_less_than_the_triggers_wait_goes_through_with_a_warning(
    build: CrmBuilder,
    session: psycopg.Connection,
    warnings: list[str | None],
    tenant: UUID,
    customer: UUID,
) -> None:
    # As 20 ms are to 50, at a scale at which no machine is too slow for the rest of the statement.
    build.run("ALTER FUNCTION leora_pipeline.capture_orders SET lock_timeout = '5s'")
    session.execute("SET statement_timeout = '2s'")

    session.execute(INSERT_ORDER, [tenant, customer])

    assert orders(build, customer) == 2
    assert [str(reported).startswith(LEFT) for reported in warnings] == [True]
