"""Preview: what a full run would change now, and why. It writes nothing anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa

from leora_pipeline.core.account_types import UNCLASSIFIED, Transition
from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.customers.gate import judge
from leora_pipeline.core.database.connection import now, transaction, tune_for_whole_tables
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)


@dataclass(frozen=True)
class Misclassified:
    """A customer whose type in the CRM is not the one that the rule gives.

    Attributes:
        customer_id: ``"Customer".id``, as text.
        name: The customer's name.
        current: The type in the CRM, or None.
        expected: The type that the rule gives.
        last_order_at: The last order date (UTC), or None.
        reason: Why the rule gives it, for people.
    """

    customer_id: str
    name: str
    current: str | None
    expected: str
    last_order_at: datetime | None
    reason: str


@dataclass
class TenantPreview:
    """What would change for one tenant; pinned customers are counted apart, in `pinned` alone.

    Attributes:
        tenant_slug: The tenant.
        current: Customers by the type that they have, `UNCLASSIFIED` for none.
        expected: Customers by the type that the rule gives.
        transitions: The moves that a run would make.
        misclassified: Some of the customers that would move, by name.
        pinned: Customers of types that the rule never changes.
        would_be_held: Whether the gate would stop the downward moves.
    """

    tenant_slug: str
    current: Counter[str] = field(default_factory=Counter)
    expected: Counter[str] = field(default_factory=Counter)
    transitions: list[Transition] = field(default_factory=list)
    misclassified: list[Misclassified] = field(default_factory=list)
    pinned: int = 0
    would_be_held: bool = False

    @property
    def total(self) -> int:
        """Customers that are not pinned."""
        return sum(self.expected.values())

    @property
    def incorrect(self) -> int:
        """Customers whose type would change."""
        return sum(transition.count for transition in self.transitions)

    @property
    def correct(self) -> int:
        """Customers whose type is right."""
        return self.total - self.incorrect


@dataclass(frozen=True)
class Preview:
    """A preview of all tenants asked for, as of one instant (UTC)."""

    as_of: datetime
    tenants: list[TenantPreview]


def preview(
    engine: sa.Engine, tenants: Sequence[Tenant], *, as_of: datetime | None = None, limit: int = 20
) -> Preview:
    """Reads, at one instant, what a full run would change.

    Args:
        engine: The CRM's database.
        tenants: The tenants to cover.
        as_of: The instant to judge by (aware), or None for the clock. Unlike in an update it may
            be one of the future.
        limit: How many misclassified customers to name for each tenant.
    """
    with transaction(engine, snapshot=True) as connection:
        as_of = (as_of or now(connection)).astimezone(UTC)
        tune_for_whole_tables(connection)
        scope = {"tenant_ids": [tenant.tenant_id for tenant in tenants], "as_of": as_of}
        previews = {tenant.tenant_id: TenantPreview(tenant.slug) for tenant in tenants}
        new_order_loss: Counter[object] = Counter()
        order_loss: Counter[object] = Counter()
        for row in connection.execute(SQL.preview_counts, scope):
            seen = previews[row.tenant_id]
            if row.is_pinned:
                seen.pinned += row.customers
                continue
            seen.current[row.crm_type or UNCLASSIFIED] += row.customers
            seen.expected[row.account_type] += row.customers
            new_order_loss[row.tenant_id] += row.new_order_loss
            order_loss[row.tenant_id] += row.order_loss
            if row.crm_type != row.account_type:
                seen.transitions.append(Transition(row.crm_type, row.account_type, row.customers))
        for tenant in tenants:
            seen = previews[tenant.tenant_id]
            if new_order_loss[tenant.tenant_id]:
                seen.would_be_held = judge(
                    connection, tenant.tenant_id, order_loss[tenant.tenant_id]
                ).is_excess
        if limit and any(seen.incorrect for seen in previews.values()):
            for row in connection.execute(SQL.misclassified, {**scope, "limit": limit}):
                previews[row.tenant_id].misclassified.append(
                    Misclassified(
                        customer_id=str(row.customer_id),
                        name=row.name,
                        current=row.crm_type,
                        expected=row.account_type,
                        last_order_at=row.last_order_at,
                        reason=row.reason,
                    )
                )
    return Preview(as_of, list(previews.values()))
