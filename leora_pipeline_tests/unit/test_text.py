"""Text that people wrote: each medium shows what it holds, and does nothing that it says."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import requests
from hypothesis import given

from leora_pipeline.cli import output
from leora_pipeline.core.alerting.channels import Message, send
from leora_pipeline.core.text import markdown, terminal_line, to_json, visible

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J"
OVERRIDE = "\u202egnp.exe"
HOSTILE = f"a{TITLE}b{CLEAR}c\x85d\u2028e{OVERRIDE}\nf\tg\x9b31mh\ud800"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Elm  Wines\n& \tSpirits ", "Elm Wines & Spirits"),
        ("Žižkov – 日本酒 🍷", "Žižkov – 日本酒 🍷"),
        ("می\u200cخواهم 👩\u200d🍳", "می\u200cخواهم 👩\u200d🍳"),
        (TITLE, r"\x1b]0;owned\x07"),
        (OVERRIDE, r"\u202egnp.exe"),
        ("a\u2066b\u2069\u200fc", r"a\u2066b\u2069\u200fc"),
        ("a\x85b\u2028c\xa0d", "a b c d"),
        ("x\ud800", r"x\ud800"),
    ],
)
def test_what_acts_is_shown_and_what_is_read_stays(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_whatever_it_is_a_terminal_does_nothing_and_a_line_stays_one(text: str) -> None:
    for shown in (visible(text), terminal_line(text).replace("\t", "")):
        assert all(c.isprintable() or c in "\u200c\u200d" for c in shown)
        assert len(shown.splitlines()) <= 1
    assert terminal_line(visible(text)) == visible(text)


@given(st.text())
def test_json_reads_back_as_it_was_and_does_nothing_either(text: str) -> None:
    written = to_json({"name": [text]}, str)

    assert json.loads(written) == {"name": [text]}
    assert all(c.isprintable() or c in "\n\u200c\u200d" for c in written)


def test_json_keeps_letters_readable() -> None:
    assert to_json({"name": "Žižkov 🍷"}, str, indent=None) == '{"name": "Žižkov 🍷"}'


def test_indentation_and_columns_of_a_line_stay() -> None:
    assert terminal_line("  a\tb\tc") == "  a\tb\tc"


def test_nothing_but_the_one_function_prints_text() -> None:
    """A new command cannot forget to make what it prints fit for a terminal."""
    printing = {
        (path.name, node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
        for path in Path(output.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in ("echo", "secho"))
            or (isinstance(node.func, ast.Name) and node.func.id == "print")
        )
    }

    # The two of output.py, and the entry's own, for errors and for help.
    assert printing == {("output.py", "echo"), ("app.py", "print")}


MARKUP = "- [click](https://example.com) @everyone *bold* <@123> `x` _y_ ~z~ # h"


def sent_to(monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """Returns what a service is sent for a title and a body that hold markup."""
    posted: list[str] = []

    def post(*urls: str, **arguments: Any) -> Any:
        data = arguments.get("data") or arguments.get("json")
        posted.append(data if isinstance(data, str) else json.dumps(data))
        return SimpleNamespace(status_code=200, content=b"{}", headers={}, text="{}")

    monkeypatch.setattr(requests, "post", post)
    monkeypatch.setattr(requests, "request", post)
    assert send(url, Message(title=f"T {MARKUP}", body=MARKUP, type="info", key="k")) is None
    [text] = posted
    return text


@pytest.mark.parametrize(
    "url",
    [
        f"discord://{'1' * 18}/{'a' * 68}",
        "workflows://host.example:443/workflow/signature/",
        f"mmosts://host.example/{'a' * 32}",
        f"zulip://bot@organization/{'a' * 32}/general",
        f"webex://{'a' * 80}",
    ],
    ids=lambda url: url.partition(":")[0],
)
def test_a_service_that_draws_markdown_shows_a_name_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    sent = sent_to(monkeypatch, url)

    for drawn in ("@everyone", "<@123", "https://example"):
        assert drawn not in sent
    for mark in (r"\]\\*\(", r"\*bold", "`x", "_y", "~z"):
        assert re.search(mark, sent)
        assert not re.search(rf"(?<!\\){mark}", sent), "not escaped"


@pytest.mark.parametrize(
    "url", ["json://host.example/", "xml://host.example/", f"pagerduty://{'i' * 32}@{'k' * 20}"]
)
def test_a_service_of_plain_text_gets_plain_text(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    sent = sent_to(monkeypatch, url)

    assert "[click](https://example.com) @everyone *bold*" in sent
    assert "\\\\" not in sent


def test_markdown_that_is_escaped_reads_the_same() -> None:
    escaped = markdown(MARKUP)

    assert escaped.replace("\\", "").replace("\u200b", "") == MARKUP
