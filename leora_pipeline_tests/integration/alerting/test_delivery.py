"""Delivery: each message to each address, once, in order, in spite of failures and crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from apprise.plugins.custom_json import NotifyJSON
from psutil import Process

from leora_pipeline.core.alerting import sending
from leora_pipeline.core.alerting.channels import Message, fingerprint, send
from leora_pipeline.core.alerting.delivery import Delivery, deliver_messages
from leora_pipeline.core.alerting.incidents import sync_incidents
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.processes import BIN, environment
from leora_pipeline_tests.receivers import Webhook, bad_receiver, webhook


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """A webhook."""
    with webhook() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Webhook]:
    """Another webhook."""
    with webhook() as running:
        yield running


class Cellar:
    """A tenant whose customers do not drain, or do, as a test has it."""

    def __init__(self, build: CrmBuilder) -> None:
        self.build = build
        self.tenant: UUID = build.tenant("cellar")
        build.customer(self.tenant)
        build.run("DELETE FROM leora_pipeline.pending_customer")

    def goes_wrong(self) -> None:
        """Opens an incident."""
        self.build.run(
            "INSERT INTO leora_pipeline.pending_customer (tenant_id, customer_id, captured_at) "
            "VALUES (:tenant, gen_random_uuid(), now() - interval '1 hour')",
            tenant=self.tenant,
        )
        assert sync_incidents(self.build.engine).opened == 1

    def recovers(self) -> None:
        """Resolves it."""
        self.build.run("DELETE FROM leora_pipeline.pending_customer")
        assert sync_incidents(self.build.engine).resolved == 1

    def passes(self, hours: float) -> None:
        """Lets time pass for all messages and incidents."""
        shift = {"by": f"{hours} hours"}
        self.build.run(
            "UPDATE leora_pipeline.alert_message SET created_at = created_at - CAST(:by AS "
            "interval), retry_at = retry_at - CAST(:by AS interval)",
            **shift,
        )
        self.build.run(
            "UPDATE leora_pipeline.incident SET opened_at = opened_at - CAST(:by AS interval), "
            "resolved_at = resolved_at - CAST(:by AS interval)",
            **shift,
        )

    def messages(self) -> list[Any]:
        """Returns the outbox, oldest first."""
        return self.build.run(
            "SELECT *, extract(epoch FROM retry_at - clock_timestamp()) AS pause "
            "FROM leora_pipeline.alert_message ORDER BY message_id"
        )


@pytest.fixture
def cellar(build: CrmBuilder) -> Cellar:
    """A tenant with which nothing is wrong."""
    return Cellar(build)


OPENED = "[Leora] cellar: pending customers not draining"
RESOLVED = f"{OPENED} (resolved)"


def test_a_message_is_delivered_once_and_then_marked(
    engine: sa.Engine, cellar: Cellar, hook: Webhook
) -> None:
    cellar.goes_wrong()
    assert deliver_messages(engine, [hook.url]) == Delivery(1, 0, 0, ())
    for _ in range(3):
        assert deliver_messages(engine, [hook.url], at_once=True) == Delivery(0, 0, 0, ())
    (received,) = hook.received
    assert (received["title"], received["type"]) == (OPENED, "failure")
    (message,) = cellar.messages()
    assert message.sent_at is not None
    assert message.delivered_to == [fingerprint(hook.url)]
    cellar.recovers()
    deliver_messages(engine, [hook.url])
    assert (hook.titles[1], hook.received[1]["type"]) == (RESOLVED, "success")


def test_a_receiver_down_for_an_hour_of_ticks_gets_it_once_when_it_is_back(
    engine: sa.Engine, cellar: Cellar, hook: Webhook
) -> None:
    hook.status = 503
    cellar.goes_wrong()
    for _ in range(120):
        assert deliver_messages(engine, [hook.url]).sent == 0
        cellar.passes(hours=30 / 3600)
    # One minute, two, four, eight, and a quarter of an hour from then on.
    assert hook.calls == 7
    assert hook.received == []
    hook.status = 200
    cellar.passes(hours=0.25)
    assert deliver_messages(engine, [hook.url]) == Delivery(1, 0, 0, ())
    deliver_messages(engine, [hook.url], at_once=True)
    assert hook.titles == [OPENED]


def test_a_pause_is_kept_by_the_sensor_and_not_by_who_asks(
    engine: sa.Engine, cellar: Cellar, hook: Webhook
) -> None:
    hook.status = 503
    cellar.goes_wrong()
    assert deliver_messages(engine, [hook.url]).failed == 1
    (message,) = cellar.messages()
    assert 50 < message.pause <= 60
    assert deliver_messages(engine, [hook.url]) == Delivery(0, 0, 0, ())
    assert deliver_messages(engine, [hook.url], at_once=True).failed == 1
    assert 110 < cellar.messages()[0].pause <= 120


def test_an_address_that_fails_holds_up_no_other_and_is_retried_alone(
    engine: sa.Engine, cellar: Cellar, hook: Webhook, other: Webhook
) -> None:
    other.status = 500
    cellar.goes_wrong()
    assert deliver_messages(engine, [other.url, hook.url]).failed == 1
    assert (hook.titles, other.titles) == ([OPENED], [])
    assert cellar.messages()[0].sent_at is None
    cellar.recovers()
    deliver_messages(engine, [other.url, hook.url])
    assert hook.titles == [OPENED, RESOLVED]
    other.status = 200
    assert deliver_messages(engine, [other.url, hook.url], at_once=True).sent == 2
    assert other.titles == hook.titles == [OPENED, RESOLVED]


def test_the_end_of_an_incident_is_not_reported_before_its_beginning(
    engine: sa.Engine, cellar: Cellar, hook: Webhook
) -> None:
    hook.status = 503
    cellar.goes_wrong()
    deliver_messages(engine, [hook.url])
    cellar.recovers()
    hook.status = 200
    # The beginning is in a pause; the end is due.
    assert deliver_messages(engine, [hook.url]) == Delivery(0, 0, 0, ())
    assert hook.titles == []
    cellar.passes(hours=1)
    assert deliver_messages(engine, [hook.url]).sent == 2
    assert hook.titles == [OPENED, RESOLVED]


def test_two_senders_do_not_send_a_message_twice(
    engine: sa.Engine, cellar: Cellar, hook: Webhook
) -> None:
    cellar.goes_wrong()
    called, go_on = Event(), Event()

    def answer() -> None:
        called.set()
        assert go_on.wait(30)

    hook.on_call = answer
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(deliver_messages, engine, [hook.url])
        assert called.wait(30)
        try:
            assert deliver_messages(engine, [hook.url], at_once=True) == Delivery(0, 0, 0, ())
        finally:
            go_on.set()
        assert first.result().sent == 1
    assert hook.titles == [OPENED]


def test_a_sender_killed_before_it_could_note_it_repeats_it_once_at_most(
    engine: sa.Engine, pipeline_url: str, cellar: Cellar, hook: Webhook
) -> None:
    cellar.goes_wrong()
    sending = subprocess.Popen(
        [BIN / "leora", "alerts", "send"],
        env=environment(LEORA_DATABASE_URL=pipeline_url, LEORA_ALERT_URLS=hook.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # The receiver has the message; its answer never comes.
    hook.on_call = lambda: os.kill(sending.pid, signal.SIGKILL)
    with sending:
        output, _ = sending.communicate(timeout=60)
    assert sending.returncode == -signal.SIGKILL, output
    assert hook.titles == [OPENED]
    assert cellar.messages()[0].delivered_to == []

    hook.on_call = lambda: None
    assert deliver_messages(engine, [hook.url]).sent == 1
    assert deliver_messages(engine, [hook.url], at_once=True).sent == 0
    assert hook.titles == [OPENED, OPENED]


def test_a_tenants_messages_go_to_its_own_addresses_too(
    engine: sa.Engine, build: CrmBuilder, cellar: Cellar, hook: Webhook, other: Webhook
) -> None:
    build.run(
        "INSERT INTO leora_pipeline.tenant_alert_url VALUES (:tenant, :own), (:tenant, :also), "
        "(gen_random_uuid(), 'json://127.0.0.1:1')",
        tenant=cellar.tenant,
        own=other.url,
        also=hook.url,
    )
    cellar.goes_wrong()
    assert deliver_messages(engine, [hook.url]).sent == 1
    assert (hook.titles, other.titles) == ([OPENED], [OPENED])


def test_without_an_address_messages_wait(engine: sa.Engine, cellar: Cellar, hook: Webhook) -> None:
    cellar.goes_wrong()
    assert deliver_messages(engine, []) == Delivery(0, 0, 1, ())
    assert read_status(engine).unsent_messages == 1
    assert deliver_messages(engine, [hook.url]).sent == 1
    assert read_status(engine).unsent_messages == 0


def test_an_address_configured_late_hears_of_what_is_open_and_of_no_old_news(
    engine: sa.Engine, build: CrmBuilder, cellar: Cellar, hook: Webhook
) -> None:
    cellar.goes_wrong()
    cellar.recovers()
    build.run(
        "INSERT INTO leora_pipeline.alert_message (tenant_id, kind, event, severity, title, body, "
        "created_at, retry_at) VALUES (:tenant, 'win_back', 'win_back', 'info', 'digest', 'body', "
        "now(), now())",
        tenant=cellar.tenant,
    )
    cellar.passes(hours=24 * 30)
    cellar.goes_wrong()
    cellar.passes(hours=24 * 30)
    deliver_messages(engine, [])
    assert read_status(engine).unsent_messages == 1
    assert deliver_messages(engine, [hook.url]).sent == 1
    assert hook.titles == [OPENED]


def test_an_address_that_is_taken_away_is_waited_for_no_more(
    engine: sa.Engine, cellar: Cellar, hook: Webhook, other: Webhook
) -> None:
    other.status = 500
    cellar.goes_wrong()
    assert deliver_messages(engine, [hook.url, other.url]).failed == 1
    assert deliver_messages(engine, [hook.url], at_once=True).sent == 1


@pytest.mark.parametrize(
    "url",
    [
        "json://leora:s3cret-word@127.0.0.1:1/t0ken-in-path/?key=s3cret-word",
        "slak://s3cret-word/t0ken-in-path",
        "s3cret-word",
        "mailto://leora:s3cret-word@localhost:1?smtp=127.0.0.1&mode=insecure&to=t0ken@example.com",
    ],
)
def test_a_bad_address_is_reported_without_its_secrets_and_loses_nothing(
    engine: sa.Engine, cellar: Cellar, hook: Webhook, url: str
) -> None:
    cellar.goes_wrong()
    done = deliver_messages(engine, [url, hook.url])
    assert (done.sent, done.failed) == (0, 1)
    assert hook.titles == [OPENED], "the others get it"
    reported = str(done.errors) + str(cellar.messages())
    assert fingerprint(url) in done.errors[0]
    assert "s3cret" not in reported
    assert "t0ken" not in reported
    assert "\n" not in done.errors[0]


def test_a_message_longer_than_a_service_takes_comes_in_parts(
    hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NotifyJSON, "body_maxlen", 100)
    lines = [f"customer number {n}" for n in range(20)]
    assert send(hook.url, Message("digest", "\n".join(lines), "info", "key")) is None
    assert len(hook.received) > 1
    received = "\n".join(part["message"] for part in hook.received)
    assert [line for line in lines if line in received] == lines


@pytest.mark.parametrize("manner", ["drips", "hangs", "refuses", "hangs up"])
def test_a_receiver_that_never_answers_costs_its_own_time_alone(
    engine: sa.Engine, cellar: Cellar, hook: Webhook, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    monkeypatch.setattr(sending, "SEND_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr(sending, "SLOW_AFTER_SECONDS", 1)
    for _ in range(3):
        cellar.goes_wrong()
        cellar.recovers()

    with bad_receiver(manner) as url:
        before, running = Process().children(), set(threading.enumerate())
        done = deliver_messages(engine, [url, hook.url])

    assert (done.sent, done.failed) == (0, 3), "no end is sent where the beginning has not come"
    assert hook.titles == [OPENED, RESOLVED] * 3
    was_skipped = any("too slow to answer a moment ago" in error for error in done.errors)
    assert was_skipped == (manner in {"drips", "hangs"}), "it is waited for once"
    assert Process().children() == before
    assert set(threading.enumerate()) <= running


def test_a_tick_that_has_no_time_left_leaves_the_rest_to_the_next(
    engine: sa.Engine, cellar: Cellar, hook: Webhook
) -> None:
    cellar.goes_wrong()
    cellar.recovers()
    assert deliver_messages(engine, [hook.url], seconds=-1).sent == 0
    assert hook.calls == 0
    assert deliver_messages(engine, [hook.url]).sent == 2
