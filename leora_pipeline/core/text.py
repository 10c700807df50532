"""Text that people or the CRM wrote, made fit for where it goes: a function for each medium.

A name, a slug or a database's error may hold anything: line breaks, a terminal's escape sequences,
marks that turn the direction of what follows, markup, mentions. What acts is shown instead of done.
What does not belong here: shortening, and what a message says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

_JOINERS = "\u200c\u200d"
"""Invisible, and part of words of some scripts, and of emoji."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~])")


def visible(text: str) -> str:
    r"""Returns a text on one line, for a line, a cell or a message.

    What is neither a printable character nor a space stands as its escape (``\x1b``, ``\u202e``);
    white space of any kind, line breaks too, becomes one space.
    """
    return _escaped(" ".join(text.split()))


def terminal_line(text: str) -> str:
    """Returns a line that is printed, or logged, as it is: indented, its columns apart by tabs."""
    if text.isprintable():
        return text
    line = " ".join(text.splitlines())
    return "\t".join(_escaped(part) for part in line.split("\t"))


def to_json(value: object, encode: Callable[[object], object], *, indent: int | None = 2) -> str:
    """Returns a value as JSON whose letters stay readable and which no terminal acts on.

    Args:
        value: What `json` can write, or `encode` can make such.
        encode: Makes a value of another type one that JSON has.
        indent: By how many spaces a level is indented; None for a single line.
    """
    text = json.dumps(value, default=encode, indent=indent, ensure_ascii=False)
    return "".join(
        c if c.isprintable() or c == "\n" or c in _JOINERS else json.dumps(c)[1:-1] for c in text
    )


def markdown(text: str) -> str:
    """Returns a text that Markdown shows as it is written, mentions nobody, and links nowhere."""
    return without_mentions(_MARKDOWN.sub(r"\\\1", text))


def without_mentions(text: str) -> str:
    """Returns a text in which a chat finds neither a mention (``@everyone``) nor a link.

    A character of no width parts what would make one; the text looks the same.
    """
    return text.replace("@", "@\u200b").replace("://", ":\u200b//")


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
