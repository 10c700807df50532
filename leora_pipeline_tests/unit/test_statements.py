"""The SQL files: every statement has a name, a description, and somebody who runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import leora_pipeline
from leora_pipeline.core.statements import raw_statement, statement

PACKAGE = Path(leora_pipeline.__file__).parent
FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.sql"))
    if path.parent.name not in ("versions", "functions")  # Those are run whole.
]
NAMES = [
    (file, name)
    for file in FILES
    for name in re.findall(r"^-- name: (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
]
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(("file", "name"), NAMES, ids=[f"{f.name}:{n}" for f, n in NAMES])
def test_every_statement_is_described_and_used(file: Path, name: str) -> None:
    package = ".".join(("leora_pipeline", *file.parent.relative_to(PACKAGE).parts))
    text = raw_statement(package, file.name, name)
    assert text.startswith("-- "), "a line on what it does comes first"
    assert f'"{name}"' in SOURCES, "nobody runs it"


def test_every_file_holds_statements() -> None:
    assert {file for file, _ in NAMES} == set(FILES)


def test_an_unknown_statement_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        statement("leora_pipeline.core.sql", "refresh.sql", "nothing")
