"""``leora check``: all data-quality checks, now."""

from __future__ import annotations

import dataclasses

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import json_option
from leora_pipeline.cli.output import print_json, print_verdicts, working
from leora_pipeline.core.quality.catalog import CHECKS
from leora_pipeline.core.quality.checks import run_check


@click.command("check")
@json_option
def command(as_json: bool) -> None:
    """Run all data-quality checks; exit 1 where one of severity error fails."""
    with crm_engine() as engine:
        verdicts = []
        for check in CHECKS:
            with working(check.name):
                verdicts += run_check(engine, check)
    is_failed = any(v.status == "failed" and v.severity == "error" for v in verdicts)
    if as_json:
        print_json({"ok": not is_failed, "results": [dataclasses.asdict(v) for v in verdicts]})
    else:
        print_verdicts(verdicts)
    if is_failed:
        raise SystemExit(1)
