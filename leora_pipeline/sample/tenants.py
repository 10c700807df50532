"""The wholesalers that the sample CRM is about, and the counts each is to arrive at.

What belongs here: who the tenants are and how many customers of which type they have. What does
not: how their customers and orders come about, which is the work of ``load.sql``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleTenant:
    """A tenant of the sample CRM.

    Attributes:
        slug: The tenant's key in URLs and commands.
        name: The wholesaler's name.
        timezone: What the CRM holds as its time zone, which need not be a valid one.
        active: Customers that the rule makes ACTIVE, as of the anchor of the load.
        target: Customers that the rule makes TARGET.
        prospect: Customers that the rule makes PROSPECT.
        hold: Customers on billing hold, counted in none of the three.
    """

    slug: str
    name: str
    timezone: str
    active: int
    target: int
    prospect: int
    hold: int


DEMO_TENANTS: tuple[SampleTenant, ...] = (
    SampleTenant(
        "well-crafted", "Well Crafted Wine & Beverage Co.", "America/New_York", 1234, 89, 456, 21
    ),
    SampleTenant("bay-and-barrel", "Bay & Barrel Imports", "America/Los_Angeles", 640, 80, 230, 9),
    # Breaches "high churn": 47.7 % ACTIVE.
    SampleTenant(
        "old-river-spirits", "Old River Spirits Distributing", "America/Chicago", 310, 95, 245, 12
    ),
    # Breaches "poor retention": 25 % TARGET.
    SampleTenant("summit-cellars", "Summit Cellars Wholesale", "America/Denver", 270, 125, 105, 4),
    # Too small to be judged, and in a time zone that does not exist.
    SampleTenant("corner-cask", "Corner Cask Merchants", "America/Napa", 9, 1, 4, 1),
    # Signed up, but has no customers yet.
    SampleTenant("first-press", "First Press Trading", "Europe/London", 0, 0, 0, 0),
)

_TIMEZONES = ("America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles")


def scaled_tenants(tenants: int, customers: int) -> tuple[SampleTenant, ...]:
    """Returns healthy tenants of about the same size, for benchmarks.

    Args:
        tenants: How many tenants.
        customers: How many customers they have together, those on hold included.
    """
    return tuple(
        _healthy_tenant(number, customers // tenants + (number <= customers % tenants))
        for number in range(1, tenants + 1)
    )


def _healthy_tenant(number: int, customers: int) -> SampleTenant:
    """Returns a tenant with 68 % ACTIVE, 8 % TARGET, 24 % PROSPECT, and 0.5 % on hold beside."""
    hold = customers // 200
    judged = customers - hold
    target = judged * 8 // 100
    prospect = judged * 24 // 100
    return SampleTenant(
        slug=f"wholesaler-{number:03}",
        name=f"Wholesaler {number:03}",
        timezone=_TIMEZONES[number % len(_TIMEZONES)],
        active=judged - target - prospect,
        target=target,
        prospect=prospect,
        hold=hold,
    )
