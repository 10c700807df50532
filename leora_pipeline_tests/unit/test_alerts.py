"""Alerts without a database: how they read, how long the pauses are, and where they go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from apprise.plugins.custom_json import NotifyJSON

from leora_pipeline.core.alerting.channels import Message, fingerprint, send, shown_url
from leora_pipeline.core.alerting.delivery import PAUSES
from leora_pipeline.core.alerting.digest import digest_body
from leora_pipeline.core.alerting.incidents import shown_duration
from leora_pipeline.core.reporting.problems import title_of
from leora_pipeline.core.settings import Settings

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("", ()),
        (" , ", ()),
        ("json://a", ("json://a",)),
        ("json://a, mailto://b\n  slack://c/d;xml://e,", ("json://a", "mailto://b", "slack://c/d", "xml://e")),
        ("mailto://u:p@h?to=a@b.de,c@d.de json://x", ("mailto://u:p@h?to=a@b.de,c@d.de", "json://x")),
        ("nonsense", ("nonsense",)),
    ],
)  # fmt: skip
def test_addresses_are_split_as_apprise_does(
    monkeypatch: pytest.MonkeyPatch, text: str, urls: tuple[str, ...]
) -> None:
    monkeypatch.setenv("LEORA_ALERT_URLS", text)
    settings = Settings.from_environment()
    assert settings.alert_urls == urls
    assert "://" not in repr(settings), "they hold secrets"


def test_pauses_grow_up_to_a_quarter_of_an_hour() -> None:
    assert [PAUSES.after(n) for n in (1, 2, 3, 4, 5, 6, 1000)] == [60, 120, 240, 480, 900, 900, 900]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("json://me:s3cret@hooks.example.com/s3cret?a=s3cret", "json://…@hooks.example.com/…"),
        ("slack://s3cretA/s3cretB/s3cretC", "slack://s...A/…"),
        ("mailtos://me:s3cret@example.com?to=a@example.com", "mailtos://…@example.com/…"),
        ("slak://s3cret/x", "slak://…"),
        ("s3cret", "a text/…"),
        ("s3cret with://s3cret", "a text/…"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == f"{shown} ({fingerprint(url)})"


def test_an_error_that_a_service_words_keeps_the_secrets_of_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(service: NotifyJSON, *arguments: Any, **named: Any) -> bool:
        service.logger.warning("POST to %s with p%%40ss or p@ss refused", service.fullpath)
        return False

    monkeypatch.setattr(NotifyJSON, "send", refuse)
    error = send("json://me:p%40ss@hooks.example.com/s3cret/", Message("t", "b", "info", "key"))
    assert (error or "").endswith(": POST to /…/ with … or … refused")


@pytest.mark.parametrize(
    ("duration", "shown"),
    [
        (timedelta(seconds=59), "0 min"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=3, minutes=5), "3 h 5 min"),
        (timedelta(days=2, hours=3, minutes=5), "2 d 3 h"),
    ],
)
def test_durations_are_reported_in_two_units(duration: timedelta, shown: str) -> None:
    assert shown_duration(duration) == shown


def test_a_check_that_says_what_has_to_be_true_is_named_as_failing() -> None:
    assert title_of("high_churn") == "high churn"
    assert title_of("crm_agrees_with_rule") == "check crm_agrees_with_rule fails"


def customer(**values: Any) -> SimpleNamespace:
    """A customer as the digest's statement returns one."""
    return SimpleNamespace(
        **{
            "name": "Elm Wines",
            "city": None,
            "sales_rep_id": None,
            "last_order_at": NOW - timedelta(days=200),
            "of_rep": 1,
            "customers": 1,
            **values,
        }
    )


def test_a_customers_own_text_cannot_add_lines_to_a_digest() -> None:
    body = digest_body([customer(name="Elm\n\nWines", city="Na\r\npa")], {}, NOW)
    assert body.splitlines()[-1] == "- Elm Wines, Na pa: last order 2025-12-13, 200 days ago"


def test_a_digest_counts_whom_it_does_not_name() -> None:
    named = [
        customer(sales_rep_id="a", of_rep=3, customers=10),
        customer(sales_rep_id="b", of_rep=2, customers=10, last_order_at=None),
    ]
    assert digest_body(named, {"b": "Ben\nOrtiz"}, NOW).splitlines() == [
        "10 customers became TARGET since the last digest.",
        "",
        "Sales rep a:",
        "- Elm Wines: last order 2025-12-13, 200 days ago",
        "- … and 2 more",
        "",
        "Sales rep Ben Ortiz:",
        "- Elm Wines: no order",
        "- … and 1 more",
        "",
        "And 5 customers of other sales reps; the CRM lists all as TARGET.",
    ]


def test_pagerduty_ends_the_incident_that_it_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Any] = []

    def post(url: str, **arguments: Any) -> Any:
        posted.append(requests.compat.json.loads(arguments["data"]))
        return SimpleNamespace(status_code=202, content=b"")

    monkeypatch.setattr(requests, "post", post)
    for title, type_ in (("high churn", "failure"), ("high churn (resolved)", "success")):
        sent = Message(title=title, body="body", type=type_, key="tenant/high_churn")
        assert send("pagerduty://IntegrationKey@ApiKey?action=map", sent) is None
    assert [(event["event_action"], event["dedup_key"]) for event in posted] == [
        ("trigger", "tenant/high_churn"),
        ("resolve", "tenant/high_churn"),
    ]
