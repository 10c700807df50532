"""A real browser, as a person's."""

from __future__ import annotations

import shutil
from pathlib import Path

from leora_pipeline_tests.processes import run


def browse(chromium: str, url: str, screenshot: Path) -> str:
    """Renders a page, keeps a picture of it, and returns its document as it then stands."""
    profile = screenshot.with_suffix(".profile")
    outcome = run(
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
        f"--user-data-dir={profile}",
        "--window-size=1600,1000",
        "--virtual-time-budget=20000",
        f"--screenshot={screenshot}",
        "--dump-dom",
        url,
    )
    shutil.rmtree(profile, ignore_errors=True)
    assert outcome.code == 0, outcome.err
    return outcome.out
