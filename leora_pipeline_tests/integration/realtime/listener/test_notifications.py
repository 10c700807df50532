"""Listeners that PostgreSQL notifies."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline.core.realtime import listener as listen
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.listening import DEADLINE, eventually, listener_names, listening


def test_a_notified_listener_is_woken_by_a_change(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "NOTIFIED_POLL_SECONDS", 3600.0)
    monkeypatch.setattr(listen, "ACTIONABLE_SECONDS", 3600.0)
    customers = [build.customer(tenant) for _ in range(3)]
    with listening(engine, is_notified=True, poll_seconds=3600.0):
        eventually(lambda: {build.type_of(customer) for customer in customers} == {"PROSPECT"})
        for customer in customers:
            build.order(tenant, customer, ago(days=1))
            eventually(lambda customer=customer: build.type_of(customer) == "ACTIVE")


def notifications_of(
    build: CrmBuilder, pipeline_url: str, happens: Callable[[], object]
) -> list[str]:
    """Returns the payloads of what is notified while something happens, and of an end mark."""
    with psycopg.connect(pipeline_url, autocommit=True) as ear:
        ear.execute("LISTEN leora_pipeline_pending")
        happens()
        build.run("NOTIFY leora_pipeline_pending, 'end'")
        heard = []
        for notification in ear.notifies(timeout=DEADLINE):
            heard.append(notification.payload)
            if notification.payload == "end":
                break
        return heard


def test_nobody_is_notified_where_no_listener_asked_for_it(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, pipeline_url: str
) -> None:
    with listening(engine):
        eventually(lambda: listener_names(build), "it says that it runs, and asks for nothing")

        def change() -> None:
            customer = build.customer(tenant, orders=(ago(days=1),))
            eventually(lambda: build.type_of(customer) == "ACTIVE")

        assert notifications_of(build, pipeline_url, change) == ["end"]


def test_a_listener_that_died_is_notified_no_more(
    build: CrmBuilder, tenant: UUID, pipeline_url: str
) -> None:
    customer = build.customer(tenant)
    build.run(
        "INSERT INTO leora_pipeline.listener "
        "VALUES ('died', clock_timestamp(), clock_timestamp(), true)"
    )

    def change() -> None:
        build.order(tenant, customer, ago(days=1))

    assert notifications_of(build, pipeline_url, change) == ["", "end"]
    build.run(
        "UPDATE leora_pipeline.listener SET seen_at = clock_timestamp() - interval '31 seconds'"
    )
    assert notifications_of(build, pipeline_url, change) == ["end"]
