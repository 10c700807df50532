"""The command ``leora policy``, as somebody uses it who decides what counts as a good customer."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
from uuid import UUID

import pytest

from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import BIN, Outcome, environment, run

NARROW = ("active-within=90", "target-within=150")


@pytest.fixture
def tenant(crm_of_user: Crm, leora: Leora) -> UUID:
    """A tenant of 12 customers, brought up to date."""
    tenant = crm_of_user.tenant("o'brien's")
    for count, days in ((5, 10), (4, 100), (3, 200)):
        crm_of_user.customers(tenant, count, "PROSPECT", ago(days=days))
    assert leora("update").code == 0
    return tenant


def policy(leora: Leora, action: str, *arguments: str) -> Outcome:
    return leora("policy", action, "--tenant-slug", "o'brien's", *arguments)


def written(crm: Crm) -> dict[str, object]:
    """Returns all rows; of a rehearsal, sequences keep the numbers that it drew."""
    return {table: rows for table, rows in crm.contents().items() if table != "sequences"}


def test_a_policy_is_changed_reported_and_taken_back(
    crm_of_user: Crm, runtime_url: str, tenant: UUID
) -> None:
    env = environment(LEORA_DATABASE_URL=runtime_url, LOGNAME="ann")
    command = (BIN / "leora", "policy", "set", "--tenant-slug", "o'brien's", "--yes")

    changed = run(*command, *NARROW, env=env)

    assert (changed.code, changed.err) == (0, "")
    assert changed.lines[:-1] == [
        "Policy of o'brien's:",
        "name\told\tnew",
        "active-within\t180\t90",
        "target-within\t365\t150",
        "Customers that move (7):",
        "from\tto\tcustomers",
        "ACTIVE\tTARGET\t4",
        "TARGET\tPROSPECT\t3",
    ]
    assert crm_of_user.counts("o'brien's") == {"ACTIVE": 9, "TARGET": 3}
    [advice] = re.findall(
        r"^✅ Written\. The next incremental run moves them; `leora (.*)` does it now\.$",
        changed.lines[-1],
    )
    assert run(BIN / "leora", *shlex.split(advice), env=env).code == 0
    assert crm_of_user.counts("o'brien's") == {"ACTIVE": 5, "TARGET": 4, "PROSPECT": 3}
    customer = crm_of_user.run('SELECT id FROM "Customer" WHERE "accountType" = \'TARGET\'')[0].id
    story = run(BIN / "leora", "history", str(customer), env=env)
    assert any("\tACTIVE\tTARGET\t" in line and "the tenant's policy changed" in line
               for line in story.lines)  # fmt: skip

    shown = run(BIN / "leora", "policy", "show", "--tenant-slug", "o'brien's", env=env)

    assert shown.code == 0
    assert shown.lines[:2] == [
        "Policy of o'brien's:",
        "name\tvalue\tdefault where it differs\tmeaning",
    ]
    reported = {line.split("\t")[0]: line.split("\t")[1:3] for line in shown.lines}
    assert reported["active-within"] == ["90", "180"]
    assert reported["target-within"] == ["150", "365"]
    assert reported["uncounted-statuses"] == ["CANCELLED,DRAFT", ""]
    assert reported["gate-percent"] == ["20", ""]
    assert shown.lines[-3:-1] == ["Latest changes:", "time (UTC)\tby\twhat"]
    assert re.fullmatch(
        r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\tann@\S+ as \w+\t"
        r"active-within: 180 → 90; target-within: 365 → 150",
        shown.lines[-1],
    )

    assert run(BIN / "leora", "policy", "unset", "--tenant-slug", "o'brien's", "--yes",
               env=env).code == 0  # fmt: skip
    assert run(BIN / "leora", "update", "--incremental", env=env).code == 0
    assert crm_of_user.counts("o'brien's") == {"ACTIVE": 9, "TARGET": 3}


def test_json_is_one_object(leora: Leora, tenant: UUID) -> None:
    changed = policy(leora, "set", "gate-percent=12.5", "active-within=90", "--yes", "--json")
    [shown] = json.loads(leora("policy", "show", "--json").out)["results"]

    before, after = {"active_within": 180, "gate_percent": 20}, {
        "active_within": 90, "gate_percent": 12.5
    }  # fmt: skip
    assert json.loads(changed.out) == {
        "tenant_slug": "o'brien's",
        "before": before,
        "after": after,
        "moves": [{"from": "ACTIVE", "to": "TARGET", "count": 4}],
    }
    assert shown["tenant_slug"] == "o'brien's"
    assert shown["differing"] == ["active_within", "gate_percent"]
    assert shown["policy"] == shown["default"] | after
    [change] = shown["changes"]
    assert (change["before"], change["after"]) == (before, after)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_pipe_without_yes_is_reported_and_nothing_is_written(
    crm_of_user: Crm, leora: Leora, tenant: UUID, as_json: bool
) -> None:
    before = written(crm_of_user)

    outcome = policy(leora, "set", *NARROW, *(["--json"] if as_json else []))

    assert (outcome.code, outcome.error) == (
        2,
        "there is no terminal to ask on, so nothing was written; --yes does it",
    )
    assert ("Customers that move (7):" in outcome.lines) is not as_json
    assert written(crm_of_user) == before


@pytest.mark.parametrize(("answer", "code", "is_written"), [("y", 0, True), ("n", 1, False)])
def test_a_terminal_is_asked(
    crm_of_user: Crm, runtime_url: str, tenant: UUID, answer: str, code: int, is_written: bool
) -> None:
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    try:
        done = subprocess.run(
            [BIN / "leora", "policy", "unset", "--tenant-slug", "o'brien's"],
            env=environment(LEORA_DATABASE_URL=runtime_url),
            stdin=terminal,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert "nothing was written" in done.stdout, "where nothing is to change, nobody is asked"
        asked = subprocess.run(
            [BIN / "leora", "policy", "set", "--tenant-slug", "o'brien's", *NARROW],
            env=environment(LEORA_DATABASE_URL=runtime_url),
            stdin=terminal,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)

    assert asked.returncode == code
    assert "Change the policy of o'brien's? [y/N]" in asked.stderr
    assert "Customers that move (7):" in asked.stdout
    assert ("✅ Written." in asked.stdout) is is_written
    assert ("Nothing was written." in asked.stdout) is not is_written
    assert len(crm_of_user.run("SELECT FROM leora_pipeline.tenant_policy")) == is_written


def test_what_is_so_already_is_said(crm_of_user: Crm, leora: Leora, tenant: UUID) -> None:
    before = written(crm_of_user)

    for outcome in (
        policy(leora, "set", "active-within=180", "uncounted_statuses=DRAFT,CANCELLED"),
        policy(leora, "unset"),
    ):
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.lines == ["The policy of o'brien's is that already; nothing was written."]
    assert written(crm_of_user) == before


def test_one_value_is_unset_and_the_others_stay(leora: Leora, tenant: UUID) -> None:
    assert policy(leora, "set", *NARROW, "min-customers=5", "--yes").code == 0

    assert policy(leora, "unset", "target-within", "--yes").code == 0

    [shown] = json.loads(leora("policy", "show", "--json").out)["results"]
    assert shown["differing"] == ["active_within", "min_customers"]


def test_each_change_says_what_comes_of_it(leora: Leora, tenant: UUID) -> None:
    limit = policy(leora, "set", "gate-percent=50", "--yes")
    nobody = policy(leora, "set", "target-within=300", "--yes")

    assert "No customer moves." in limit.lines
    assert limit.lines[-1] == "✅ Written. The gate and the checks judge by it from now on."
    assert (
        nobody.lines[-1]
        == "✅ Written. No customer moves for now; the runs judge by it from now on."
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ("active-within=400", "--yes"),
            "the policy is refused, and nothing was written: active-within must be at least 1 and "
            "less than target-within, and target-within at most 36500",
        ),
        (("active=90",), "a policy has no 'active'; it has threshold-unit, active-within"),
        (("active-within",), "'active-within' sets nothing; write NAME=VALUE"),
        (("min-customers=few",), "min-customers cannot be 'few'; it takes a whole number"),
        (
            ("uncounted-statuses=DRAFT,LOST",),
            "the CRM's orders have no status LOST; known are: DRAFT, SUBMITTED, FULFILLED",
        ),
        ((), "Missing argument 'NAME=VALUE...'"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage_in_one_line(
    crm_of_user: Crm, leora: Leora, tenant: UUID, arguments: tuple[str, ...], error: str
) -> None:
    before = written(crm_of_user)

    outcome = policy(leora, "set", *arguments)

    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error.startswith(error)
    assert written(crm_of_user) == before


def test_an_unknown_tenant_or_none_is_wrong_usage(leora: Leora, tenant: UUID) -> None:
    for action in (("show",), ("set", "min-customers=1"), ("unset",)):
        outcome = leora("policy", *action, "--tenant-slug", "nobody")
        assert (outcome.code, outcome.error) == (2, "unknown tenant nobody; known are: o'brien's")
    assert leora("policy", "unset").error == "Missing option '--tenant-slug'."
    assert leora("policy", "unset", "--tenant-slug", "o'brien's", "all").code == 2


def test_a_database_that_forbids_writes_will_do_to_show(
    crm_of_user: Crm, leora: Leora, tenant: UUID
) -> None:
    crm_of_user.run(
        f"ALTER DATABASE {crm_of_user.engine.url.database} SET default_transaction_read_only = on"
    )
    assert leora("policy", "show").code == 0
    assert policy(leora, "set", "min-customers=1", "--yes").code == 1


def test_help_names_all_that_can_be_set(leora: Leora) -> None:
    reported = leora("policy", "set", "--help")

    assert reported.code == 0
    assert reported.out.startswith("Usage: leora policy set [OPTIONS] NAME=VALUE...")
    for name in ("threshold-unit", "uncounted-statuses", "healthy-prospect-max", "min-customers"):
        assert f"\n    {name} " in reported.out
    assert "  policy " in leora("--help").out
