"""Errors, as a user reads them: one line, the cause, nothing that is nobody's business."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.errors import TenantsFailedError, one_line


def test_a_database_error_is_reported_without_statement_and_parameters() -> None:
    error = sa.exc.DBAPIError(
        "UPDATE x SET name = %(name)s", {"name": "secret"}, Exception("it broke\nDETAIL: secret")
    )
    assert one_line(error) == "it broke"


def test_an_error_without_words_is_taken_by_its_kind() -> None:
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_failed_tenants_are_named_with_their_errors() -> None:
    error = TenantsFailedError({"cellar": "it broke", "vine": "so did this"})
    assert str(error) == (
        "2 tenant(s) failed, the others are done: cellar: it broke; vine: so did this"
    )


@pytest.mark.parametrize(
    ("timezone", "day"),
    [
        ("America/New_York", date(2026, 1, 31)),
        ("UTC", date(2026, 2, 1)),
        ("Asia/Tokyo", date(2026, 2, 1)),
        ("America/Napa", date(2026, 2, 1)),
        ("", date(2026, 2, 1)),
        ("../../etc/localtime", date(2026, 2, 1)),
    ],
)
def test_a_tenants_day_is_its_own_and_utcs_where_its_time_zone_is_none(
    timezone: str, day: date
) -> None:
    instant = datetime(2026, 2, 1, 3, tzinfo=UTC)
    assert Tenant(uuid4(), "cellar", timezone).day_of(instant) == day
