"""``leora history``: the story of one customer, and why it has the type that it has today."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import json_option
from leora_pipeline.cli.output import echo, print_json, print_table
from leora_pipeline.core.reporting.history import (
    CustomerHistory,
    CustomerOrder,
    LoggedTransition,
    read_history,
)
from leora_pipeline.core.settings import Settings


@click.command("history")
@click.argument("customer_id")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Newest orders to show; the one that makes the last order date always is.",
)
@json_option
def command(customer_id: str, limit: int, as_json: bool) -> None:
    """Show every change of one customer's type, and why it has the one of today."""
    with crm_engine(writable=False) as engine:
        history = read_history(
            engine,
            customer_id,
            limit=limit,
            write_dates=Settings.from_environment().write_last_order_date,
        )
    if as_json:
        print_json(dataclasses.asdict(history))
    else:
        _print(history)


def _print(history: CustomerHistory) -> None:
    today = history.today
    print_table(
        f"Customer as of {_instant(history.as_of)} UTC",
        ["customer", "name", "tenant", "type in the CRM", "type by the rule", "last order (UTC)"],
        [
            [
                history.customer_id,
                history.name,
                history.tenant_slug or history.tenant_id,
                today and today.crm_type,
                today and today.account_type,
                today and _instant(today.last_order_at),
            ]
        ],
    )
    if today is None:
        echo("The CRM has no such customer any more; what is left is the log.")
    else:
        echo(today.explanation)
        for line in today.outlook:
            echo(f"  → {line}")
    if history.transitions:
        print_table(
            f"Transitions ({len(history.transitions)})",
            ["time (UTC)", "from", "to", "last order (UTC)", "as of (UTC)", "why", "run"],
            [
                [
                    _instant(transition.recorded_at),
                    transition.from_type,
                    transition.to_type,
                    _instant(transition.last_order_at),
                    _instant(transition.as_of),
                    _why(transition, history),
                    transition.run_id,
                ]
                for transition in history.transitions
            ],
        )
    else:
        echo("The pipeline has not changed this customer's type.")
    if history.orders:
        print_table(
            f"Orders ({len(history.orders)} of {history.orders_total})",
            ["order", "number", "date (UTC)", "status", "total", "counts"],
            [
                [
                    order.order_id,
                    order.order_number,
                    _instant(order.ordered_at),
                    order.status,
                    order.total,
                    _counts(order),
                ]
                for order in history.orders
            ],
        )
        if rest := history.orders_total - len(history.orders):
            echo(f"And {rest} more; `--limit {history.orders_total}` shows all.")
    elif today is not None:
        echo("No orders.")


def _instant(instant: datetime | None) -> str | None:
    return f"{instant:%Y-%m-%d %H:%M:%S}" if instant is not None else None


def _why(transition: LoggedTransition, history: CustomerHistory) -> str:
    """Says why, and where that was if it was in a tenant that the customer has left."""
    if transition.tenant_id == history.tenant_id:
        return transition.explanation
    return f"{transition.explanation} (in {transition.tenant_slug or transition.tenant_id})"


def _counts(order: CustomerOrder) -> str:
    if order.exclusion is not None:
        return f"no: {order.exclusion}"
    return "yes: makes the last order date" if order.makes_last_order_date else "yes"
