"""The checks: for each, the asset it speaks of, what it reads, and what has to be true of it.

Reading and judging are `run_check`'s; Dagster and the command line only show the verdicts. None
of the checks blocks a run: the gate is what blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from leora_pipeline.core.database.connection import now, transaction
from leora_pipeline.core.database.statements import statements
from leora_pipeline.core.quality.expectations import Expectations, failing_keys
from leora_pipeline.core.quality.verdicts import Severity, Status, Verdict

SQL = statements(__name__)


Row = Mapping[str, Any]


Library = Any
"""`great_expectations.expectations`, or an expectation of it: imported late, so without a type."""


@dataclass(frozen=True)
class Check:
    """One thing that has to be true of every tenant.

    Attributes:
        name: Its name in Dagster and in ``health_verdict``.
        asset: The asset that it speaks of.
        severity: What its failure means: an error, or a warning.
        description: What it checks, and what a failure means, for people.
        read: Reads its rows, one for each tenant, with ``tenant_id``, ``tenant_slug``,
            ``unjudged`` (why the tenant is not judged, or None) and what the expectations and the
            message name.
        expectations: What has to be true of each judged row.
        message: Says in a few words what a row shows.
    """

    name: str
    asset: str
    severity: Severity
    description: str
    read: Callable[[sa.Engine], list[Row]]
    expectations: Expectations
    message: Callable[[Row], str]


def run_check(engine: sa.Engine, check: Check, *, run_id: str | None = None) -> list[Verdict]:
    """Judges every tenant of the CRM and records the verdicts.

    Args:
        engine: The CRM's database.
        check: The check.
        run_id: The run that asks, if any.

    Returns:
        A verdict for each tenant, in the order of slugs.

    Raises:
        CheckErroredError: The check could not be evaluated.
    """
    rows = check.read(engine)
    judged = [row for row in rows if row["unjudged"] is None]
    failing = failing_keys(judged, check.expectations, key="tenant_id") if judged else set()
    with transaction(engine) as connection:
        checked_at = now(connection)
        verdicts = [_verdict(check, row, row["tenant_id"] in failing, checked_at) for row in rows]
        if verdicts:
            connection.execute(
                SQL.record_verdict,
                [
                    {
                        "tenant_id": verdict.tenant_id,
                        "check_name": verdict.check_name,
                        "checked_at": checked_at,
                        "run_id": run_id,
                        "severity": verdict.severity,
                        "status": verdict.status,
                        "message": verdict.message,
                    }
                    for verdict in verdicts
                ],
            )
    return verdicts


def _verdict(check: Check, row: Row, is_failing: bool, checked_at: datetime) -> Verdict:
    status: Status = "failed" if is_failing else "passed"
    message = row["unjudged"]
    if message is None:
        message = check.message(row)
    else:
        status = "not judged"
    return Verdict(
        check_name=check.name,
        tenant_id=row["tenant_id"],
        tenant_slug=row["tenant_slug"],
        severity=check.severity,
        status=status,
        message=message,
        checked_at=checked_at,
    )
