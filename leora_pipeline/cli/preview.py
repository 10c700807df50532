"""``leora preview``: the dry run."""

from __future__ import annotations

import dataclasses
import shlex
from datetime import UTC, datetime

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import as_of_option, json_option, tenant_option
from leora_pipeline.cli.output import echo, percent, print_json, print_table, working
from leora_pipeline.core.account_types import TYPES, UNCLASSIFIED
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.customers.gate import describe_mass_change, describe_order_loss
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.reporting.preview import Preview, TenantPreview, preview


@click.command("preview")
@tenant_option
@as_of_option
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Misclassified customers to name for each tenant.",
)
@json_option
def command(
    tenant_slugs: tuple[str, ...], as_of: datetime | None, limit: int, as_json: bool
) -> None:
    """Show what an update would change, and why. Writes nothing anywhere."""
    with crm_engine(writable=False) as engine:
        with transaction(engine) as connection:
            tenants = find_tenants(connection, tenant_slugs)
        with working("reading orders"):
            seen = preview(engine, tenants, as_of=as_of, limit=limit)
    if as_json:
        print_json({"as_of": seen.as_of, "results": [_as_json(t) for t in seen.tenants]})
    else:
        _print(seen, as_of)


def _as_json(tenant: TenantPreview) -> dict[str, object]:
    return {
        "tenant_slug": tenant.tenant_slug,
        "total": tenant.total,
        "correct": tenant.correct,
        "incorrect": tenant.incorrect,
        "current": {name: tenant.current[name] for name in (*TYPES, UNCLASSIFIED)},
        "expected": {name: tenant.expected[name] for name in TYPES},
        "pinned": tenant.pinned,
        "would_be_held": tenant.would_be_held,
        "transitions": [
            {"from": move.from_type, "to": move.to_type, "count": move.count}
            for move in tenant.transitions
        ],
        "misclassified": [dataclasses.asdict(customer) for customer in tenant.misclassified],
    }


def _print(seen: Preview, as_of: datetime | None) -> None:
    for tenant in seen.tenants:
        echo()
        echo(f"{tenant.tenant_slug} as of {seen.as_of:%Y-%m-%d %H:%M:%S} UTC")
        echo(f"  Customers: {tenant.total} (and {tenant.pinned} pinned)")
        echo(f"  Correct: {tenant.correct} ({percent(tenant.correct, tenant.total)})")
        echo(f"  Incorrect: {tenant.incorrect} ({percent(tenant.incorrect, tenant.total)})")
        print_table(
            "Distribution",
            ["type", "current", "", "expected", ""],
            [
                [
                    name,
                    tenant.current[name],
                    percent(tenant.current[name], tenant.total),
                    tenant.expected[name],
                    percent(tenant.expected[name], tenant.total),
                ]
                for name in (*TYPES, UNCLASSIFIED)
            ],
        )
        if tenant.transitions:
            print_table(
                "Transitions",
                ["from", "to", "customers"],
                [
                    [move.from_type or UNCLASSIFIED, move.to_type, move.count]
                    for move in tenant.transitions
                ],
            )
        if tenant.misclassified:
            print_table(
                f"Misclassified customers ({len(tenant.misclassified)} of {tenant.incorrect})",
                ["customer", "name", "current", "expected", "reason"],
                [
                    [c.customer_id, c.name, c.current or UNCLASSIFIED, c.expected, c.reason]
                    for c in tenant.misclassified
                ],
            )
        for line in _advice(tenant, as_of):
            echo(f"  → {line}")


def _advice(tenant: TenantPreview, as_of: datetime | None) -> list[str]:
    """Says what to do next, in commands that do just that when they are typed as they stand."""
    scope = f"--tenant-slug {shlex.quote(tenant.tenant_slug)}"
    if as_of is not None:
        scope += f" --as-of {as_of:%Y-%m-%dT%H:%M:%S.%fZ}"
    if not tenant.total:
        return ["No customers to classify."]
    if not tenant.incorrect:
        return ["All account types are right; nothing to do."]
    if as_of is not None and as_of > datetime.now(UTC):
        return ["Nothing to do now: the nightly runs make these changes as their time comes."]
    lines = [f"Run `leora update {scope}` to correct {tenant.incorrect} customers."]
    if tenant.would_be_held:
        lines = [
            f"An update would hold this tenant: {describe_order_loss()}. "
            "Look for missing orders first.",
            f"If they are meant to be gone, say why: {describe_mass_change(scope)}.",
        ]
    if tenant.incorrect > len(tenant.misclassified):
        lines.append(f"`leora preview {scope} --limit {tenant.incorrect}` names all of them.")
    return lines
