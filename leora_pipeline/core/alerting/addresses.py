"""Addresses: where a tenant's messages go besides LEORA_ALERT_URLS."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa

from leora_pipeline.core.errors import WrongUsageError

if TYPE_CHECKING:
    pass
from leora_pipeline.core.alerting.channels import fingerprint, service_of, shown_url
from leora_pipeline.core.database.statements import statements

SQL = statements(__name__)


def tenant_urls(connection: sa.Connection) -> dict[UUID, list[str]]:
    """Returns the tenants' own addresses."""
    urls: dict[UUID, list[str]] = {}
    for row in connection.execute(SQL.tenant_urls):
        urls.setdefault(row.tenant_id, []).append(row.url)
    return urls


def add_tenant_url(connection: sa.Connection, tenant_id: UUID, url: str) -> None:
    """Gives a tenant an address of its own.

    Raises:
        WrongUsageError: There is no service behind it.
    """
    if service_of(url) is None:
        raise WrongUsageError(
            f"{shown_url(url)} is no URL that Apprise knows; see docs/alerts.md for some that are"
        )
    connection.execute(SQL.add_tenant_url, {"tenant_id": tenant_id, "url": url})


def remove_tenant_url(connection: sa.Connection, tenant_id: UUID, url: str) -> None:
    """Takes an address from a tenant.

    Args:
        connection: Within a transaction.
        tenant_id: The tenant.
        url: The address, or its fingerprint.

    Raises:
        WrongUsageError: The tenant has no such address.
    """
    found = [
        own for own in tenant_urls(connection).get(tenant_id, []) if url in (own, fingerprint(own))
    ]
    if not found:
        raise WrongUsageError(
            f"the tenant has no address {shown_url(url)}; `leora alerts urls` lists those it has, "
            "each with a fingerprint that names it as well"
        )
    connection.execute(
        SQL.remove_tenant_url,
        {"tenant_id": tenant_id, "url": found[0]},
    )
