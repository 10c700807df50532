"""Backoff: pauses between tries that fail, each twice as long as the one before."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """A rule of growing pauses.

    Attributes:
        first: The pause after a first failure, in seconds.
        longest: The longest pause, in seconds.
    """

    first: float
    longest: float

    def after(self, failures: int) -> float:
        """Returns the pause, in seconds, after so many failures in a row, at least one."""
        doublings = min(failures - 1, 60)  # The longest pause replaces larger numbers anyway.
        return min(self.first * float(1 << doublings), self.longest)
