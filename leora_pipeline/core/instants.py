"""Reading instants that people write."""

from __future__ import annotations

from datetime import UTC, datetime

from leora_pipeline.core.errors import WrongUsageError


def parse_instant(text: str) -> datetime:
    """Reads an ISO 8601 date or date and time; one without a time zone is meant in UTC.

    Returns:
        An aware datetime in UTC.

    Raises:
        WrongUsageError: The text is none.
    """
    try:
        instant = datetime.fromisoformat(text.strip())
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise WrongUsageError(
            f"{text!r} is no date; write 2026-01-31 or 2026-01-31T02:00:00+00:00"
        ) from None
