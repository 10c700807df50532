"""The environment's variables: what they mean, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.instants import parse_instant
from leora_pipeline.core.settings import Settings
from leora_pipeline.definitions import build_defs


def test_without_configuration_everything_is_embedded_and_new_york() -> None:
    settings = Settings.from_environment()

    assert (settings.database_url, settings.dagster_database_url) == (None, None)
    assert settings.schedule_timezone == "America/New_York"
    assert settings.write_last_order_date
    assert (settings.keep_history_days, settings.keep_run_days) == (1095, 30)
    assert settings.alert_urls == ()
    assert settings.faults() == []


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path, monkeypatch) -> None:
    (tmp_path / ".env").write_text(
        "LEORA_DATABASE_URL=postgresql://from-file/crm\nLEORA_WRITE_LAST_ORDER_DATE=no\n"
    )
    assert Settings.from_environment().database_url == "postgresql://from-file/crm"
    assert not Settings.from_environment().write_last_order_date

    monkeypatch.setenv("LEORA_DATABASE_URL", "postgresql://from-environment/crm")
    assert Settings.from_environment().database_url == "postgresql://from-environment/crm"


def test_a_blank_variable_is_as_good_as_none(monkeypatch) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", "  ")
    assert Settings.from_environment().database_url is None


WRONG = [
    ("LEORA_SCHEDULE_TIMEZONE", "Napa", "schedule_timezone", "America/New_York"),
    ("LEORA_SCHEDULE_TIMEZONE", "../etc/passwd", "schedule_timezone", "America/New_York"),
    ("LEORA_WRITE_LAST_ORDER_DATE", "perhaps", "write_last_order_date", "true or false"),
    ("LEORA_KEEP_RUN_DAYS", "3", "keep_run_days", "from 7 to 36500"),
    ("LEORA_KEEP_HISTORY_DAYS", "a year", "keep_history_days", "from 7 to 36500"),
]


@pytest.mark.parametrize(("name", "value", "asked", "way_out"), WRONG)
def test_a_variable_that_means_nothing_stops_what_asks_for_it_alone(
    monkeypatch, name: str, value: str, asked: str, way_out: str
) -> None:
    monkeypatch.setenv(name, value)
    settings = Settings.from_environment()

    with pytest.raises(WrongUsageError, match=f"{name} is '{value}'.*{way_out}") as refused:
        getattr(settings, asked)

    assert settings.faults() == [str(refused.value)]


@pytest.mark.parametrize(("name", "value"), [wrong[:2] for wrong in WRONG])
def test_the_code_location_loads_whatever_one_variable_says(
    monkeypatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    definitions = build_defs()

    nightly = definitions.resolve_schedule_def("nightly_account_types")
    assert nightly.execution_timezone == "America/New_York"


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T02:00", datetime(2026, 1, 31, 2, tzinfo=UTC)),
        ("2026-01-31T02:00:00.5-05:00", datetime(2026, 1, 31, 7, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31T02:00:00Z", datetime(2026, 1, 31, 2, tzinfo=UTC)),
    ],
)
def test_an_instant_without_a_time_zone_is_utc(text: str, instant: datetime) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "31.01.2026"])
def test_what_is_no_instant_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(WrongUsageError, match="2026-01-31"):
        parse_instant(text)
