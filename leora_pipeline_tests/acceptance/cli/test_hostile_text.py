"""Names that hold a terminal's escape sequences, marks of direction or line breaks."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from contextlib import suppress

import pytest

from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import LEORA, environment

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]

SLUG = "evil\x1b]0;owned\x07\x1b[2J\x85\u202egnp\n✅ Nothing is wrong.\x9b31m"

COMMANDS = [
    ("update",),
    ("update", "--json"),
    ("update", "--tenant-slug", SLUG),
    ("update", "--tenant-slug", SLUG + "\x1b[1m"),
    ("preview",),
    ("preview", "--json"),
    ("check",),
    ("check", "--json"),
    ("status",),
    ("status", "--json"),
    ("policy", "show"),
    ("policy", "show", "--json"),
    ("policy", "set", "--tenant-slug", SLUG, "active-within=30", "--yes"),
    ("policy", "set", "--tenant-slug", SLUG, "active-within=30", "--yes"),
    ("history", "CUSTOMER"),
    ("history", "CUSTOMER", "--json"),
    ("alerts", "digest"),
    ("alerts", "send"),
    ("alerts", "show"),
    ("nonsense" + SLUG,),
]


@pytest.fixture
def customer(crm_of_user: Crm) -> str:
    """A customer of a hostile name, in a tenant of one, which is held and fails its checks."""
    tenant = crm_of_user.tenant(SLUG)
    customers = [
        crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=d),), name=f"Shop {d} {SLUG}")
        for d in range(100, 350, 10)
    ]
    crm_of_user.run('UPDATE "Customer" SET city = :it', it=SLUG)
    crm_of_user.run('UPDATE "Order" SET "orderNumber" = id::text || :it', it=SLUG)
    return str(customers[0])


def test_no_command_lets_a_name_act_on_the_terminal(
    crm_of_user: Crm, customer: str, leora: Leora
) -> None:
    seen = 0
    for arguments in COMMANDS:
        if arguments[0] == "preview":  # So that there is something to show.
            crm_of_user.run('UPDATE "Customer" SET "accountType" = \'PROSPECT\'')
        outcome = leora(*(customer if part == "CUSTOMER" else part for part in arguments))
        printed = outcome.out + outcome.err
        acting = {c for c in printed if not (c.isprintable() or c in "\n\t\u200c\u200d")}
        assert acting == set(), arguments
        assert "\n✅ Nothing is wrong.\\x9b" not in printed, arguments
        seen += r"\x1b]0;owned" in printed or r"\u001b]0;owned" in printed
        if "--json" in arguments:
            json.loads(outcome.out)
    assert seen >= 15, "the names are shown"


def test_messages_are_of_as_many_lines_as_they_say(
    crm_of_user: Crm, customer: str, leora: Leora
) -> None:
    assert customer
    leora("update")
    leora("alerts", "digest")
    leora("alerts", "send")

    messages = crm_of_user.run("SELECT title, body FROM leora_pipeline.alert_message")

    assert messages
    for message in messages:
        assert message.title.isprintable()
        assert all(line.isprintable() for line in message.body.split("\n"))
        assert "✅ Nothing is wrong" not in {line[:18] for line in message.body.split("\n")}


@pytest.mark.parametrize("command", ["preview", "status"])
def test_on_a_terminal_only_its_own_sequences_act(
    crm_of_user: Crm, customer: str, runtime_url: str, command: str
) -> None:
    assert customer
    reading, terminal = pty.openpty()
    with subprocess.Popen(
        [*LEORA, command],
        stdout=terminal,
        stderr=terminal,
        env=environment(LEORA_DATABASE_URL=runtime_url, TERM="xterm-256color", COLUMNS="200"),
    ):
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # The terminal is gone once the command has ended.
            while part := os.read(reading, 65536):
                shown += part
    os.close(reading)

    text = shown.decode()
    assert "owned" in text
    # What a table and a progress line draw with: colours, cursor, line.
    rest = re.sub(r"\x1b\[[0-9;?]*[mhlKAG]", "", text)
    assert {c for c in rest if not c.isprintable()} <= set("\r\n")
    assert "\x1b[2J" not in text
