"""The writer: in whose name, and by what, customers are refreshed and written.

Every path has one: a run, a listener, the update of one customer. What does not belong here: which
tenants or customers are concerned.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True)
class Writer:
    """What writes.

    Attributes:
        run_id: Its name in the log of transitions and on a hold.
        fallback_cause: The cause to log of a transition that nothing explains better than what
            found it.
        as_of: A literal instant to judge by (aware), or None for the database's clock, read each
            time after the locks are held.
        write_dates: Whether ``"lastOrderDate"`` is written too.
        allow_mass_change: Ids of the tenants whose hold it releases and passes.
        released_by: Who allows that, and why, as it is recorded on the hold.
    """

    run_id: str
    fallback_cause: str
    as_of: datetime | None = None
    write_dates: bool = True
    allow_mass_change: frozenset[UUID] = frozenset()
    released_by: str = ""
