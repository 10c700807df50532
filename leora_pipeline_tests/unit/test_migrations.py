"""The rules of the schema's files: what has been released stands still, functions stand once."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest

from leora_pipeline import migrations
from leora_pipeline.core.crm.requirements import SCHEMA_REVISION, functions_fingerprint
from leora_pipeline.migrations.functions import FILES, definitions

HERE = Path(migrations.__file__).parent
REVISIONS = sorted(path.name for path in (HERE / "versions").glob("0*"))
FUNCTIONS = sorted((HERE / "functions").glob("*.sql"))

FROZEN = {
    "0001_baseline.py": "f7082f023b40d617300a31c3d099d417fe01ff3666a2a46dd17ba85e6b675677",
    "0001_baseline.sql": "3f276d4302bbb0ccc9755aace7093dde1861de673535080b4f4c8a6b82b0d846",
    "0002_closed_doors.py": "061f93e61e13dc4c4382d5df9816e5b5a6e1661c9f3b6d9e38657b894e5b425e",
    "0002_closed_doors.sql": "5fc938686677dbf78afaf48b1570b6d3e2db0095496ad484f360ca5e384e744b",
}
"""The checksum of each file of a released revision. A new revision adds its own; none changes."""


@pytest.mark.parametrize("file", REVISIONS)
def test_a_released_revision_is_never_edited(file: str) -> None:
    content = (HERE / "versions" / file).read_bytes()

    assert FROZEN.get(file) == sha256(content).hexdigest()


def test_the_code_is_written_for_the_newest_revision() -> None:
    assert max(REVISIONS).startswith(SCHEMA_REVISION)


@pytest.mark.parametrize("file", [name for name in REVISIONS if name.endswith(".sql")])
def test_a_revision_makes_tables_and_neither_makes_nor_calls_functions(file: str) -> None:
    """The functions that it would call are those of now, not those of its time."""
    text = re.sub(r"--.*", "", (HERE / "versions" / file).read_text(encoding="utf-8"))
    functions = re.findall(r"FUNCTION leora_pipeline\.(\w+)", "\n".join(definitions()))

    assert "FUNCTION" not in text
    assert [name for name in functions if re.search(rf"leora_pipeline\.{name}\s*\(", text)] == []


def test_every_file_of_functions_is_put_in_place() -> None:
    assert sorted(FILES) == [path.name for path in FUNCTIONS]


def test_a_function_stands_once() -> None:
    names = [
        name
        for text in definitions()
        for name in re.findall(r"^CREATE OR REPLACE FUNCTION leora_pipeline\.(\w+)", text, re.M)
    ]

    assert len(names) == len(set(names)) > 20


def test_no_percent_sign_would_be_printed_twice() -> None:
    """Alembic's offline mode doubles it: what installs rightly would be printed wrongly."""
    assert [name for name in REVISIONS if b"%" in (HERE / "versions" / name).read_bytes()] == []


def test_the_fingerprint_follows_every_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in FUNCTIONS:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("leora_pipeline.core.crm.requirements.FUNCTIONS_FOLDER", tmp_path)
    fingerprint = functions_fingerprint.__wrapped__
    seen = {functions_fingerprint(), fingerprint()}
    assert len(seen) == 1

    for path in tmp_path.iterdir():
        path.write_text(path.read_text() + "\n-- changed\n")
        seen.add(fingerprint())

    assert len(seen) == 1 + len(FUNCTIONS)
