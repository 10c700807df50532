"""What every command refuses, in one line, and how it writes to pipes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from leora_pipeline.cli import main
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline_tests.acceptance.commands import STARTING, as_process
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.processes import BIN, environment
from leora_pipeline_tests.roles import grant_runtime, url_as

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]


COMMANDS = ["update", "preview", "check", "status"]


@pytest.fixture
def filtered_url(build: CrmBuilder, runtime_url: str) -> Iterator[str]:
    """A URL whose role row level security filters."""
    crm = build
    role = f"leora_{uuid4().hex[:12]}"
    crm.run(f"CREATE ROLE {role} LOGIN")
    grant_runtime(crm, role)
    crm.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    crm.run(
        'CREATE POLICY own ON "Order" '
        "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
    )
    yield url_as(runtime_url, role)
    crm.run(f"DROP OWNED BY {role}")
    crm.run(f"DROP ROLE {role}")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_role_that_row_level_security_filters_is_refused(
    filtered_url: str, leora: Leora, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", filtered_url)

    outcome = leora(command)

    assert outcome.code == 1
    assert '"Order"' in outcome.error
    assert "BYPASSRLS" in outcome.error
    assert outcome.lines in ([], [STARTING])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_that_is_not_migrated_is_refused_with_the_way_out(
    crm_url: str, leora: Leora, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", crm_url)

    outcome = leora(command)

    assert outcome.code == 1
    assert "leora migrate" in outcome.error
    assert outcome.lines in ([], [STARTING])


@pytest.mark.parametrize("command", ["migrate", *COMMANDS])
def test_a_database_that_is_no_crm_is_refused_naming_what_is_missing(
    crm_url: str, leora: Leora, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    engine = create_engine(crm_url)
    CrmBuilder(engine).run('ALTER TABLE "Customer" DROP COLUMN "accountType"')
    CrmBuilder(engine).run('DROP TABLE "Order"')
    engine.dispose()
    monkeypatch.setenv("LEORA_DATABASE_URL", crm_url)

    outcome = leora(command)

    assert outcome.code == 1
    assert '"Order"' in outcome.error
    assert '"Customer"."accountType"' in outcome.error


@pytest.mark.parametrize("command", ["migrate", *COMMANDS])
def test_an_unreachable_server_is_one_line_without_the_password(
    leora: Leora, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", "postgresql://leora:s3cret@127.0.0.1:1/crm")

    outcome = leora(command)

    assert outcome.code == 1
    assert "127.0.0.1:1/crm" in outcome.error
    assert "LEORA_DATABASE_URL" in outcome.error
    assert "s3cret" not in outcome.out + outcome.err


def test_an_unreachable_server_in_a_process_of_its_own_is_one_line_too() -> None:
    outcome = as_process("postgresql://leora:s3cret@127.0.0.1:1/crm", "status", "--json")

    assert outcome.code == 1
    assert outcome.error
    assert outcome.out == ""
    assert "s3cret" not in outcome.err


@pytest.mark.parametrize(
    "url",
    [
        "mysql://leora:s3cret@127.0.0.1/crm",
        "127.0.0.1/crm",
        "postgresql://leora:s3cret@127.0.0.1:port/crm",
        # The first @ ends the password, so that the rest of it would pass for a host's name.
        "postgresql://leora:top@s3cret@127.0.0.1:1/crm",
    ],
)
def test_a_url_that_cannot_be_read_is_wrong_usage_and_shows_no_password(
    leora: Leora, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", url)

    outcome = leora("status")

    assert "s3cret" not in outcome.out + outcome.err
    assert outcome.code == 2
    assert "LEORA_DATABASE_URL" in outcome.error


def test_a_variable_that_means_nothing_stops_what_needs_it_and_is_named(
    crm_of_user: Crm, leora: Leora, monkeypatch: pytest.MonkeyPatch
) -> None:
    crm_of_user.customer(crm_of_user.tenant(), orders=(ago(days=1),))
    monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", "perhaps")
    monkeypatch.setenv("LEORA_KEEP_RUN_DAYS", "never")

    outcome = leora("update")

    assert outcome.code == 2
    assert outcome.error == "LEORA_WRITE_LAST_ORDER_DATE is 'perhaps'; set it to true or false"

    monkeypatch.delenv("LEORA_WRITE_LAST_ORDER_DATE")
    assert leora("update").code == 0

    days = "LEORA_KEEP_RUN_DAYS is 'never'; set it to a number of days, from 7 to 36500"
    status = leora("status")
    assert status.code == 1
    assert days in status.out
    assert json.loads(leora("status", "--json").out)["problems"] == [days]


@pytest.mark.parametrize(
    "setting",
    [
        "datestyle = 'SQL, DMY'",
        "client_encoding = 'LATIN1'",
        "timezone = 'Asia/Tokyo'",
        "default_transaction_isolation = 'serializable'",
    ],
)
def test_no_setting_of_the_database_changes_what_an_update_does(
    crm_of_user: Crm, leora: Leora, setting: str
) -> None:
    customer = crm_of_user.customer(
        crm_of_user.tenant(), "ACTIVE", orders=(ago(days=200),), name="Chez Zoé 🍷"
    )
    crm_of_user.run(f"ALTER DATABASE {crm_of_user.engine.url.database} SET {setting}")

    preview, update = leora("preview"), leora("update")

    assert (preview.code, update.code) == (0, 0), preview.err + update.err
    assert "Chez Zoé 🍷" in preview.out
    assert crm_of_user.type_of(customer) == "TARGET"


def test_a_schema_of_a_newer_version_is_refused_with_the_way_out(
    crm_of_user: Crm, leora: Leora, runtime_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crm_of_user.run("UPDATE leora_pipeline.alembic_version SET version_num = '9999'")

    for command in (("update",), ("migrate",), ("migrate", "--down")):
        if command[0] == "migrate":
            monkeypatch.setenv("LEORA_DATABASE_URL", url_as(runtime_url, "leora_owner"))
        outcome = leora(*command)
        assert outcome.code == 1
        assert "9999" in outcome.error


def test_an_error_that_nobody_foresaw_is_one_line_and_a_variable_shows_all_of_it(
    crm_of_user: Crm, leora: Leora, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*arguments: object) -> None:
        raise ZeroDivisionError("it broke")

    monkeypatch.setattr("leora_pipeline.cli.status.read_status", break_down)
    outcome = leora("status")
    assert outcome.code == 1
    assert "unexpected ZeroDivisionError: it broke" in outcome.error

    monkeypatch.setenv("LEORA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["status"])


def test_output_that_cannot_be_written_is_one_line(runtime_url: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [BIN / "leora", "status", "--json"],
            env=environment(LEORA_DATABASE_URL=runtime_url),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1


def test_without_a_command_the_help_is_shown(leora: Leora) -> None:
    outcome = leora()
    assert outcome.code == 2
    assert "Commands:" in outcome.err


@pytest.mark.parametrize("command", ["update", "preview", "status"])
def test_output_in_a_pipe_is_plain_even_where_colour_is_offered(
    crm_of_user: Crm, runtime_url: str, command: str
) -> None:
    tenant = crm_of_user.tenant()
    crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=212),))

    outcome = as_process(runtime_url, command, TERM="xterm-256color", COLORTERM="truecolor")

    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "\x1b" not in outcome.out
    assert not set("┏┃│─╭") & set(outcome.out)


def test_a_locale_without_check_marks_is_no_failure(crm_of_user: Crm, runtime_url: str) -> None:
    crm_of_user.customer(crm_of_user.tenant(), None)

    outcome = as_process(runtime_url, "update", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")

    assert (outcome.code, outcome.err) == (0, "")
    assert "? Account types updated for cellar" in outcome.out
