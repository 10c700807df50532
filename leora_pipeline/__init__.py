"""Keeps every CRM customer's account type true.

The Python interface stands here; the rest of the package is its inside:

- `core`: the pipeline itself, on PostgreSQL.
- `orchestration`: the same as Dagster's assets, checks, jobs and schedules.
- `cli`: the same as the command ``leora``.
- `migrations`: the pipeline's schema in the CRM's database.
- `embedded`, `sample`: a PostgreSQL and a CRM to try it on.
"""

from leora_pipeline.core.errors import (
    LeoraError,
    TenantsFailedError,
    UnfitDatabaseError,
    WrongUsageError,
)
from leora_pipeline.core.realtime.hook import (
    HookResult,
    OrderCreated,
    after_order_create,
    after_order_create_batch,
)
from leora_pipeline.core.realtime.one_customer import (
    CustomerAccountType,
    update_customer_account_type,
)
from leora_pipeline.core.run.publish import AccountTypeUpdateResult
from leora_pipeline.core.run.update import update_account_types

__all__ = [
    "AccountTypeUpdateResult",
    "CustomerAccountType",
    "HookResult",
    "LeoraError",
    "OrderCreated",
    "TenantsFailedError",
    "UnfitDatabaseError",
    "WrongUsageError",
    "after_order_create",
    "after_order_create_batch",
    "update_account_types",
    "update_customer_account_type",
]
