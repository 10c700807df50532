"""``leora policy``: the thresholds and limits of each tenant, and what a change of them does."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Mapping

import click
import sqlalchemy as sa

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import json_option, tenant_option
from leora_pipeline.cli.output import echo, print_json, print_table, working
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.os_user import os_user
from leora_pipeline.core.policies.change import (
    PolicyChange,
    TenantPolicy,
    change_policy,
    read_policies,
)
from leora_pipeline.core.policies.fields import (
    SETTINGS,
    STATUSES,
    THRESHOLDS,
    Value,
    parse_name,
    parse_values,
)
from leora_pipeline.core.text import visible

_one_tenant_option = click.option(
    "--tenant-slug", metavar="S", required=True, help="The tenant whose policy it is."
)
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")

_NAMES = "\n".join(
    f"  {name.replace('_', '-'):<21} {setting.meaning}" for name, setting in SETTINGS.items()
)


@click.group("policy")
def command() -> None:
    """Show or change a tenant's thresholds, limits, and which orders count."""


@command.command("show")
@tenant_option
@json_option
def show(tenant_slugs: tuple[str, ...], as_json: bool) -> None:
    """Show policies, where they differ from the default, and who changed them last."""
    with crm_engine(writable=False) as engine:
        with transaction(engine) as connection:
            tenants = find_tenants(connection, tenant_slugs)
        policies = read_policies(engine, tenants)
    if as_json:
        print_json({"results": [_as_json(policy) for policy in policies]})
    else:
        for policy in policies:
            _print_policy(policy)


@command.command("set", epilog=f"\b\nNAME is one of:\n{_NAMES}")
@click.argument("assignments", metavar="NAME=VALUE...", nargs=-1, required=True)
@_one_tenant_option
@_yes_option
@json_option
def set_values(assignments: tuple[str, ...], tenant_slug: str, yes: bool, as_json: bool) -> None:
    """Change values of a tenant's policy, after saying how many customers that moves."""
    _change(tenant_slug, lambda connection: parse_values(connection, assignments), yes, as_json)


@command.command("unset")
@click.argument("names", metavar="[NAME...]", nargs=-1)
@_one_tenant_option
@_yes_option
@json_option
def unset_values(names: tuple[str, ...], tenant_slug: str, yes: bool, as_json: bool) -> None:
    """Put values of a tenant's policy, or all, back to the default."""
    values = dict.fromkeys(map(parse_name, names or SETTINGS))
    _change(tenant_slug, lambda _: values, yes, as_json)


def _change(
    tenant_slug: str,
    read_values: Callable[[sa.Connection], Mapping[str, Value | None]],
    yes: bool,
    as_json: bool,
) -> None:
    """Shows what a change would do, asks, and does it."""
    with crm_engine() as engine:
        with transaction(engine) as connection:
            [tenant] = find_tenants(connection, [tenant_slug])
            values = read_values(connection)
        with working("counting the customers that would move"):
            change = change_policy(engine, tenant, values, changed_by=os_user(), dry_run=True)
        if change.after:
            if not as_json:
                _print_change(tenant_slug, change)
            elif not yes:
                print_json({"tenant_slug": tenant_slug, **_change_as_json(change)})
            if not yes:
                if as_json or not sys.stdin.isatty():
                    raise WrongUsageError(
                        "there is no terminal to ask on, so nothing was written; --yes does it"
                    )
                if not click.confirm(f"Change the policy of {visible(tenant_slug)}?", err=True):
                    echo("Nothing was written.")
                    raise SystemExit(1)
            change = change_policy(engine, tenant, values, changed_by=os_user())
    if as_json:
        print_json({"tenant_slug": tenant_slug, **_change_as_json(change)})
    elif not change.after:
        echo(f"The policy of {tenant_slug} is that already; nothing was written.")
    else:
        echo(_outlook(tenant_slug, change))


def _outlook(tenant_slug: str, change: PolicyChange) -> str:
    """Says what happens next."""
    if not change.moves and set(change.after).isdisjoint((*THRESHOLDS, STATUSES)):
        return "✅ Written. The gate and the checks judge by it from now on."
    return (
        "✅ Written. The next incremental run moves them; "
        f"`leora update --incremental --tenant-slug {shlex.quote(tenant_slug)}` does it now."
        if change.moves
        else "✅ Written. No customer moves for now; the runs judge by it from now on."
    )


def _as_json(policy: TenantPolicy) -> dict[str, object]:
    return {
        "tenant_slug": policy.tenant_slug,
        "policy": policy.policy,
        "default": policy.default,
        "differing": [n for n in SETTINGS if policy.policy[n] != policy.default[n]],
        "changes": [dataclasses.asdict(change) for change in policy.changes],
    }


def _change_as_json(change: PolicyChange) -> dict[str, object]:
    return {
        "before": change.before,
        "after": change.after,
        "moves": [
            {"from": move.from_type, "to": move.to_type, "count": move.count}
            for move in change.moves
        ],
    }


def _print_policy(policy: TenantPolicy) -> None:
    print_table(
        f"Policy of {policy.tenant_slug}",
        ["name", "value", "default where it differs", "meaning"],
        [
            [
                name.replace("_", "-"),
                _shown(policy.policy[name]),
                _shown(policy.default[name])
                if policy.policy[name] != policy.default[name]
                else None,
                setting.meaning,
            ]
            for name, setting in SETTINGS.items()
        ],
    )
    if policy.changes:
        print_table(
            "Latest changes",
            ["time (UTC)", "by", "what"],
            [
                [
                    f"{change.changed_at:%Y-%m-%d %H:%M:%S}",
                    change.changed_by,
                    "; ".join(
                        f"{name.replace('_', '-')}: {_shown(change.before[name])} → "
                        f"{_shown(change.after[name])}"
                        for name in SETTINGS
                        if name in change.after
                    ),
                ]
                for change in policy.changes
            ],
        )


def _print_change(tenant_slug: str, change: PolicyChange) -> None:
    print_table(
        f"Policy of {tenant_slug}",
        ["name", "old", "new"],
        [
            [name.replace("_", "-"), _shown(change.before[name]), _shown(change.after[name])]
            for name in change.after
        ],
    )
    if change.moves:
        print_table(
            f"Customers that move ({sum(move.count for move in change.moves)})",
            ["from", "to", "customers"],
            [[move.from_type, move.to_type, move.count] for move in change.moves],
        )
    else:
        echo("No customer moves.")


def _shown(value: Value) -> str:
    if isinstance(value, list):
        return ",".join(value) or "(none)"
    return str(value)
