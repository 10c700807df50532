"""Policies: what each tenant's thresholds and limits are, and what a change of them does.

The database refuses values that make no sense, and its functions judge by the table. A change is
written with its record and with the customers that it reclassifies (in
``policy_reclassification``), so that the next run does not take these for customers whose orders
are missing. What does not belong here: writing the new types, which is the next run's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.account_types import Transition
from leora_pipeline.core.crm.tenants import Tenant
from leora_pipeline.core.database.connection import (
    lock,
    now,
    transaction,
    tune_for_whole_tables,
)
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.policies.fields import (
    REFUSALS,
    SETTINGS,
    STATUSES,
    THRESHOLDS,
    Value,
    plain_value,
)

SQL = statements(__name__)


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
                        SQL.changes,
                        {"tenant_id": tenant.tenant_id, "limit": limit},
                    )
                ],
            )
            for tenant in tenants
        ]


def change_policy(
    engine: sa.Engine,
    tenant: Tenant,
    values: Mapping[str, Value | None],
    *,
    changed_by: str,
    dry_run: bool = False,
) -> PolicyChange:
    """Changes a tenant's policy, records it, and enqueues the customers that it moves.

    It waits for another change of the same policy alone, and no run waits for it. Changed statuses
    take a second transaction; killed before it, an order that a run looked at by the old policy at
    that very moment is left to the nightly run.

    Args:
        engine: The CRM's database.
        tenant: The tenant.
        values: What to set, by name; None for the default's value.
        changed_by: Who is to be recorded; the database's role is added.
        dry_run: Whether only to find out what would happen: all of it is rolled back.

    Raises:
        WrongUsageError: The database refused the values, alone or together with the others.
    """
    try:
        with transaction(engine) as connection:
            change = _change(connection, tenant.tenant_id, values, changed_by)
            if dry_run:
                connection.rollback()
    except (sa.exc.IntegrityError, sa.exc.DataError) as error:
        constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
        refusal = REFUSALS.get(constraint or "", "a number is too large")
        raise WrongUsageError(
            f"the policy is refused, and nothing was written: {refusal}"
        ) from error
    if STATUSES in change.after and not dry_run:
        # Once more: an order that was committed while the policy was not yet may have been looked
        # at by a run that still went by the old one.
        with transaction(engine) as connection:
            _enqueue_recounted(connection, tenant.tenant_id, change)
    return change


def _change(
    connection: sa.Connection,
    tenant_id: UUID,
    values: Mapping[str, Value | None],
    changed_by: str,
) -> PolicyChange:
    """Does all of a change that has to be done in one transaction."""
    scope = {"tenant_id": tenant_id}
    lock(connection, "policy", tenant_id)
    old, default = _policy(connection, tenant_id), _policy(connection, None)
    new = old | {name: default[name] if value is None else value for name, value in values.items()}
    changed = [name for name in new if new[name] != old[name]]
    change = PolicyChange({n: old[n] for n in changed}, {n: new[n] for n in changed}, [])
    if not changed:
        return change
    moment = {**scope, "as_of": now(connection)}
    tune_for_whole_tables(connection)
    if STATUSES in changed:
        connection.execute(SQL.create_policy_before)
        connection.execute(SQL.remember_before, moment)
    connection.execute(SQL.delete_policy, scope)
    if new != default:
        connection.execute(SQL.insert_policy, {**scope, "policy": json.dumps(new)})
    connection.execute(
        SQL.record_change,
        {
            **scope,
            "changed_by": changed_by,
            "before": json.dumps(change.before),
            "after": json.dumps(change.after),
        },
    )
    if STATUSES in changed:
        reclassified = connection.execute(SQL.reclassify_by_statuses, moment)
        change.moves.extend(Transition(*row) for row in reclassified)
        _enqueue_recounted(connection, tenant_id, change)
    elif not set(changed).isdisjoint(THRESHOLDS):
        reclassified = connection.execute(
            SQL.reclassify_by_thresholds,
            {**moment, **{name: old[name] for name in THRESHOLDS}},
        )
        change.moves.extend(Transition(*row) for row in reclassified)
    connection.execute(SQL.enqueue_reclassified, scope)
    return change


def _enqueue_recounted(connection: sa.Connection, tenant_id: UUID, change: PolicyChange) -> None:
    """Enqueues every customer with an order of a status that counts otherwise than before."""
    before, after = change.before[STATUSES], change.after[STATUSES]
    assert isinstance(before, list)
    assert isinstance(after, list)
    connection.execute(
        SQL.enqueue_recounted,
        {"tenant_id": tenant_id, "statuses": sorted(set(before).symmetric_difference(after))},
    )


def _policy(connection: sa.Connection, tenant_id: UUID | None) -> dict[str, Value]:
    """Returns the values of a tenant's policy, or of the default, by name."""
    row = connection.execute(SQL.policy, {"tenant_id": tenant_id}).one()
    return {name: plain_value(row._mapping[name]) for name in SETTINGS}
