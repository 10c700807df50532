"""Options that several commands share."""

from __future__ import annotations

from datetime import datetime

import click

from leora_pipeline.core.instants import parse_instant

tenant_option = click.option(
    "--tenant-slug",
    "tenant_slugs",
    metavar="S",
    multiple=True,
    help="A tenant to cover; may be given several times. Without it: all tenants.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _instant(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> datetime | None:
    return parse_instant(value) if value is not None else None


as_of_option = click.option(
    "--as-of",
    metavar="T",
    callback=_instant,
    help="Judge by this instant (ISO 8601; without a time zone: UTC) instead of now.",
)
