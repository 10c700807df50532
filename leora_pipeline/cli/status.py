"""``leora status``: is it healthy, and if not, what is wrong."""

from __future__ import annotations

import dataclasses

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import json_option
from leora_pipeline.cli.output import MARKS, print_incidents, print_json, print_table
from leora_pipeline.core.reporting.problems import find_problems
from leora_pipeline.core.reporting.status import read_status


@click.command("status")
@json_option
def command(as_json: bool) -> None:
    """Show how the pipeline stands; exit 1 where anything is wrong, or older than 2 days."""
    with crm_engine(writable=False) as engine:
        status = read_status(engine)
    found = find_problems(status)
    problems = [problem for problem in found if problem.severity == "error"]
    warnings = [problem for problem in found if problem.severity == "warn"]
    if as_json:
        print_json(
            {
                "ok": not problems,
                "problems": [str(problem) for problem in problems],
                "warnings": [str(warning) for warning in warnings],
                "pending": status.pending,
                "oldest_pending_seconds": status.oldest_pending_seconds,
                **dataclasses.asdict(status),
            }
        )
    else:
        click.echo(f"Schema leora_pipeline: revision {status.schema_revision}")
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
            click.echo(
                f"Changes are not captured (no trigger {', '.join(status.missing_triggers)}): "
                "full runs alone see them; `leora migrate` sets the triggers"
            )
        waited = status.oldest_pending_seconds
        click.echo(
            f"Changes pending: {status.pending}"
            + (f", the oldest for {waited:.0f} s" if waited is not None else "")
        )
        click.echo(
            f"Listeners: {len(status.listeners)}"
            + ("" if status.listeners else " (changes are the sensor's: seconds, not milliseconds)")
        )
        click.echo(f"Customers not yet synced to the CRM: {status.unsynced}")
        oldest = status.oldest_transaction_seconds
        click.echo(f"Oldest open transaction: {f'{oldest:.0f} s' if oldest else 'none'}")
        if status.incidents:
            print_incidents("Alerts, open or resolved within a day", status.incidents)
        click.echo(
            f"Messages not delivered yet: {status.unsent_messages}"
            + (f" ({status.delivery_error})" if status.delivery_error else "")
        )
        click.echo("Problems:" if problems else "✅ Nothing is wrong.")
        for problem in problems:
            click.echo(f"  {MARKS['failed']} {problem}")
        for warning in warnings:
            click.echo(f"  {MARKS['warned']} {warning}")
    if problems:
        raise SystemExit(1)
