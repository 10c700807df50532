"""Verdicts: what a check found for a tenant. Light: reading them needs no library of checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

Severity = Literal["error", "warn"]


Status = Literal["passed", "failed", "not judged"]


STALE_AFTER_HOURS = 48
"""A tenant without a successful full run for longer is a system issue (2 days)."""


@dataclass(frozen=True)
class Verdict:
    """What a check found for one tenant."""

    check_name: str
    tenant_id: UUID
    tenant_slug: str
    severity: Severity
    status: Status
    message: str
    checked_at: datetime
