"""``leora --help`` and ``leora migrate``."""

from __future__ import annotations

import re
from typing import Any

import pytest

from leora_pipeline.core.database.engine import create_engine
from leora_pipeline_tests.acceptance.commands import HEALTHY, as_process
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.databases import psql
from leora_pipeline_tests.processes import BIN, environment, run
from leora_pipeline_tests.roles import url_as

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]


@pytest.mark.parametrize(
    "command", ["", "demo", "dev", "migrate", "update", "preview", "check", "status", "alerts"]
)
def test_help_says_what_each_command_does_without_a_database(leora: Leora, command: str) -> None:
    reported = leora(*command.split(), "--help")

    assert reported.code == 0
    assert reported.out.startswith(f"Usage: leora {command}".rstrip())
    assert reported.err == ""


def test_help_lists_every_command_with_a_line_each() -> None:
    reported = run(BIN / "leora", "--help", env=environment(LEORA_DATABASE_URL="mysql://nowhere"))

    assert (reported.code, reported.err) == (0, "")
    for command in ("demo", "dev", "migrate", "update", "preview", "check", "status", "alerts"):
        assert re.search(rf"^  {command} +\S", reported.out, re.MULTILINE)


def test_an_unknown_command_or_option_is_wrong_usage_in_one_line(leora: Leora) -> None:
    for arguments in (["upgrade"], ["update", "--tenant", "x"], ["preview", "--limit", "-1"]):
        outcome = leora(*arguments)
        assert outcome.code == 2, arguments
        assert outcome.error
        assert outcome.out == ""


def test_migrate_installs_once_and_down_leaves_the_crm_as_it_was(crm_url: str) -> None:
    engine = create_engine(crm_url)
    crm = Crm(engine)
    crm.load(HEALTHY)
    before = crm.contents()

    first = as_process(crm_url, "migrate")
    again = as_process(crm_url, "migrate")

    assert first.code == again.code == 0
    assert first.out == again.out
    # The test's role is a superuser, which is told so, and how to hand the schema over.
    assert first.err.startswith("The schema belongs to superuser postgres")
    assert "`leora migrate --owner leora_owner`" in first.err
    assert len(first.lines) == 1
    assert "leora_pipeline.customer_state" in crm.contents()

    down = as_process(crm_url, "migrate", "--down")
    down_again = as_process(crm_url, "migrate", "--down")

    assert (down.code, down.err) == (0, "")
    assert (down_again.code, down_again.err) == (0, "")
    assert crm.contents() == before
    assert not crm.run("SELECT FROM pg_namespace WHERE nspname = 'leora_pipeline'")
    engine.dispose()


def test_the_types_written_stay_when_the_schema_goes(
    crm_of_user: Crm, leora: Leora, runtime_url: str
) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0
    written = crm_of_user.contents()["public.Customer"]

    assert leora("migrate", "--down").code == 1, "not as leora_runtime"
    owner = url_as(runtime_url, "leora_owner")
    assert as_process(owner, "migrate", "--down").code == 0

    assert crm_of_user.contents()["public.Customer"] == written


def test_an_installation_as_documented_says_what_to_revoke_and_then_nothing(crm_url: str) -> None:
    engine = create_engine(crm_url)
    crm = Crm(engine)
    printed = as_process("postgresql://127.0.0.1:1/nowhere", "migrate", "--sql", "--roles")
    assert (printed.code, printed.err) == (0, "")
    psql(crm_url, printed.out)
    owner, runtime = (url_as(crm_url, role) for role in ("leora_owner", "leora_runtime"))

    installed = as_process(owner, "migrate")

    assert installed.code == 0
    doors = re.findall(r"^Open door: .*\((REVOKE .*)\)$", installed.err, re.MULTILINE)
    assert [door.split(" FROM ")[0].rpartition(" ON ")[0] for door in doors] == [
        "REVOKE TRIGGER",
        "REVOKE TRIGGER",
        "REVOKE CREATE",
    ]
    assert "Open door" in as_process(runtime, "status").out
    for door in doors:
        crm.run(door)
    assert as_process(owner, "migrate").err == ""
    assert "Open door" not in as_process(runtime, "status").out
    refused = as_process(runtime, "migrate", "--owner", "leora_reader")
    assert refused.code == 1
    assert "role leora_reader lacks" in refused.error
    engine.dispose()


@pytest.mark.parametrize(
    "flags", [("--roles",), ("--down", "--owner", "x"), ("--sql", "--owner", "x")]
)
def test_options_of_migrate_that_make_no_sense_together_are_wrong_usage(
    leora: Leora, flags: tuple[str, ...]
) -> None:
    outcome = leora("migrate", *flags)

    assert outcome.code == 2
    assert outcome.error


def test_migrate_sql_prints_what_a_person_can_run_by_hand(crm_url: str) -> None:
    for flags, begins_empty in (((), True), (("--down",), False)):
        engine = create_engine(crm_url)
        crm = Crm(engine)
        assert ("leora_pipeline.customer_state" not in crm.contents()) == begins_empty
        # Printing needs no database at all, and touches none.
        printed = as_process("postgresql://127.0.0.1:1/nowhere", "migrate", "--sql", *flags)
        assert (printed.code, printed.err) == (0, "")
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute(printed.out)
        assert ("leora_pipeline.customer_state" in crm.contents()) == begins_empty
        if begins_empty:
            assert as_process(crm_url, "update").code == 0
        engine.dispose()
