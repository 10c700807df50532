"""``leora status``: is it healthy, and if not, what is wrong."""

from __future__ import annotations

import dataclasses

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import json_option
from leora_pipeline.cli.output import (
    MARKS,
    echo,
    print_incidents,
    print_json,
    print_table,
)
from leora_pipeline.core.reporting.problems import find_problems
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline.core.settings import Settings


@click.command("status")
@json_option
def command(as_json: bool) -> None:
    """Show how the pipeline stands; exit 1 where anything is wrong, or older than 2 days."""
    with crm_engine(writable=False) as engine:
        status = read_status(engine)
    faults = Settings.from_environment().faults()
    found = find_problems(status)
    problems = [*faults, *(str(problem) for problem in found if problem.severity == "error")]
    warnings = [str(problem) for problem in found if problem.severity == "warn"]
    if as_json:
        print_json(
            {
                "ok": not problems,
                "problems": problems,
                "warnings": warnings,
                "pending": status.pending,
                "oldest_pending_seconds": status.oldest_pending_seconds,
                **dataclasses.asdict(status),
            }
        )
    else:
        echo(f"Schema leora_pipeline: revision {status.schema_revision}")
        print_table(
            "Tenants",
            ["tenant", "last full success (UTC)", "last run"],
            [
                [
                    tenant.tenant_slug,
                    f"{tenant.last_full_success:%Y-%m-%d %H:%M:%S}"
                    if tenant.last_full_success
                    else "never",
                    tenant.last_status or "none",
                ]
                for tenant in status.tenants
            ],
        )
        if status.missing_triggers:
            echo(
                f"Changes are not captured (no trigger {', '.join(status.missing_triggers)}): "
                "full runs alone see them; `leora migrate` sets the triggers"
            )
        for door in status.open_doors:
            echo(f"{MARKS['warned']} Open door: {door}")
        waited = status.oldest_pending_seconds
        echo(
            f"Changes pending: {status.pending}"
            + (f", the oldest for {waited:.0f} s" if waited is not None else "")
        )
        echo(
            f"Listeners: {len(status.listeners)}"
            + ("" if status.listeners else " (changes are the sensor's: seconds, not milliseconds)")
        )
        echo(f"Customers not yet synced to the CRM: {status.unsynced}")
        oldest = status.oldest_transaction_seconds
        if status.sees_transactions:
            echo(f"Oldest open transaction: {f'{oldest:.0f} s' if oldest else 'none'}")
        else:
            echo("Oldest open transaction: hidden from this role (GRANT pg_read_all_stats)")
        if status.incidents:
            print_incidents("Alerts, open or resolved within a day", status.incidents)
        echo(
            f"Messages not delivered yet: {status.unsent_messages}"
            + (f" ({status.delivery_error})" if status.delivery_error else "")
        )
        echo("Problems:" if problems else "✅ Nothing is wrong.")
        for problem in problems:
            echo(f"  {MARKS['failed']} {problem}")
        for warning in warnings:
            echo(f"  {MARKS['warned']} {warning}")
    if problems:
        raise SystemExit(1)
