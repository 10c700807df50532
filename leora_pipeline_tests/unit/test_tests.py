"""The tests' own house: modules that can be read, and helpers where they belong."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TEXTS = {
    str(path.relative_to(TESTS)): path.read_text(encoding="utf-8")
    for path in sorted(TESTS.rglob("*.py"))
}


def test_no_file_has_more_than_600_lines() -> None:
    assert [file for file, text in TEXTS.items() if len(text.splitlines()) > 600] == []


def test_nothing_is_imported_from_a_test_module() -> None:
    from_a_test = re.compile(r"^(?:from|import) leora_pipeline_tests\S*\.test_\w+", re.MULTILINE)

    assert [file for file, text in TEXTS.items() if from_a_test.search(text)] == []
