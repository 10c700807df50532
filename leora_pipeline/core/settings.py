"""What the environment says: the variables of the contract.

A file ``.env`` in the project's root is read too; the process's environment wins. What does not
belong here: connecting to anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
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


class Settings:
    """The pipeline's configuration: each variable is read when it is asked for.

    One with a value that means nothing raises a `WrongUsageError` there, and so stops what needs it
    and nothing else. `repr` shows no value, since some hold passwords.
    """

    def __init__(self, values: Mapping[str, str | None]) -> None:
        """Takes the variables by name; one that is missing or blank has its default."""
        self._values = values

    @classmethod
    def from_environment(cls) -> Settings:
        """Returns the settings of this process."""
        return cls({**dotenv_values(ENV_FILE), **os.environ})

    def faults(self) -> list[str]:
        """Returns for each variable that means nothing its name, its value, and what to set."""
        found = []
        for name, attribute in vars(Settings).items():
            if isinstance(attribute, property):
                try:
                    getattr(self, name)
                except WrongUsageError as error:
                    found.append(str(error))
        return found

    @property
    def database_url(self) -> str | None:
        """The CRM's database, or None for the embedded one. It may hold a password."""
        return self._text("LEORA_DATABASE_URL")

    @property
    def dagster_database_url(self) -> str | None:
        """Dagster's storage, or None for the embedded one. It may hold a password."""
        return self._text("LEORA_DAGSTER_DATABASE_URL")

    @property
    def schedule_timezone(self) -> str:
        """IANA name of the time zone of the schedules."""
        name = "LEORA_SCHEDULE_TIMEZONE"
        timezone = self._text(name) or DEFAULT_SCHEDULE_TIMEZONE
        try:
            ZoneInfo(timezone)
        except (ValueError, OSError, LookupError) as error:
            raise WrongUsageError(
                f"{name} is {timezone!r}, which is no IANA time zone; "
                f"set one such as {DEFAULT_SCHEDULE_TIMEZONE}"
            ) from error
        return timezone

    @property
    def write_last_order_date(self) -> bool:
        """Whether ``"Customer"."lastOrderDate"`` is written, or left to the CRM."""
        return self._flag("LEORA_WRITE_LAST_ORDER_DATE", default=True)

    @property
    def keep_history_days(self) -> int:
        """For how many days the history of customers and tenants is kept."""
        return self._days("LEORA_KEEP_HISTORY_DAYS", default=1095)

    @property
    def keep_run_days(self) -> int:
        """For how many days runs, Dagster's and the pipeline's, are kept."""
        return self._days("LEORA_KEEP_RUN_DAYS", default=30)

    @property
    def alert_urls(self) -> tuple[str, ...]:
        """Where alerts and digests go, as Apprise URLs. They hold secrets.

        Whether a service is behind each is found out when one delivers.
        """
        return _urls(self._text("LEORA_ALERT_URLS") or "")

    def _text(self, name: str) -> str | None:
        return (self._values.get(name) or "").strip() or None

    def _flag(self, name: str, *, default: bool) -> bool:
        """Reads a yes-or-no variable, refusing a third answer."""
        text = self._text(name)
        if text is None:
            return default
        if text.lower() in _TRUE:
            return True
        if text.lower() in _FALSE:
            return False
        raise WrongUsageError(f"{name} is {text!r}; set it to true or false")

    def _days(self, name: str, *, default: int) -> int:
        """Reads a number of days; what is younger than a week is still of use."""
        text = self._text(name)
        if text is None:
            return default
        if text.isdecimal() and 7 <= int(text) <= 36_500:
            return int(text)
        raise WrongUsageError(f"{name} is {text!r}; set it to a number of days, from 7 to 36500")


def _urls(text: str) -> tuple[str, ...]:
    """Splits URLs at white space, commas and semicolons as Apprise does; a URL may hold commas."""
    return tuple(filter(None, re.split(r"[\s,;]+(?=[A-Za-z0-9]+://)", text.strip(" \t\n,;"))))
