"""The fields of a policy: what each means, and how people write its value.

What does not belong here: writing one, which `change` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

import sqlalchemy as sa

from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import WrongUsageError

SQL = statements(__name__)


Value = int | float | str | list[str]
"""A value of a policy, as JSON has it."""


@dataclass(frozen=True)
class Setting:
    """One value of a policy.

    Attributes:
        kind: How it is written.
        meaning: What it says, for people.
    """

    kind: Literal["unit", "number", "count", "percent", "statuses"]
    meaning: str


SETTINGS = {
    "threshold_unit": Setting("unit", "what the two thresholds count"),
    "active_within": Setting("number", "ACTIVE: the last order is at most so many of them old"),
    "target_within": Setting("number", "TARGET: it is older, and at most so many of them old"),
    "uncounted_statuses": Setting("statuses", "orders of these statuses do not count"),
    "healthy_active_min": Setting("percent", "healthy share of ACTIVE, from"),
    "healthy_active_max": Setting("percent", "healthy share of ACTIVE, to"),
    "healthy_target_min": Setting("percent", "healthy share of TARGET, from"),
    "healthy_target_max": Setting("percent", "healthy share of TARGET, to"),
    "healthy_prospect_min": Setting("percent", "healthy share of PROSPECT, from"),
    "healthy_prospect_max": Setting("percent", "healthy share of PROSPECT, to"),
    "high_churn_below": Setting("percent", "alert: ACTIVE below this share"),
    "poor_retention_above": Setting("percent", "alert: TARGET above this share"),
    "future_orders_above": Setting(
        "percent", "warning: orders dated in the future above this share"
    ),
    "gate_percent": Setting("percent", "gate: holds above this share of order loss, and"),
    "gate_customers": Setting("count", "gate: more than so many customers"),
    "min_customers": Setting("count", "tenants of fewer customers are not judged by their shares"),
}
"""The columns of ``tenant_policy``, but for the tenant's."""


THRESHOLDS = ("threshold_unit", "active_within", "target_within")


STATUSES = "uncounted_statuses"


_TAKES = {
    "unit": "day or month",
    "number": "a whole number of days or months",
    "count": "a whole number, 0 or more",
    "percent": "a percentage from 0 to 100 with at most two decimals",
    "statuses": "statuses of orders with commas between them",
}


REFUSALS = {
    "thresholds_ascend": (
        "active-within must be at least 1 and less than target-within, "
        "and target-within at most 36500"
    ),
    "healthy_ranges": ("each healthy range must lie between 0 and 100, its min not above its max"),
    **{
        f"tenant_policy_{name}_check": f"{name.replace('_', '-')} takes {_TAKES[setting.kind]}"
        for name, setting in SETTINGS.items()
    },
}
"""What the constraints of ``tenant_policy`` ask for, in words."""


def parse_name(text: str) -> str:
    """Reads the name of a value, in kebab- or snake-case.

    Raises:
        WrongUsageError: There is none of that name.
    """
    name = text.strip().replace("-", "_")
    if name not in SETTINGS:
        known = ", ".join(known.replace("_", "-") for known in SETTINGS)
        raise WrongUsageError(f"a policy has no {text!r}; it has {known}")
    return name


def parse_values(connection: sa.Connection, assignments: Sequence[str]) -> dict[str, Value]:
    """Reads what is to be set, each as ``NAME=VALUE``.

    Raises:
        WrongUsageError: A name or a value is none, or a status is not one of the CRM's.
    """
    values: dict[str, Value] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise WrongUsageError(f"{assignment!r} sets nothing; write NAME=VALUE")
        name = parse_name(name)
        if name in values:
            raise WrongUsageError(f"{name.replace('_', '-')} is given twice; give it once")
        values[name] = _parse_value(connection, name, text.strip())
    return values


def _parse_value(connection: sa.Connection, name: str, text: str) -> Value:
    kind = SETTINGS[name].kind
    if kind == "unit":
        return text
    if kind == "statuses":
        return _parse_statuses(connection, text)
    try:
        number = Decimal(text)
        places = 2 if kind == "percent" else 0
        if not number.is_finite() or number != round(number, places):
            raise InvalidOperation
    except InvalidOperation:
        raise WrongUsageError(
            f"{name.replace('_', '-')} cannot be {text!r}; it takes {_TAKES[kind]}"
        ) from None
    return plain_value(number)


def _parse_statuses(connection: sa.Connection, text: str) -> list[str]:
    statuses = {status.strip() for status in text.split(",")} - {""}
    known = list(connection.execute(SQL.order_statuses).scalars())
    unknown = sorted(statuses.difference(known))
    if unknown:
        raise WrongUsageError(
            f"the CRM's orders have no status {', '.join(unknown)}; known are: {', '.join(known)}"
        )
    return sorted(statuses)


def plain_value(value: object) -> Value:
    """Returns a value as JSON has it, always the same for what means the same."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return sorted(value)
    assert isinstance(value, int | str)
    return value
