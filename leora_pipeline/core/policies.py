"""Policies: what each tenant's thresholds and limits are, and what a change of them does.

The database refuses what makes no sense, and its functions judge by what stands there; nothing else
has to be told. A change is written with its record and with whom it moves (``policy_shift``), so
that the next run can tell them from customers whose orders are missing. What does not belong here:
moving them, which is the next run's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Literal
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.database import SQL, now, plan_for_whole_tables, transaction
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.preview import Transition
from leora_pipeline.core.statements import statement
from leora_pipeline.core.tenants import Tenant

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
    "gate_percent": Setting("percent", "gate: holds where more than this share lost orders, and"),
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

_REFUSED = {
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


@dataclass(frozen=True)
class RecordedChange:
    """A change of a tenant's policy: who made it when, and the values that it changed."""

    changed_at: datetime
    changed_by: str
    before: dict[str, Value]
    after: dict[str, Value]


@dataclass(frozen=True)
class TenantPolicy:
    """A tenant's policy.

    Attributes:
        tenant_slug: The tenant.
        policy: Its values, by name.
        default: Those of the default.
        changes: The latest changes, newest first.
    """

    tenant_slug: str
    policy: dict[str, Value]
    default: dict[str, Value]
    changes: list[RecordedChange]


@dataclass(frozen=True)
class PolicyChange:
    """What a change does, or would do.

    Attributes:
        before: The values that it changes; empty where it changes none.
        after: The same as they are afterwards.
        moves: How many customers get another type by the rule.
    """

    before: dict[str, Value]
    after: dict[str, Value]
    moves: list[Transition]


def read_policies(
    engine: sa.Engine, tenants: Sequence[Tenant], *, limit: int = 5
) -> list[TenantPolicy]:
    """Reads the policies of tenants, and their latest changes, `limit` at most for each."""
    with transaction(engine, snapshot=True) as connection:
        default = _policy(connection, None)
        return [
            TenantPolicy(
                tenant.slug,
                _policy(connection, tenant.tenant_id),
                default,
                [
                    RecordedChange(**row._mapping)
                    for row in connection.execute(
                        statement(SQL, "policies.sql", "changes"),
                        {"tenant_id": tenant.tenant_id, "limit": limit},
                    )
                ],
            )
            for tenant in tenants
        ]


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
    """Reads what somebody wants to set, each as ``NAME=VALUE``.

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
    return _plain(number)


def _parse_statuses(connection: sa.Connection, text: str) -> list[str]:
    statuses = {status.strip() for status in text.split(",")} - {""}
    known = list(connection.execute(statement(SQL, "policies.sql", "order_statuses")).scalars())
    unknown = sorted(statuses.difference(known))
    if unknown:
        raise WrongUsageError(
            f"the CRM's orders have no status {', '.join(unknown)}; known are: {', '.join(known)}"
        )
    return sorted(statuses)


def change_policy(
    engine: sa.Engine,
    tenant: Tenant,
    values: Mapping[str, Value | None],
    *,
    changed_by: str,
    is_rehearsal: bool = False,
) -> PolicyChange:
    """Changes a tenant's policy, records it, and leaves whom it moves to the next run.

    It waits for another change of the same policy alone, and nobody waits for it. Changed statuses
    take a second transaction; killed before it, an order that a run looked at by the old policy at
    that very moment is left to the nightly run.

    Args:
        engine: The CRM's database.
        tenant: The tenant.
        values: What to set, by name; None for the default's value.
        changed_by: Who is to be recorded; the database's role is added.
        is_rehearsal: Whether only to find out what would happen: all of it is rolled back.

    Raises:
        WrongUsageError: The database refused the values, alone or together with the others.
    """
    try:
        with transaction(engine) as connection:
            change = _change(connection, tenant.tenant_id, values, changed_by)
            if is_rehearsal:
                connection.rollback()
    except (sa.exc.IntegrityError, sa.exc.DataError) as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        told = _REFUSED.get(constraint or "", "a number is too large")
        raise WrongUsageError(f"the policy is refused, and nothing was written: {told}") from error
    if STATUSES in change.after and not is_rehearsal:
        # Once more: an order that was committed while the policy was not yet may have been looked
        # at by a run that still went by the old one.
        with transaction(engine) as connection:
            _note_recounted(connection, tenant.tenant_id, change)
    return change


def _change(
    connection: sa.Connection,
    tenant_id: UUID,
    values: Mapping[str, Value | None],
    changed_by: str,
) -> PolicyChange:
    """Does all of a change that has to be done in one transaction."""
    scope = {"tenant_id": tenant_id}
    connection.execute(statement(SQL, "policies.sql", "lock_policy"), scope)
    old, default = _policy(connection, tenant_id), _policy(connection, None)
    new = old | {name: default[name] if value is None else value for name, value in values.items()}
    changed = [name for name in new if new[name] != old[name]]
    change = PolicyChange({n: old[n] for n in changed}, {n: new[n] for n in changed}, [])
    if not changed:
        return change
    moment = {**scope, "as_of": now(connection)}
    plan_for_whole_tables(connection)
    if STATUSES in changed:
        connection.execute(statement(SQL, "policies.sql", "create_policy_before"))
        connection.execute(statement(SQL, "policies.sql", "remember_before"), moment)
    if new == default:
        connection.execute(statement(SQL, "policies.sql", "forget_policy"), scope)
    else:
        connection.execute(
            statement(SQL, "policies.sql", "write_policy"), {**scope, "policy": json.dumps(new)}
        )
    connection.execute(
        statement(SQL, "policies.sql", "record_change"),
        {
            **scope,
            "changed_by": changed_by,
            "before": json.dumps(change.before),
            "after": json.dumps(change.after),
        },
    )
    if STATUSES in changed:
        shifted = connection.execute(statement(SQL, "policies.sql", "shift_by_statuses"), moment)
        change.moves.extend(Transition(*row) for row in shifted)
        _note_recounted(connection, tenant_id, change)
    elif not set(changed).isdisjoint(THRESHOLDS):
        shifted = connection.execute(
            statement(SQL, "policies.sql", "shift_by_thresholds"),
            {**moment, **{name: old[name] for name in THRESHOLDS}},
        )
        change.moves.extend(Transition(*row) for row in shifted)
    connection.execute(statement(SQL, "policies.sql", "note_shifted"), scope)
    return change


def _note_recounted(connection: sa.Connection, tenant_id: UUID, change: PolicyChange) -> None:
    """Has everybody looked at who has an order of a status that counts otherwise than before."""
    before, after = change.before[STATUSES], change.after[STATUSES]
    assert isinstance(before, list)
    assert isinstance(after, list)
    connection.execute(
        statement(SQL, "policies.sql", "note_recounted"),
        {"tenant_id": tenant_id, "statuses": sorted(set(before).symmetric_difference(after))},
    )


def _policy(connection: sa.Connection, tenant_id: UUID | None) -> dict[str, Value]:
    """Returns the values of a tenant's policy, or of the default, by name."""
    row = connection.execute(
        statement(SQL, "policies.sql", "policy"), {"tenant_id": tenant_id}
    ).one()
    return {name: _plain(row._mapping[name]) for name in SETTINGS}


def _plain(value: object) -> Value:
    """Returns a value as JSON has it, always the same for what means the same."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return sorted(value)
    assert isinstance(value, int | str)
    return value
