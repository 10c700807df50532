"""One customer, brought up to date on request, by its id."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import sqlalchemy as sa

from leora_pipeline.core.customers.refresh import enqueue_customers
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import configured_engine
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.realtime.batch import bring_up_to_date
from leora_pipeline.core.settings import Settings

SQL = statements(__name__)


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

    It is a batch of one customer, in one transaction. A customer that another transaction holds,
    and a demotion in a held tenant, are deferred to the next run.

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
    writer = Writer(
        run_id=str(uuid4()),
        fallback_cause="hook",
        write_dates=settings.write_last_order_date,
    )
    with transaction(engine) as connection:
        before = connection.execute(SQL.find_customer, {"customer_id": customer_id}).one_or_none()
        if before is None:
            raise WrongUsageError(f"no customer has the id {customer_id}")
        batch = bring_up_to_date(connection, writer, before.tenant_id, [customer_id])
        if batch.skipped:
            enqueue_customers(connection, before.tenant_id, [customer_id])
        after = (
            connection.execute(SQL.find_customer, {"customer_id": customer_id}).one_or_none()
            or before
        )
    return CustomerAccountType(
        tenant_id=after.tenant_id,
        customer_id=customer_id,
        account_type=after.account_type,
        last_order_at=after.last_order_at,
        is_changed=batch.moved > 0,
    )
