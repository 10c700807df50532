"""The SQL files: every statement has a name, a description, and a module that runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import leora_pipeline
from leora_pipeline.core.database import statements as loader
from leora_pipeline.core.database.statements import Statements, statements

PACKAGE = Path(leora_pipeline.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.sql"))
    if path.parent.name not in ("versions", "functions")  # Those are run whole.
}
NAMES = [
    (file, name)
    for file, path in FILES.items()
    for name in re.findall(r"^-- name: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
]
INCLUDED = {
    match
    for path in FILES.values()
    for match in re.findall(r"-- include: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def sources(file: str) -> str:
    """Returns the source of the module that a file of statements belongs to."""
    module = FILES[file].with_suffix(".py")
    if not module.exists():  # A file that its package's own module reads.
        return "\n".join(p.read_text(encoding="utf-8") for p in module.parent.glob("*.py"))
    return module.read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "name"), NAMES, ids=[f"{f}:{n}" for f, n in NAMES])
def test_every_statement_is_run_by_the_module_beside_it(file: str, name: str) -> None:
    included = f"{file.removeprefix('leora_pipeline.')}.{name}" in INCLUDED
    used = re.search(rf"SQL\.{name}\b|\"{name}\"", sources(file))

    assert included or used, "nobody runs it"


@pytest.mark.parametrize(
    "file", [file for file in FILES if FILES[file].with_suffix(".py").exists()]
)
def test_a_module_asks_for_statements_that_its_file_has(file: str) -> None:
    asked = set(re.findall(r"\bSQL\.(?!text\b|for_driver\b|with_columns\b)(\w+)", sources(file)))

    for name in asked:
        assert statements(file).text(name)


@pytest.mark.parametrize(("file", "name"), NAMES, ids=[f"{f}:{n}" for f, n in NAMES])
def test_every_include_stands_for_a_statement(file: str, name: str) -> None:
    assert "-- include:" not in statements(file).text(name)


@pytest.mark.parametrize("file", FILES)
def test_nothing_waits_for_a_lock_that_any_role_could_hold(file: str) -> None:
    # A migration does, before there is a table whose rows could be locked. It gives up in time.
    taken = FILES[file].read_text(encoding="utf-8").count("pg_advisory")
    assert taken == (file == "leora_pipeline.migrations.schema")


def test_what_is_included_comes_without_its_description() -> None:
    text = statements("leora_pipeline.core.realtime.batch").text("actionable_customers")

    assert "-- The next actionable customers" in text
    assert "s.needs_sync" in text
    assert "-- Of tenant t" not in text


def test_an_optional_column_is_null_unless_it_is_there() -> None:
    digest = statements("leora_pipeline.core.alerting.digest")

    text = str(digest.with_columns("take_targets", {"city"}))

    assert 'c."city"' in text
    assert 'c."salesRepId"' not in text
    for none in (text, digest.text("take_targets")):
        assert "optional" not in none
        assert "NULL" in none


def test_an_unknown_statement_is_an_error() -> None:
    refresh = statements("leora_pipeline.core.run.refresh")
    with pytest.raises(AttributeError, match=r"run\.refresh\.sql has no statement 'nothing'"):
        refresh.nothing  # noqa: B018
    with pytest.raises(KeyError, match="nothing"):
        refresh["nothing"]


@pytest.mark.parametrize(
    "content",
    [
        "SELECT 1\n-- name: late\n-- Comes after text.\nSELECT 1",
        "-- name: bare\nSELECT 1",
        "-- name: two words\n-- Has no name.\nSELECT 1",
        "-- name: text\n-- Has the name of a method.\nSELECT 1",
        "-- name: twice\n-- One.\nSELECT 1\n\n-- name: twice\n-- Another.\nSELECT 1",
    ],
)
def test_a_mistake_in_a_file_shows_when_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    (tmp_path / "wrong.sql").write_text(content)
    monkeypatch.setattr(loader, "_ROOT", tmp_path)

    with pytest.raises(ValueError, match=r"wrong\.sql"):
        Statements("leora_pipeline.wrong")


def test_a_statement_reaches_the_driver_in_its_own_parameter_style() -> None:
    text = statements("leora_pipeline.core.realtime.listener").for_driver("next_tenant")

    assert "%(after)s" in text
    assert ":after" not in text
