"""A full run as a whole, called from Python.

What does not belong here: the steps themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.database.engine import configured_engine
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.plan import plan
from leora_pipeline.core.run.publish import AccountTypeUpdateResult, publish
from leora_pipeline.core.run.refresh import refresh
from leora_pipeline.core.run.run import Run, resolve_run
from leora_pipeline.core.settings import Settings


def run_all_steps(engine: sa.Engine, run: Run) -> list[AccountTypeUpdateResult]:
    """Takes a run through all its steps: refresh, plan, apply, publish.

    Raises:
        TenantsFailedError: Some tenants failed; the others are done and published.
    """
    refresh(engine, run)
    plan(engine, run)
    apply(engine, run)
    return publish(engine, run)


def update_account_types(
    tenant_slugs: Sequence[str] | str = (),
    *,
    as_of: datetime | None = None,
    allow_mass_change: Sequence[str] = (),
    reason: str = "",
    engine: sa.Engine | None = None,
) -> list[AccountTypeUpdateResult]:
    """Brings the account types of all customers, or of some tenants', up to date.

    Args:
        tenant_slugs: The tenants, or one of them; empty for all.
        as_of: Judge by this instant of the past (aware) instead of the database's clock.
        allow_mass_change: Slugs of tenants whose hold is released and whose mass demotion is meant.
        reason: Why it is meant. Required with `allow_mass_change`, and recorded with the operating
            system's user and the time.
        engine: The CRM's database; by default the one that ``LEORA_DATABASE_URL`` names.

    Returns:
        A result for each tenant, in the order of slugs.

    Raises:
        TenantsFailedError: Some tenants failed; the others are done and published.
        WrongUsageError: A slug is unknown, a mass change has no reason, or `as_of` is no instant of
            the past.
        UnfitDatabaseError: The database cannot be trusted with a run.
    """
    settings = Settings.from_environment()
    engine = engine or configured_engine()
    require_fit_database(engine)
    run = resolve_run(
        engine,
        tenant_slugs=[tenant_slugs] if isinstance(tenant_slugs, str) else tenant_slugs,
        as_of=as_of,
        allow_mass_change=allow_mass_change,
        reason=reason,
        write_dates=settings.write_last_order_date,
    )
    return run_all_steps(engine, run)
