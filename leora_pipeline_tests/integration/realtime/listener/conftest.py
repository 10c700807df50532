"""Fixtures of the tests of the listener."""

from __future__ import annotations

import pytest

from leora_pipeline.core.backoff import Backoff
from leora_pipeline.core.realtime import batch as batch_module
from leora_pipeline.core.realtime import listener as listen


@pytest.fixture(autouse=True)
def _frequent_looks_at_the_actionable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests from waiting for what is looked at but once a second."""
    monkeypatch.setattr(listen, "ACTIONABLE_SECONDS", 0.05)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> int:
    """Makes batches so small that a test has several, and returns how small."""
    monkeypatch.setattr(batch_module, "LISTENER_BATCH", 4)
    return 4


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the pauses of tenants and of the database short, so that tests need not wait."""
    monkeypatch.setattr(listen, "PAUSES", Backoff(first=0.1, longest=0.4))
