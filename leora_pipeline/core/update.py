"""The work as a whole, for those who call it from Python: a full run, and one customer.

What does not belong here: the steps themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import sqlalchemy as sa

from leora_pipeline.core.apply import apply, apply_customers, lock_customers
from leora_pipeline.core.database import SQL, configured_engine, require_fit_database, transaction
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.plan import plan
from leora_pipeline.core.publish import AccountTypeUpdateResult, publish
from leora_pipeline.core.refresh import note_customers, refresh, refresh_customers
from leora_pipeline.core.runs import Run, plan_run
from leora_pipeline.core.settings import Settings
from leora_pipeline.core.statements import statement

HOOK = "hook"
"""The cause of a transition that somebody asked for, customer by customer."""


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
    engine: sa.Engine | None = None,
) -> list[AccountTypeUpdateResult]:
    """Brings the account types of all customers, or of some tenants', up to date.

    Args:
        tenant_slugs: The tenants, or one of them; empty for all.
        as_of: Judge by this instant of the past (aware) instead of the database's clock.
        allow_mass_change: Slugs of tenants whose hold is released and whose mass demotion is meant.
        engine: The CRM's database; by default the one that ``LEORA_DATABASE_URL`` names.

    Returns:
        A result for each tenant, in the order of slugs.

    Raises:
        TenantsFailedError: Some tenants failed; the others are done and published.
        WrongUsageError: A slug is unknown, or `as_of` is no instant of the past.
        UnfitDatabaseError: The database cannot be trusted with a run.
    """
    settings = Settings.from_environment()
    engine = engine or configured_engine()
    require_fit_database(engine)
    run = plan_run(
        engine,
        tenant_slugs=[tenant_slugs] if isinstance(tenant_slugs, str) else tenant_slugs,
        as_of=as_of,
        allow_mass_change=allow_mass_change,
        write_dates=settings.write_last_order_date,
    )
    return run_all_steps(engine, run)


@dataclass(frozen=True)
class CustomerAccountType:
    """What became of one customer.

    Attributes:
        tenant_id: The customer's tenant.
        customer_id: ``"Customer".id``.
        account_type: The type in the CRM afterwards; None where it has none yet.
        last_order_at: The last order date by the customer's orders (UTC), or None.
        is_changed: Whether the type was changed.
    """

    tenant_id: UUID
    customer_id: UUID
    account_type: str | None
    last_order_at: datetime | None
    is_changed: bool


def update_customer_account_type(
    customer_id: UUID | str, *, engine: sa.Engine | None = None
) -> CustomerAccountType:
    """Brings one customer's account type up to date.

    A customer whom another transaction holds, and a demotion in a held tenant, are left to the next
    run.

    Args:
        customer_id: ``"Customer".id``.
        engine: The CRM's database; by default the one that ``LEORA_DATABASE_URL`` names.

    Raises:
        WrongUsageError: There is no such customer, or the id is none.
    """
    try:
        customer_id = UUID(str(customer_id))
    except ValueError:
        raise WrongUsageError(f"{customer_id!r} is no customer's id, which is a UUID") from None
    settings = Settings.from_environment()
    engine = engine or configured_engine()
    find = statement(SQL, "update.sql", "find_customer")
    with transaction(engine) as connection:
        before = connection.execute(find, {"customer_id": customer_id}).one_or_none()
        if before is None:
            raise WrongUsageError(f"no customer has the id {customer_id}")
        refreshed = refresh_customers(
            connection,
            before.tenant_id,
            [customer_id],
            as_of=None,
            write_dates=settings.write_last_order_date,
        )
        note_customers(connection, before.tenant_id, [] if refreshed else [customer_id])
    run = Run(run_id=str(uuid4()), tenants=(), write_dates=settings.write_last_order_date)
    with transaction(engine) as connection:
        locked = lock_customers(connection, before.tenant_id, only=[customer_id])
        applied = apply_customers(connection, run, before.tenant_id, locked, path=HOOK)
    with transaction(engine) as connection:
        after = connection.execute(find, {"customer_id": customer_id}).one_or_none() or before
    return CustomerAccountType(
        tenant_id=after.tenant_id,
        customer_id=customer_id,
        account_type=after.account_type,
        last_order_at=after.last_order_at,
        is_changed=applied.moved > 0,
    )
