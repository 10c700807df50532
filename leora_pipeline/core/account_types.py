"""The account types' names, and moves between them."""

from __future__ import annotations

from dataclasses import dataclass

TYPES = ("ACTIVE", "TARGET", "PROSPECT")


UNCLASSIFIED = "UNCLASSIFIED"
"""Stands for no type yet among current types."""


@dataclass(frozen=True)
class Transition:
    """How many customers would move from one type (None: not yet classified) to another."""

    from_type: str | None
    to_type: str
    count: int
