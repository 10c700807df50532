"""The errors that a user is meant to see: one line that names the cause and the way out.

What does not belong here: errors that only a programmer can make; those are Python's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leora_pipeline.core.text import visible


class LeoraError(Exception):
    """The work could not be done. Its text is one line, fit to be shown as it is."""


class WrongUsageError(LeoraError):
    """What was asked for makes no sense here, such as a tenant that does not exist."""


class UnfitDatabaseError(LeoraError):
    """The database is not one that the pipeline can be trusted with as it stands."""


class TenantsFailedError(LeoraError):
    """Some tenants failed; all others are done and published.

    Attributes:
        errors: For each tenant that failed, by slug, what went wrong, in one line.
        results: What was done for the others (a list of `AccountTypeUpdateResult`), where the
            caller's work has results.
    """

    def __init__(self, errors: Mapping[str, str], results: Sequence[Any] = ()) -> None:
        self.errors = dict(errors)
        self.results = list(results)
        named = "; ".join(f"{slug}: {error}" for slug, error in self.errors.items())
        super().__init__(f"{len(self.errors)} tenant(s) failed, the others are done: {named}")


def one_line(error: BaseException) -> str:
    """Returns an error's own words on one line, without SQL, parameters or a traceback.

    SQLAlchemy appends the statement and its parameters to a driver's error, and PostgreSQL its
    context; both may hold customers' data, and neither helps a person at a status screen.
    """
    cause = getattr(error, "orig", None) or error
    diagnostics = getattr(cause, "diag", None)
    text = getattr(diagnostics, "message_primary", None) or str(cause)
    first = next((line for line in text.splitlines() if line.strip()), "")
    return visible(first) or type(cause).__name__
