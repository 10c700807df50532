"""Alerts as people get them: ``leora alerts`` from cron, to a real mail server and webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from leora_pipeline.sample import SampleTenant
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.receivers import Mailbox, Webhook, mail_server, webhook

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]

DYING = SampleTenant("old-river", "Old River", "UTC", 30, 10, 60, 0)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A webhook to which all alerts go."""
    with webhook() as running:
        monkeypatch.setenv("LEORA_ALERT_URLS", running.url)
        yield running


@pytest.fixture
def mailbox(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """A mail server to which they go as well."""
    with mail_server() as running:
        monkeypatch.setenv("LEORA_ALERT_URLS", f"{hook.url}, {running.url}")
        yield running


def test_a_breach_five_more_runs_and_a_recovery_are_two_messages(
    crm_of_user: Crm, leora: Leora, hook: Webhook, mailbox: Mailbox
) -> None:
    crm_of_user.load(DYING)
    for _ in range(6):
        assert leora("update").code == 0
        assert leora("check").code == 1
        assert leora("alerts", "send").code == 0

    opened = "[Leora] old-river: high churn"
    assert hook.titles == mailbox.subjects == [opened]
    assert hook.received[0]["type"] == "failure"
    assert "ACTIVE 30.0 %" in hook.received[0]["message"]
    assert "ACTIVE 30.0 %" in mailbox.mails[0].get_content()
    assert opened.split(": ")[1].replace(" ", "_") in leora("status").out

    crm_of_user.run(
        'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
        "SELECT gen_random_uuid(), \"tenantId\", id, 'FULFILLED', now() AT TIME ZONE 'UTC', now() "
        'FROM "Customer" WHERE "accountType" = \'PROSPECT\' LIMIT 38'
    )
    assert leora("update").code == 0
    assert leora("check").code == 0
    for _ in range(2):
        assert leora("alerts", "send").code == 0

    assert hook.titles == mailbox.subjects == [opened, f"{opened} (resolved)"]
    assert hook.received[1]["type"] == "success"
    assert leora("status").code == 0


def test_a_dead_daemon_is_reported_although_incremental_runs_went_on(
    crm_of_user: Crm, leora: Leora, hook: Webhook
) -> None:
    tenant = crm_of_user.tenant("asleep")
    crm_of_user.customer(tenant, None)
    assert leora("update").code == 0
    crm_of_user.run(
        "UPDATE leora_pipeline.tenant_run SET started_at = started_at - interval '3 days', "
        "finished_at = finished_at - interval '3 days'"
    )
    crm_of_user.customer(tenant, None)
    assert leora("update", "--incremental").code == 0

    status = leora("status")
    assert status.code == 1
    assert "❌ asleep: no full run has succeeded for 48 hours" in status.out
    assert leora("alerts", "send").code == 0
    assert hook.titles == ["[Leora] asleep: pipeline stale"]
    assert leora("update").code == 0
    assert leora("alerts", "send").code == 0
    assert hook.titles[1:] == ["[Leora] asleep: pipeline stale (resolved)"]


def test_a_tenant_held_and_released_is_visible_step_by_step(
    crm_of_user: Crm, leora: Leora, hook: Webhook
) -> None:
    tenant = crm_of_user.tenant("cellar")
    crm_of_user.customers(tenant, 30, "ACTIVE", ago(days=1))
    assert leora("update").code == 0
    crm_of_user.lose_orders(tenant)
    assert leora("update").code == 1
    assert leora("alerts", "send").code == 0
    assert hook.titles == ["[Leora] cellar: held"]
    held = leora("status")
    assert held.code == 1
    assert "❌ cellar: held, 30 of 30 customers" in held.out
    assert any(line.startswith("cellar\ttenant_held") and "\topen\t" in line for line in held.lines)

    assert leora("update", "--allow-mass-change", "--reason", "the old shop is archived").code == 0
    assert leora("alerts", "send").code == 0
    assert hook.titles[1:] == ["[Leora] cellar: held (resolved)"]
    assert "released by hand, by " in hook.received[1]["message"]
    assert ": the old shop is archived" in hook.received[1]["message"]
    released = leora("status")
    assert released.code == 0
    (line,) = (line for line in released.lines if line.startswith("cellar\ttenant_held"))
    assert "\topen\t" not in line


def test_sales_reps_are_mailed_once_whom_to_win_back(
    crm_of_user: Crm, leora: Leora, hook: Webhook, mailbox: Mailbox
) -> None:
    crm_of_user.customer(
        crm_of_user.tenant("cellar"), "ACTIVE", orders=(ago(days=200),), name="Elm Wines"
    )
    assert leora("update").code == 0
    for expected in ("1 to win back", "0 written"):
        written = leora("alerts", "digest")
        assert written.code == 0
        assert expected in written.out
        assert leora("alerts", "send").code == 0

    assert mailbox.subjects == hook.titles == ["[Leora] cellar: 1 customer to win back"]
    assert "Elm Wines: last order" in mailbox.mails[0].get_content()
    assert hook.received[0]["type"] == "info"


def test_what_cannot_be_delivered_is_said_and_waits(
    crm_of_user: Crm, leora: Leora, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = crm_of_user.tenant("broken")
    crm_of_user.customer(tenant, None)
    assert leora("alerts", "send").code == 0, "nothing is wrong yet"
    crm_of_user.break_tenant(tenant)
    assert leora("update").code == 1

    hook.status = 503
    failed = leora("alerts", "send")
    assert failed.code == 1
    assert "error=503" in failed.out
    assert "s3cret" not in failed.out + failed.err
    shown = leora("alerts", "show")
    assert shown.code == 0
    assert "[Leora] broken: run failed\t" in shown.out
    assert "error=503" in leora("status").out

    monkeypatch.delenv("LEORA_ALERT_URLS")
    nowhere = leora("alerts", "send")
    assert nowhere.code == 1
    assert "LEORA_ALERT_URLS" in nowhere.out
    monkeypatch.setenv("LEORA_ALERT_URLS", hook.url)
    hook.status = 200

    sent = json.loads(leora("alerts", "send", "--json").out)
    assert (sent["ok"], sent["sent"], sent["failed"]) == (True, 1, 0)
    assert hook.titles == ["[Leora] broken: run failed"]
    reported = json.loads(leora("alerts", "show", "--json").out)
    assert [(i["kind"], i["resolved_at"]) for i in reported["incidents"]] == [("run_failed", None)]
    assert reported["unsent"] == []


def test_a_bad_address_stops_no_run(
    crm_of_user: Crm, leora: Leora, monkeypatch: pytest.MonkeyPatch
) -> None:
    crm_of_user.customer(crm_of_user.tenant(), None)
    monkeypatch.setenv("LEORA_ALERT_URLS", "nonsense")
    assert leora("update").code == 0
    assert leora("status").code == 0
    tested = leora("alerts", "test")
    assert tested.code == 1
    assert "no URL that Apprise knows" in tested.out


def test_a_tenant_is_given_addresses_of_its_own_and_they_are_shown_without_secrets(
    crm_of_user: Crm, leora: Leora, hook: Webhook
) -> None:
    for slug in ("cellar", "vine"):
        crm_of_user.tenant(slug)
    with webhook() as own:
        added = leora("alerts", "urls", "--tenant-slug", "cellar", "--add", own.url)
        listed = leora("alerts", "urls")
        assert (added.code, listed.code) == (0, 0)
        addresses = [line.split("\t") for line in listed.lines[2:]]
        assert [address[0] for address in addresses] == ["all tenants", "cellar"]
        assert "s3cret" not in added.out + listed.out
        assert "t0ken" not in added.out + listed.out

        assert leora("alerts", "test").code == 0
        assert leora("alerts", "test", "--tenant-slug", "cellar").code == 0
        assert (hook.titles, own.titles) == (["[Leora] test"], ["[Leora] test"] * 2)

        # The digest in brackets names an address as well as its URL.
        digest = addresses[1][1].split("(")[1].rstrip(")")
        removed = leora("alerts", "urls", "--tenant-slug", "cellar", "--remove", digest)
        assert removed.code == 0
        assert [line.split("\t")[0] for line in removed.lines[2:]] == ["all tenants"]
        again = leora("alerts", "urls", "--tenant-slug", "cellar", "--remove", own.url)
        assert again.code == 2
        assert "leora alerts urls" in again.error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("urls", "--add", "json://localhost"), "--tenant-slug"),
        (("urls", "--tenant-slug", "nobody"), "nobody"),
        (("urls", "--tenant-slug", "cellar", "--add", "slak://s3cret"), "Apprise"),
        (("test",), "LEORA_ALERT_URLS"),
        (("tell",), "tell"),
    ],
)
def test_wrong_usage_is_one_line(
    crm_of_user: Crm, leora: Leora, arguments: tuple[str, ...], named: str
) -> None:
    crm_of_user.tenant("cellar")
    outcome = leora("alerts", *arguments)
    assert outcome.code == 2
    assert named in outcome.error
    assert "s3cret" not in outcome.error
