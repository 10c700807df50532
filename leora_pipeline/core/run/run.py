"""A run: what it covers, and what becomes of each of its tenants.

Tenants are isolated from each other. Each step works on one tenant at a time in transactions of
its own; one that fails is recorded in ``tenant_run`` and left out by the steps after it, while the
others go on. What does not belong here: what the steps do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

import sqlalchemy as sa

from leora_pipeline.core.crm.tenants import Tenant, find_tenants
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.os_user import os_user
from leora_pipeline.core.text import visible

logger = logging.getLogger(__name__)


Progress = Callable[[str, int], None]
"""Told how a step advances: the step's name, and the customers it has dealt with so far."""


Mode = Literal["full", "incremental", "partial"]
"""A full run takes all steps over whole tenants, an incremental one over the customers that
there is something to do for; a partial one takes only some of the steps."""


def no_progress(step: str, customers: int) -> None:
    """Takes no notice of a step's advance."""


@dataclass(frozen=True)
class Run:
    """What one run covers.

    Attributes:
        writer: In whose name it writes, and by what.
        tenants: The tenants in scope.
        mode: See `Mode`.
        on_progress: Called as the steps advance.
    """

    writer: Writer
    tenants: tuple[Tenant, ...]
    mode: Mode = "full"
    on_progress: Progress = field(default=no_progress, compare=False)

    @property
    def run_id(self) -> str:
        """The run's name in all tables; Dagster's own run id where Dagster runs it."""
        return self.writer.run_id

    @property
    def tenant_ids(self) -> list[UUID]:
        """The ids of the tenants in scope."""
        return [tenant.tenant_id for tenant in self.tenants]


def is_reason(text: str) -> bool:
    """Returns whether a text says anything; the ``…`` of a command that was pasted does not."""
    return any(character.isalnum() for character in text)


def resolve_run(
    engine: sa.Engine,
    *,
    tenant_slugs: Sequence[str] = (),
    allow_mass_change: Sequence[str] = (),
    reason: str = "",
    allowed_by: str | None = None,
    as_of: datetime | None = None,
    run_id: str | None = None,
    mode: Mode = "full",
    allow_future: bool = False,
    write_dates: bool = True,
    on_progress: Progress = no_progress,
) -> Run:
    """Resolves what was asked for into a run; writes nothing.

    Args:
        engine: The CRM's database.
        tenant_slugs: The tenants to cover; empty for all.
        allow_mass_change: The slugs of the tenants whose mass demotion is meant.
        reason: Why it is meant; recorded.
        allowed_by: Who says so; recorded too. By default the operating system's user.
        as_of: Judge by this instant (aware) instead of the clock.
        run_id: The run's name; a new one by default.
        mode: See `Mode`.
        allow_future: Whether `as_of` may lie in the future, as it may for a preview.
        write_dates: Whether ``"lastOrderDate"`` is written too.
        on_progress: Called as the steps advance.

    Raises:
        WrongUsageError: A slug is unknown, a mass change has no reason, or `as_of` lies in the
            future or has no time zone.
    """
    with transaction(engine) as connection:
        tenants = find_tenants(connection, tenant_slugs)
        allowed = find_tenants(connection, allow_mass_change) if allow_mass_change else ()
        if allowed and not is_reason(reason):
            raise WrongUsageError(
                "allow_mass_change needs a reason, which is recorded; "
                "say in `reason` why the orders are meant to be gone"
            )
        if as_of is not None and as_of.tzinfo is None:
            raise WrongUsageError(f"as_of {as_of} has no time zone; write it with one, such as +00")
        if as_of is not None and not allow_future and as_of > now(connection):
            raise WrongUsageError(
                f"as_of {as_of.isoformat()} lies in the future; "
                "an update takes an instant of the past, or none for now"
            )
    return Run(
        writer=Writer(
            run_id=run_id or str(uuid4()),
            fallback_cause="incremental" if mode == "incremental" else "nightly",
            as_of=as_of,
            write_dates=write_dates,
            allow_mass_change=frozenset(tenant.tenant_id for tenant in allowed),
            released_by=visible(f"{allowed_by or os_user()}: {reason}") if allowed else "",
        ),
        tenants=tenants,
        mode=mode,
        on_progress=on_progress,
    )
