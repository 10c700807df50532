"""The table of problems: the documentation lists its kinds as they are."""

from __future__ import annotations

import re
from pathlib import Path

from leora_pipeline.core.quality.catalog import CHECKS
from leora_pipeline.core.reporting.problems import KINDS, title_of

ALERTS = Path(__file__).parents[2] / "docs" / "alerts.md"


def test_the_documentation_lists_every_kind_with_its_severity() -> None:
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| .+ \| (error|warn) \|$",
        ALERTS.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    listed = {kind: severity for kinds, severity in rows for kind in re.findall(r"\w+", kinds)}

    assert listed == {name: kind.severity for name, kind in KINDS.items()}


def test_every_check_is_a_kind_but_for_those_that_a_kind_reports_as_of_now() -> None:
    assert {check.name for check in CHECKS} - KINDS.keys() == {"fresh", "no_tenant_held"}


def test_what_explains_a_kind_is_a_kind() -> None:
    assert {graver for kind in KINDS.values() for graver in kind.explained_by} <= KINDS.keys()


def test_a_kind_of_another_version_goes_by_its_own_name() -> None:
    assert title_of("of_old") == "of_old"
