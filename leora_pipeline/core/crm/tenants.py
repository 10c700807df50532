"""The tenants of the CRM: which there are, and which of them are meant.

What does not belong here: their policies, which the database applies by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import WrongUsageError

SQL = statements(__name__)


@dataclass(frozen=True)
class Tenant:
    """A tenant of the CRM.

    Attributes:
        tenant_id: ``"Tenant".id``.
        slug: The name that commands and reports use.
        timezone: As the CRM has it; not always a valid one.
    """

    tenant_id: UUID
    slug: str
    timezone: str

    def day_of(self, instant: datetime) -> date:
        """Returns the calendar day of an instant where the tenant is, or of UTC."""
        try:
            zone = ZoneInfo(self.timezone)
        except (ValueError, OSError, LookupError):
            zone = ZoneInfo("UTC")
        return instant.astimezone(zone).date()


def find_tenants(connection: sa.Connection, slugs: Sequence[str] = ()) -> tuple[Tenant, ...]:
    """Returns the tenants with these slugs, or all where none is named, in the order of slugs.

    Raises:
        WrongUsageError: A slug belongs to no tenant.
    """
    tenants = {
        row.slug: Tenant(row.id, row.slug, row.timezone) for row in connection.execute(SQL.tenants)
    }
    unknown = [slug for slug in slugs if slug not in tenants]
    if unknown:
        known = ", ".join(tenants) or "none"
        raise WrongUsageError(f"unknown tenant {', '.join(unknown)}; known are: {known}")
    return tuple(tenant for slug, tenant in tenants.items() if not slugs or slug in slugs)
