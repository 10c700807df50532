"""Keeps every CRM customer's account type true.

The Python interface stands here; the rest of the package is its inside:

- `core`: the pipeline itself, on PostgreSQL.
- `orchestration`: the same as Dagster's assets, checks, jobs and schedules.
- `cli`: the same as the command ``leora``.
- `migrations`: the pipeline's schema in the CRM's database.
- `embedded`, `sample`: a PostgreSQL and a CRM to try it on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {
    "AccountTypeUpdateResult": "run.publish",
    "CustomerAccountType": "realtime.one_customer",
    "HookResult": "realtime.hook",
    "LeoraError": "errors",
    "OrderCreated": "realtime.hook",
    "TenantsFailedError": "errors",
    "UnfitDatabaseError": "errors",
    "WrongUsageError": "errors",
    "after_order_create": "realtime.hook",
    "after_order_create_batch": "realtime.hook",
    "update_account_types": "run.update",
    "update_customer_account_type": "realtime.one_customer",
}
"""Where the names of the interface stand, within `core`. They are imported when they are asked for:
`leora --help` needs none of them."""

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

if not TYPE_CHECKING:  # A type checker would take every name for one of the interface.

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.core.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
