"""The table of problems: every kind of thing that can be wrong with a tenant, a row each.

Status, incidents and the documentation read this table, so that a kind has one name, one severity
and one way out. What does not belong here: reading the database, which `status` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from leora_pipeline.core.customers.gate import describe_order_loss, describe_release
from leora_pipeline.core.quality.catalog import CHECKS
from leora_pipeline.core.quality.verdicts import STALE_AFTER_HOURS, Severity
from leora_pipeline.core.reporting.status import Status

PENDING_TOO_LONG_SECONDS = 600
"""The sensor looks every few seconds; what has been pending for so long, nothing takes up."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a tenant; of a kind there is one at a time.

    Attributes:
        kind: What it is, for programs: the name of a row of `KINDS`.
        severity: An error, or a warning, which leaves the pipeline healthy.
        tenant_id: The tenant's id.
        tenant_slug: The tenant.
        message: The cause and the way out, for people.
    """

    kind: str
    severity: Severity
    tenant_id: UUID
    tenant_slug: str
    message: str

    def __str__(self) -> str:
        """Returns the line that people read."""
        return f"{self.tenant_slug}: {self.message}"


Found = Iterable[tuple[UUID, str, str]]
"""For each tenant that has the problem: its id, its slug, and the cause."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        severity: An error, or a warning.
        title: What people call it.
        remedy: What to do, for people; ``{release}`` stands for the command that ends a hold.
        find: Finds the tenants that have it.
        explained_by: Graver kinds that this one follows from: while a tenant has one of those,
            people are not notified of this one too.
    """

    severity: Severity
    title: str
    remedy: str
    find: Callable[[Status], Found]
    explained_by: frozenset[str] = frozenset()


def _stale(status: Status) -> Found:
    cause = f"no full run has succeeded for {STALE_AFTER_HOURS} hours"
    return ((t.tenant_id, t.tenant_slug, cause) for t in status.tenants if t.is_stale)


def _failed(status: Status) -> Found:
    for t in status.tenants:
        errors = {"full": t.last_error, "incremental": t.last_incremental_error}
        causes = [f"the last {mode} run failed: {error}" for mode, error in errors.items() if error]
        if causes:
            yield t.tenant_id, t.tenant_slug, "; ".join(causes)


def _stuck(status: Status) -> Found:
    cause = "the last full run never ended, it was killed or hangs"
    return ((t.tenant_id, t.tenant_slug, cause) for t in status.tenants if t.is_stuck)


def _held(status: Status) -> Found:
    for hold in status.holds:
        cause = describe_order_loss(hold.order_loss_customers, hold.classified_customers)
        yield hold.tenant_id, hold.tenant_slug, f"held, {cause}"


def _not_draining(status: Status) -> Found:
    for queue in status.queues:
        if queue.tenant_slug is not None and queue.oldest_seconds > PENDING_TOO_LONG_SECONDS:
            yield (
                queue.tenant_id,
                queue.tenant_slug,
                f"{queue.pending} changes have been pending for up to {queue.oldest_seconds:.0f} s",
            )


def _quarantined(status: Status) -> Found:
    for one in status.quarantined:
        yield (
            one.tenant_id,
            one.tenant_slug,
            f"{one.customers} customers are quarantined, since the CRM's database refuses to have "
            f"them written; of customer {one.customer_id} it says: {one.error}",
        )


def _failing(check: str) -> Callable[[Status], Found]:
    """Returns what finds the tenants whose latest verdict of a check is a failure."""
    return lambda status: (
        (v.tenant_id, v.tenant_slug, f"{check}: {v.message}")
        for v in status.failing
        if v.check_name == check
    )


_TITLES = {
    "high_churn": "high churn",
    "poor_retention": "poor retention",
    "outside_healthy": "outside the healthy range",
}
"""What people call a failing check, where that is not its name."""

_EXPLAINED_BY = {"outside_healthy": frozenset({"high_churn", "poor_retention"})}

_SEEN_BETTER = frozenset({"fresh", "no_tenant_held"})
"""Checks whose failure a kind of its own reports, as of now and not as of the last check."""

KINDS: Mapping[str, Kind] = {
    "pipeline_stale": Kind(
        "error",
        "pipeline stale",
        "is the Dagster daemon running? `leora update` runs it now",
        _stale,
    ),
    "run_failed": Kind("error", "run failed", "", _failed),
    "run_stuck": Kind("error", "run stuck", "`leora update` does its work", _stuck),
    "tenant_held": Kind("error", "held", "{release}", _held),
    "pending_not_draining": Kind(
        "error",
        "pending customers not draining",
        "is the sensor new_orders on, and the Dagster daemon running? "
        "`leora update --incremental` takes them up now",
        _not_draining,
    ),
    "customers_quarantined": Kind(
        "error",
        "customers quarantined",
        "once that is corrected, they follow by themselves",
        _quarantined,
    ),
    **{
        check.name: Kind(
            check.severity,
            _TITLES.get(check.name, f"check {check.name} fails"),
            "",
            _failing(check.name),
            _EXPLAINED_BY.get(check.name, frozenset()),
        )
        for check in CHECKS
        if check.name not in _SEEN_BETTER
    },
}
"""All kinds, in the order in which people read them."""


def find_problems(status: Status) -> list[Problem]:
    """Returns what is wrong, kind by kind."""
    return list(_find(status))


def _find(status: Status) -> Iterator[Problem]:
    for name, kind in KINDS.items():
        for tenant_id, tenant_slug, cause in kind.find(status):
            remedy = kind.remedy.format(release=describe_release(tenant_slug))
            message = f"{cause} ({remedy})" if remedy else cause
            yield Problem(name, kind.severity, tenant_id, tenant_slug, message)


def title_of(kind: str) -> str:
    """Returns what people call a kind; one of another version of the pipeline by its own name."""
    return KINDS[kind].title if kind in KINDS else kind
