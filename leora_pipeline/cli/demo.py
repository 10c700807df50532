"""``leora demo``: the whole pipeline once, on a sample CRM, through Dagster."""

from __future__ import annotations

import time
import warnings

import click

from leora_pipeline.cli.databases import dagster_environment
from leora_pipeline.cli.output import echo, print_summary, print_verdicts, working
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.errors import LeoraError
from leora_pipeline.core.quality.catalog import read_verdicts
from leora_pipeline.core.run.publish import read_results
from leora_pipeline.core.run.run import resolve_run


@click.command("demo")
def command() -> None:
    """Compute the account types of a sample CRM of several tenants, in an embedded database."""
    echo("[update-account-types] Starting daily account type update...")
    with dagster_environment(demo=True) as url:
        begun = time.monotonic()
        with working("running refresh_account_types through Dagster"):
            run_id = _run_through_dagster()
        duration_ms = round(1000 * (time.monotonic() - begun))
        engine = create_engine(url)
        results = read_results(engine, resolve_run(engine, run_id=run_id))
        print_summary(results, duration_ms)
        moved = {
            name: sum(result.changed[name] for result in results)
            for name in ("ACTIVE", "TARGET", "PROSPECT")
        }
        echo(
            f"  - Customers moved: {sum(moved.values())} "
            f"({', '.join(f'{count} to {name}' for name, count in moved.items())})"
        )
        print_verdicts(read_verdicts(engine, run_id))
        engine.dispose()
    echo(
        "Next: `make dev` opens the Dagster UI on this CRM; `.venv/bin/leora preview`, `status` "
        "and `check` work on it too."
    )


def _run_through_dagster() -> str:
    """Runs the full job once on the real instance, so that the UI shows it, and returns its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Libraries' own deprecations are no news to a user.
        import dagster as dg

        from leora_pipeline.definitions import defs

        with dg.DagsterInstance.get() as instance:
            result = defs.resolve_job_def("refresh_account_types").execute_in_process(
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                raise_on_error=False,
            )
    if not result.success:
        raise LeoraError(
            f"run {result.run_id} failed; `make dev` opens the Dagster UI, which says why"
        )
    return result.run_id
