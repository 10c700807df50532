"""``leora update``: the full job without Dagster."""

from __future__ import annotations

import dataclasses
import time
from datetime import datetime

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import as_of_option, json_option, tenant_option
from leora_pipeline.cli.output import echo, print_json, print_summary, progress
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.errors import TenantsFailedError, WrongUsageError
from leora_pipeline.core.run.run import is_reason, resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline.core.settings import Settings


@click.command("update")
@tenant_option
@as_of_option
@click.option(
    "--allow-mass-change",
    is_flag=True,
    help="Release the hold of the tenants named (or of all) and write their demotions.",
)
@click.option(
    "--reason",
    metavar="TEXT",
    default="",
    help="Why a mass change is meant: required with --allow-mass-change, and recorded.",
)
@click.option(
    "--incremental",
    is_flag=True,
    help="Take only customers that a change concerns, or that time has outdated.",
)
@json_option
def command(
    *,
    tenant_slugs: tuple[str, ...],
    as_of: datetime | None,
    allow_mass_change: bool,
    reason: str,
    incremental: bool,
    as_json: bool,
) -> None:
    """Bring the account types of all customers up to date."""
    if incremental and as_of is not None:
        raise WrongUsageError("--incremental is about now; leave out --as-of, or --incremental")
    if allow_mass_change and not is_reason(reason):
        raise WrongUsageError(
            "--allow-mass-change needs a reason, which is recorded; "
            "say why the orders are meant to be gone: --reason TEXT"
        )
    if reason and not allow_mass_change:
        raise WrongUsageError(
            "--reason says why a mass change is meant; leave it out, or add --allow-mass-change"
        )
    if not as_json:
        echo("[update-account-types] Starting daily account type update...")
    with crm_engine() as engine:
        begun = time.monotonic()
        with transaction(engine) as connection:
            instant = as_of or now(connection)
            tenants = find_tenants(connection, tenant_slugs)
        errors: dict[str, str] = {}
        with progress() as on_progress:
            run = resolve_run(
                engine,
                tenant_slugs=tenant_slugs,
                as_of=as_of,
                allow_mass_change=[tenant.slug for tenant in tenants] if allow_mass_change else [],
                reason=reason,
                mode="incremental" if incremental else "full",
                write_dates=Settings.from_environment().write_last_order_date,
                on_progress=on_progress,
            )
            try:
                results = run_all_steps(engine, run)
            except TenantsFailedError as error:
                results, errors = error.results, error.errors
        duration_ms = round(1000 * (time.monotonic() - begun))
    if as_json:
        print_json(
            {
                "as_of": instant,
                "duration_ms": duration_ms,
                "results": [dataclasses.asdict(result) for result in results],
                **({"errors": errors} if errors else {}),
            }
        )
    else:
        print_summary(results, duration_ms)
    if errors:
        raise TenantsFailedError(errors)
    if any(result.held for result in results):
        raise SystemExit(1)
