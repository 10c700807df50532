"""The rule a second time, in plain Python, written from the design and not from the SQL.

What belongs here: what tests compare the database with. It knows one customer at a time, holds
instants as aware `datetime`s, and shares no code with the pipeline.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

KNOWN_TYPES = ("ACTIVE", "TARGET", "PROSPECT")


@dataclass(frozen=True)
class Policy:
    """A tenant's thresholds, and the statuses of orders that do not count.

    Attributes:
        unit: `day`, or `month` for calendar months that count from UTC midnight.
        active_within: How long ago the last order of an ACTIVE customer may be.
        target_within: How long ago that of a TARGET customer may be.
        uncounted: The statuses that do not count.
    """

    unit: str = "day"
    active_within: int = 180
    target_within: int = 365
    uncounted: frozenset[str] = frozenset({"DRAFT", "CANCELLED"})

    def since(self, as_of: datetime, within: int) -> datetime:
        """Returns the earliest instant within so many of the policy's units before another."""
        if self.unit == "day":
            return as_of - timedelta(days=within)
        utc = as_of.astimezone(UTC)
        years, month = divmod(utc.year * 12 + utc.month - 1 - within, 12)
        # A month that has no such day ends earlier: half a year before 31 August is 28 February.
        day = min(utc.day, monthrange(years, month + 1)[1])
        return datetime(years, month + 1, day, tzinfo=UTC)

    def classify(self, as_of: datetime, last_order_at: datetime | None) -> str:
        """Returns the type that a last order date gives."""
        if last_order_at is not None and last_order_at >= self.since(as_of, self.active_within):
            return "ACTIVE"
        if last_order_at is not None and last_order_at >= self.since(as_of, self.target_within):
            return "TARGET"
        return "PROSPECT"


@dataclass(frozen=True)
class Memory:
    """What is remembered of a customer from one run to the next.

    Attributes:
        ever_ordered: Whether a run has seen a counting order of the customer.
        imported: The date that the CRM had before the first of those.
    """

    ever_ordered: bool = False
    imported: datetime | None = None


@dataclass(frozen=True)
class Verdict:
    """What a run has to make of a customer.

    Attributes:
        type: The type that the CRM has afterwards.
        date: The last order date that the CRM has afterwards.
        derived: The type that the rule gives, which a pinned customer does not get.
        last_order_at: The last order date that counts, or the imported one.
        next_order_at: When the next date that lies in the future starts to count.
        memory: What the next run is to remember.
    """

    type: str | None
    date: datetime | None
    derived: str
    last_order_at: datetime | None
    next_order_at: datetime | None
    memory: Memory


def judge(
    policy: Policy,
    as_of: datetime,
    *,
    crm_type: str | None,
    crm_date: datetime | None,
    orders: Iterable[tuple[str, datetime | None]],
    memory: Memory,
    write_dates: bool = True,
) -> Verdict:
    """Applies the rule to one customer.

    Args:
        policy: The tenant's.
        as_of: The instant to judge by.
        crm_type: The type that the CRM has.
        crm_date: The last order date that the CRM has.
        orders: Status and date of each of the customer's orders.
        memory: From the last run, or none for a customer met for the first time.
        write_dates: Whether the pipeline writes dates, or leaves them to the CRM.
    """
    dates = [date for status, date in orders if date and status not in policy.uncounted]
    past = [date for date in dates if date <= as_of]
    coming = [date for date in dates if date > as_of]
    if past or memory.ever_ordered:
        memory = Memory(True, memory.imported)
    else:
        memory = Memory(False, crm_date)
    last_order_at = None
    if past:
        last_order_at = max(past)
    elif memory.imported and memory.imported <= as_of:
        last_order_at = memory.imported
    elif memory.imported:
        coming.append(memory.imported)
    derived = policy.classify(as_of, last_order_at)
    is_pinned = crm_type is not None and crm_type not in KNOWN_TYPES
    return Verdict(
        type=crm_type if is_pinned else derived,
        date=last_order_at if write_dates and memory.ever_ordered else crm_date,
        derived=derived,
        last_order_at=last_order_at,
        next_order_at=min(coming, default=None),
        memory=memory,
    )
