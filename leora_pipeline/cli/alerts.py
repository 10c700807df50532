"""``leora alerts``: notifies people of what is wrong, and shows where that goes."""

from __future__ import annotations

import dataclasses

import click

from leora_pipeline.cli.databases import crm_engine
from leora_pipeline.cli.options import json_option, tenant_option
from leora_pipeline.cli.output import (
    MARKS,
    echo,
    print_incidents,
    print_json,
    print_table,
)
from leora_pipeline.core.alerting.addresses import add_tenant_url, remove_tenant_url, tenant_urls
from leora_pipeline.core.alerting.channels import Message, shown_url
from leora_pipeline.core.alerting.delivery import deliver_messages
from leora_pipeline.core.alerting.digest import write_digests
from leora_pipeline.core.alerting.incidents import sync_incidents
from leora_pipeline.core.alerting.outbox import read_unsent
from leora_pipeline.core.alerting.sending import Sender
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.errors import WrongUsageError
from leora_pipeline.core.reporting.status import read_status
from leora_pipeline.core.settings import Settings


@click.group("alerts")
def command() -> None:
    """Tell people what is wrong, and when it recovers."""


@command.command("send")
@json_option
def send_(as_json: bool) -> None:
    """Look what is wrong and deliver what people are to know; exit 1 where that is not possible.

    For cron; the Dagster sensor `alerts` does the same.
    """
    with crm_engine() as engine:
        changes = sync_incidents(engine)
        # Whoever asks does so at a rhythm of their own, which is pause enough.
        delivery = deliver_messages(engine, Settings.from_environment().alert_urls, at_once=True)
    is_failed = delivery.failed > 0 or delivery.unaddressed > 0
    if as_json:
        print_json(
            {"ok": not is_failed, **dataclasses.asdict(changes), **dataclasses.asdict(delivery)}
        )
    else:
        echo(
            f"Alerts: {changes.opened} opened, {changes.reminded} reminded of, "
            f"{changes.resolved} resolved"
        )
        echo(f"Messages: {delivery.sent} delivered, {delivery.failed} not delivered")
        for error in delivery.errors:
            echo(f"  {MARKS['failed']} {error}")
        if delivery.unaddressed:
            echo(
                f"  {MARKS['failed']} {delivery.unaddressed} messages have nowhere to go; set "
                "LEORA_ALERT_URLS, or give the tenant an address with `leora alerts urls`"
            )
    if is_failed:
        raise SystemExit(1)


@command.command("digest")
@tenant_option
def digest(tenant_slugs: tuple[str, ...]) -> None:
    """Write the win-back digests: customers that became TARGET since the last one.

    `send` delivers them. For cron, once a day after `leora update`; in Dagster, the nightly run
    does it.
    """
    with crm_engine() as engine:
        with transaction(engine) as connection:
            tenants = find_tenants(connection, tenant_slugs)
        written = write_digests(engine, tenants)
    echo(f"Digests: {len(written)} written")
    for slug, customers in written.items():
        echo(f"  {MARKS['passed']} {slug}: {customers} to win back")


@command.command("show")
@json_option
def show(as_json: bool) -> None:
    """Show the open alerts, those resolved within a day, and the messages that wait."""
    with crm_engine(writable=False) as engine:
        incidents = read_status(engine).incidents
        unsent = read_unsent(engine)
    if as_json:
        print_json(
            {
                "incidents": [dataclasses.asdict(incident) for incident in incidents],
                "unsent": [dataclasses.asdict(message) for message in unsent],
            }
        )
        return
    print_incidents("Alerts, open or resolved within a day", incidents)
    print_table(
        "Messages not delivered yet",
        ["message", "made (UTC)", "attempts", "next (UTC)", "last error"],
        [
            [
                message.title,
                f"{message.created_at:%Y-%m-%d %H:%M:%S}",
                message.attempts,
                f"{message.retry_at:%Y-%m-%d %H:%M:%S}",
                message.last_error,
            ]
            for message in unsent
        ],
    )


@command.command("urls")
@tenant_option
@click.option("--add", metavar="URL", help="Give the tenant an address of its own.")
@click.option(
    "--remove", metavar="URL", help="Take one from the tenant: the URL, or its fingerprint."
)
def urls(tenant_slugs: tuple[str, ...], add: str | None, remove: str | None) -> None:
    """Show where messages go, secrets hidden, and change a tenant's own addresses."""
    if (add or remove) and len(tenant_slugs) != 1:
        raise WrongUsageError("--add and --remove are about one tenant; name it by --tenant-slug")
    with crm_engine() as engine, transaction(engine) as connection:
        tenants = find_tenants(connection, tenant_slugs)
        if add:
            add_tenant_url(connection, tenants[0].tenant_id, add)
        if remove:
            remove_tenant_url(connection, tenants[0].tenant_id, remove)
        own = tenant_urls(connection)
    rows = [["all tenants", shown_url(url)] for url in Settings.from_environment().alert_urls]
    rows += [[t.slug, shown_url(url)] for t in tenants for url in own.get(t.tenant_id, [])]
    print_table("Where messages go", ["messages of", "address"], rows)


@command.command("test")
@tenant_option
def test(tenant_slugs: tuple[str, ...]) -> None:
    """Send a test message to every address (of the tenants named); exit 1 where one fails."""
    with crm_engine(writable=False) as engine, transaction(engine) as connection:
        tenants = find_tenants(connection, tenant_slugs)
        own = tenant_urls(connection)
    of_tenants = [url for tenant in tenants for url in own.get(tenant.tenant_id, [])]
    addresses = dict.fromkeys(
        of_tenants if tenant_slugs else [*Settings.from_environment().alert_urls, *of_tenants]
    )
    if not addresses:
        raise WrongUsageError(
            "no address is configured; set LEORA_ALERT_URLS, "
            "or give a tenant one with `leora alerts urls`"
        )
    message = Message(
        title="[Leora] test", body="Alerts arrive here.", type="info", key="leora/test"
    )
    with Sender() as sender:
        errors = {url: sender.send(url, message) for url in addresses}
    for url, error in errors.items():
        echo(f"{MARKS['failed'] if error else MARKS['passed']} {error or shown_url(url)}")
    if any(errors.values()):
        raise SystemExit(1)
