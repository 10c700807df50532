"""Explanations: why a customer has its type, and what happens next, in sentences."""

from __future__ import annotations

import shlex
from typing import Any

import sqlalchemy as sa

from leora_pipeline.core.customers.gate import describe_mass_change, describe_order_loss

CAUSES = {
    "order": "the last order date moved forward",
    "order removed": "the last order date went back: an order is gone, or no longer counts",
    "age": "too long without a newer order",
    "policy": "the tenant's policy changed",
    "nightly": "found by a full run",
    "incremental": "found by an incremental run",
    "listener": "found by the listener",
    "hook": "asked for, for this customer",
}
"""What the causes of transitions mean, but for ``by hand``, which is explained with the type."""


EXCLUSIONS = {
    "tenant": "it belongs to another tenant",
    "status": "{status} does not count",
    "no date": "it has no date",
    "unreadable date": "its date, {written_date}, is none that can be read",
    "future": "it is dated in the future, and counts from then on",
}
"""Why an order does not count."""


def explain_transition(row: sa.Row[Any]) -> str:
    """Says why a type was changed; names one that was set by hand."""
    by_hand = (
        f"somebody had set {row.from_type} by hand"
        if row.from_type
        else "somebody had removed the type by hand"
    )
    if row.cause == "by hand":
        return f"{by_hand}; corrected to {row.to_type}"
    cause = CAUSES.get(row.cause, row.cause)
    if row.is_set_by_hand:
        return f"{cause}; before that {by_hand}"
    return cause if row.from_type else f"first classification ({cause})"


def explain_type(today: sa.Row[Any], is_imported: bool) -> str:
    """Says why a customer has its type today, or is to have another one."""
    because = f"{today.account_type}: {today.reason[0].lower()}{today.reason[1:]}"
    if today.last_order_at is not None:
        because += f", on {today.last_order_at:%Y-%m-%d}"
    if is_imported:
        because += ", a date imported into the CRM; no order counts"
    if today.is_pinned:
        return (
            f"{today.crm_type}: set by people, and the pipeline never changes it; "
            f"it would otherwise be {because}."
        )
    if not today.type_differs:
        return f"{because}."
    return f"{today.crm_type or 'No type yet'} in the CRM, but by the rule {because}."


def outlook(today: sa.Row[Any], tenant_slug: str) -> list[str]:
    """Says why the CRM differs, what that waits for, and what the future is known to bring."""
    lines = []
    if today.cause == "by hand":
        lines.append(
            f"Somebody set {today.crm_type} by hand."
            if today.crm_type
            else "Somebody removed the type by hand."
        )
    elif today.cause is not None:
        lines.append(f"The CRM is behind: {CAUSES[today.cause]}.")
    if today.pending_since is not None:
        lines.append(
            f"A change of {today.pending_since:%Y-%m-%d %H:%M:%S} UTC waits to be looked at."
        )
    date = f"{today.last_order_at:%Y-%m-%d}" if today.last_order_at is not None else "none"
    writes = " and ".join(
        [today.account_type] * today.type_differs
        + [f"the last order date {date}"] * today.date_differs
    )
    scope = f"--tenant-slug {shlex.quote(tenant_slug)}"
    update = f"leora update {scope}"
    if today.quarantine_error is not None:
        lines.append(
            "It is quarantined, as the CRM's database refuses to have it written "
            f"({today.quarantine_error}); the next try is at "
            f"{today.retry_at:%Y-%m-%d %H:%M:%S} UTC."
        )
    elif today.held_since is not None:
        lines.append(
            f"The gate has stopped it since {today.held_since:%Y-%m-%d %H:%M:%S} UTC: "
            f"{describe_order_loss()}. It lets {writes} be written once they are back, or once "
            f"{describe_mass_change(scope)} says why they are meant to be gone."
        )
    elif writes and today.is_incremental:
        lines.append(
            f"The next incremental run writes {writes}; `{update} --incremental` does it now."
        )
    elif writes:
        lines.append(f"The next full run writes {writes}; `{update}` does it now.")
    if today.next_order_at is not None:
        lines.append(
            f"A date in the future, {today.next_order_at:%Y-%m-%d %H:%M:%S} UTC, counts from then "
            "on."
        )
    return lines
