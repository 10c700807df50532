"""What the environment says: the variables of the contract, read once into one value.

A file ``.env`` in the project's root is read too; the process's environment wins. What does not
belong here: connecting to anything.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from dotenv import dotenv_values

from leora_pipeline.core.errors import WrongUsageError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds ``dagster.yaml`` and ``workspace.yaml``: Dagster's home."""

ENV_FILE = PROJECT_ROOT / ".env"

DEFAULT_SCHEDULE_TIMEZONE = "America/New_York"

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


@dataclass(frozen=True)
class Settings:
    """The pipeline's configuration.

    Attributes:
        database_url: The CRM's database, or None for the embedded one. It may hold a password.
        dagster_database_url: Dagster's storage, or None for the embedded one. So may this.
        schedule_timezone: IANA name of the time zone of the nightly schedule.
        write_last_order_date: Whether the pipeline writes ``"Customer"."lastOrderDate"``, or
            leaves it to the CRM.
        keep_history_days: For how many days the history of customers and tenants is kept.
        keep_run_days: For how many days runs, Dagster's and the pipeline's, are kept.
        alert_urls: Where alerts and digests go, as Apprise URLs. They hold secrets. Whether a
            service is behind each is found out when one delivers: a bad one stops no run.
    """

    database_url: str | None = field(default=None, repr=False)
    dagster_database_url: str | None = field(default=None, repr=False)
    schedule_timezone: str = DEFAULT_SCHEDULE_TIMEZONE
    write_last_order_date: bool = True
    keep_history_days: int = 1095
    keep_run_days: int = 30
    alert_urls: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def from_environment(cls) -> Settings:
        """Reads the settings.

        Raises:
            WrongUsageError: A variable has a value that means nothing.
        """
        values = {**dotenv_values(ENV_FILE), **os.environ}

        def value(name: str) -> str | None:
            return (values.get(name) or "").strip() or None

        timezone = value("LEORA_SCHEDULE_TIMEZONE") or DEFAULT_SCHEDULE_TIMEZONE
        try:
            ZoneInfo(timezone)
        except (ValueError, OSError, LookupError) as error:
            raise WrongUsageError(
                f"LEORA_SCHEDULE_TIMEZONE is {timezone!r}, which is no IANA time zone; "
                f"set one such as {DEFAULT_SCHEDULE_TIMEZONE}"
            ) from error
        return cls(
            database_url=value("LEORA_DATABASE_URL"),
            dagster_database_url=value("LEORA_DAGSTER_DATABASE_URL"),
            schedule_timezone=timezone,
            write_last_order_date=_flag(
                "LEORA_WRITE_LAST_ORDER_DATE", value("LEORA_WRITE_LAST_ORDER_DATE"), default=True
            ),
            keep_history_days=_days(
                "LEORA_KEEP_HISTORY_DAYS",
                value("LEORA_KEEP_HISTORY_DAYS"),
                default=cls.keep_history_days,
            ),
            keep_run_days=_days(
                "LEORA_KEEP_RUN_DAYS", value("LEORA_KEEP_RUN_DAYS"), default=cls.keep_run_days
            ),
            alert_urls=_urls(value("LEORA_ALERT_URLS") or ""),
        )


def _urls(text: str) -> tuple[str, ...]:
    """Splits URLs at white space, commas and semicolons as Apprise does; a URL may hold commas."""
    return tuple(filter(None, re.split(r"[\s,;]+(?=[A-Za-z0-9]+://)", text.strip(" \t\n,;"))))


def _flag(name: str, text: str | None, *, default: bool) -> bool:
    """Reads a yes-or-no variable, refusing a third answer."""
    if text is None:
        return default
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise WrongUsageError(f"{name} is {text!r}; set it to true or false")


def _days(name: str, text: str | None, *, default: int) -> int:
    """Reads a number of days; what is younger than a week is still of use."""
    if text is None:
        return default
    if text.isdecimal() and 7 <= int(text) <= 36_500:
        return int(text)
    raise WrongUsageError(f"{name} is {text!r}; set it to a number of days, from 7 to 36500")
