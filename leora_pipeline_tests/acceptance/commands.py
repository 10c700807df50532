"""Commands as processes, and the CRMs that they are tried on."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from leora_pipeline.sample import SampleTenant
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import BIN, Outcome, environment, run

HEALTHY = SampleTenant("hillside", "Hillside", "UTC", 68, 8, 24, 2)


STARTING = "[update-account-types] Starting daily account type update..."


def as_process(url: str, *arguments: str, **variables: str) -> Outcome:
    """Runs the installed command as a process of its own."""
    return run(BIN / "leora", *arguments, env=environment(LEORA_DATABASE_URL=url, **variables))


def json_of(outcome: Outcome) -> Any:
    """Returns the JSON that standard output holds, and nothing beside it."""
    return json.loads(outcome.out)


def hold(crm: Crm, leora: Leora, slug: str = "cellar") -> UUID:
    """Makes a tenant that an update holds: all its orders are gone over night."""
    tenant = crm.tenant(slug)
    crm.customers(tenant, 30, "ACTIVE", ago(days=1))
    assert leora("update", "--tenant-slug", slug).code == 0
    crm.lose_orders(tenant)
    assert leora("update", "--tenant-slug", slug).code == 1
    return tenant
