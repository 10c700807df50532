"""The command ``leora`` as a user, a cron job and a script rely on it.

Most tests run it in this process, which is the same code from the arguments to the exit code; what
only a process of its own shows (pipes, start-up, warnings of libraries) runs as one.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from leora_pipeline.cli import main
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.sample import SampleTenant
from leora_pipeline_tests.acceptance.conftest import WELL_CRAFTED, Crm, Leora
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.processes import BIN, Outcome, environment, run

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]

HEALTHY = SampleTenant("hillside", "Hillside", "UTC", 68, 8, 24, 2)
DYING = SampleTenant("old-river", "Old River", "UTC", 30, 10, 60, 0)
STARTING = "[update-account-types] Starting daily account type update..."


def as_process(url: str, *arguments: str, **variables: str) -> Outcome:
    """Runs the installed command as a process of its own."""
    return run(BIN / "leora", *arguments, env=environment(LEORA_DATABASE_URL=url, **variables))


def json_of(outcome: Outcome) -> Any:
    """Returns the JSON that standard output holds, and nothing beside it."""
    return json.loads(outcome.out)


def hold(crm: Crm, leora: Leora, slug: str = "cellar") -> UUID:
    """Makes a tenant that an update holds: all its orders are gone over night."""
    tenant = crm.tenant(slug)
    crm.customers(tenant, 30, "ACTIVE", ago(days=1))
    assert leora("update", "--tenant-slug", slug).code == 0
    crm.lose_orders(tenant)
    assert leora("update", "--tenant-slug", slug).code == 1
    return tenant


# Help.


@pytest.mark.parametrize(
    "command", ["", "demo", "dev", "migrate", "update", "preview", "check", "status", "alerts"]
)
def test_help_tells_what_each_command_does_without_a_database(leora: Leora, command: str) -> None:
    told = leora(*command.split(), "--help")

    assert told.code == 0
    assert told.out.startswith(f"Usage: leora {command}".rstrip())
    assert told.err == ""


def test_help_lists_every_command_with_a_line_each() -> None:
    told = run(BIN / "leora", "--help", env=environment(LEORA_DATABASE_URL="mysql://nowhere"))

    assert (told.code, told.err) == (0, "")
    for command in ("demo", "dev", "migrate", "update", "preview", "check", "status", "alerts"):
        assert re.search(rf"^  {command} +\S", told.out, re.MULTILINE)


def test_an_unknown_command_or_option_is_wrong_usage_in_one_line(leora: Leora) -> None:
    for arguments in (["upgrade"], ["update", "--tenant", "x"], ["preview", "--limit", "-1"]):
        outcome = leora(*arguments)
        assert outcome.code == 2, arguments
        assert outcome.error
        assert outcome.out == ""


# leora migrate.


def test_migrate_installs_once_and_down_leaves_the_crm_as_it_was(crm_url: str) -> None:
    engine = create_engine(crm_url)
    crm = Crm(engine)
    crm.load(HEALTHY)
    before = crm.contents()

    first = as_process(crm_url, "migrate")
    again = as_process(crm_url, "migrate")

    assert (first.code, first.err) == (0, "")
    assert (again.code, again.err, again.out) == (0, "", first.out)
    assert len(first.lines) == 1
    assert "leora_pipeline.customer_state" in crm.contents()

    down = as_process(crm_url, "migrate", "--down")
    down_again = as_process(crm_url, "migrate", "--down")

    assert (down.code, down.err) == (0, "")
    assert (down_again.code, down_again.err) == (0, "")
    assert crm.contents() == before
    assert not crm.run("SELECT FROM pg_namespace WHERE nspname = 'leora_pipeline'")
    engine.dispose()


def test_the_types_written_stay_when_the_schema_goes(crm_of_user: Crm, leora: Leora) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0
    written = crm_of_user.contents()["public.Customer"]

    assert leora("migrate", "--down").code == 0

    assert crm_of_user.contents()["public.Customer"] == written


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


# leora update.


def test_update_prints_the_lines_of_the_seeds_example(crm_of_user: Crm, pipeline_url: str) -> None:
    crm_of_user.load(WELL_CRAFTED)

    outcome = as_process(pipeline_url, "update")

    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines[:-1] == [
        STARTING,
        "✅ Account types updated for well-crafted: ACTIVE=1234, TARGET=89, PROSPECT=456",
        "[update-account-types] Job complete:",
        "  - Tenants processed: 1",
        "  - Total customers: 1779",
        "  - ACTIVE: 1234 (69.4%)",
        "  - TARGET: 89 (5.0%)",
        "  - PROSPECT: 456 (25.6%)",
    ]
    assert re.fullmatch(r"  - Duration: \d+ms", outcome.lines[-1])
    assert crm_of_user.counts("well-crafted") == {
        "ACTIVE": 1234,
        "TARGET": 89,
        "PROSPECT": 456,
        "HOLD": 21,
    }


def test_update_json_counts_what_stands_in_the_crm_and_what_moved(
    crm_of_user: Crm, leora: Leora
) -> None:
    tenant = crm_of_user.tenant()
    crm_of_user.customer(tenant, None, orders=(ago(days=1),))
    crm_of_user.customer(tenant, "PROSPECT", orders=(ago(days=200),))
    crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=400),))
    crm_of_user.customer(tenant, None)
    crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=2),))
    crm_of_user.customer(tenant, "HOLD", orders=(ago(days=2),))
    begun = datetime.now(UTC) - timedelta(seconds=1)

    outcome = leora("update", "--json")

    told = json_of(outcome)
    assert (outcome.code, outcome.err) == (0, "")
    assert set(told) == {"as_of", "duration_ms", "results"}
    as_of = datetime.fromisoformat(told["as_of"])
    assert begun <= as_of <= datetime.now(UTC) + timedelta(seconds=1)
    assert isinstance(told["duration_ms"], int)
    assert told["results"] == [
        {
            "tenant_id": str(tenant),
            "tenant_slug": "cellar",
            "active": 2,
            "target": 1,
            "prospect": 2,
            "pinned": 1,
            "total": 5,
            "changed": {"ACTIVE": 1, "TARGET": 1, "PROSPECT": 2},
            "held": False,
        }
    ]
    again = json_of(leora("update", "--json"))["results"][0]
    assert again["changed"] == {"ACTIVE": 0, "TARGET": 0, "PROSPECT": 0}


def test_update_covers_the_tenants_named_and_no_other(crm_of_user: Crm, leora: Leora) -> None:
    customers = {
        slug: crm_of_user.customer(crm_of_user.tenant(slug), None) for slug in ("a", "b", "c")
    }

    outcome = leora("update", "--tenant-slug", "c", "--tenant-slug", "a", "--json")

    assert [result["tenant_slug"] for result in json_of(outcome)["results"]] == ["a", "c"]
    types = {slug: crm_of_user.type_of(customer) for slug, customer in customers.items()}
    assert types == {"a": "PROSPECT", "b": None, "c": "PROSPECT"}


def test_update_of_a_crm_without_tenants_or_customers_divides_by_nothing(
    crm_of_user: Crm, leora: Leora
) -> None:
    empty = leora("update")
    crm_of_user.tenant("first-press")
    without_customers = leora("update")

    assert (empty.code, without_customers.code) == (0, 0)
    assert "  - Tenants processed: 0" in empty.lines
    assert "  - Tenants processed: 1" in without_customers.lines
    assert (
        "✅ Account types updated for first-press: ACTIVE=0, TARGET=0, PROSPECT=0"
        in without_customers.lines
    )


@pytest.mark.parametrize("text", ["2026-01-31", "2026-01-31T00:00:00Z", "2026-01-31T05:00+05:00"])
def test_as_of_judges_by_that_instant_whatever_way_it_is_written(
    crm_of_user: Crm, leora: Leora, text: str
) -> None:
    tenant = crm_of_user.tenant()
    ordered = datetime(2026, 1, 31, tzinfo=UTC) - timedelta(days=180)
    on_the_edge = crm_of_user.customer(tenant, None, orders=(ordered,))
    past_it = crm_of_user.customer(tenant, None, orders=(ordered - timedelta(milliseconds=1),))
    later = crm_of_user.customer(tenant, None, orders=(datetime(2026, 2, 1, tzinfo=UTC),))

    outcome = leora("update", "--as-of", text, "--json")

    assert outcome.code == 0
    assert datetime.fromisoformat(json_of(outcome)["as_of"]) == datetime(2026, 1, 31, tzinfo=UTC)
    assert crm_of_user.type_of(on_the_edge) == "ACTIVE"
    assert crm_of_user.type_of(past_it) == "TARGET"
    assert crm_of_user.type_of(later) == "PROSPECT"


def test_a_held_tenant_exits_1_and_names_the_way_out_which_works(
    crm_of_user: Crm, leora: Leora
) -> None:
    hold(crm_of_user, leora)

    held = leora("update")
    held_json = leora("update", "--json")

    assert held.code == 1
    assert held.err == "" or held.error
    told = [line for line in (held.out + held.err).splitlines() if "held" in line]
    assert len(told) == 1
    way_out = "leora update --tenant-slug cellar --allow-mass-change"
    assert way_out in told[0]
    assert held_json.code == 1
    assert json_of(held_json)["results"][0]["held"] is True
    assert crm_of_user.counts("cellar") == {"ACTIVE": 30}

    allowed = leora(*way_out.split()[1:], "--json")

    assert allowed.code == 0
    assert json_of(allowed)["results"][0]["held"] is False
    assert json_of(allowed)["results"][0]["changed"]["PROSPECT"] == 30
    assert crm_of_user.counts("cellar") == {"PROSPECT": 30}


def test_allow_mass_change_without_a_tenant_means_all(crm_of_user: Crm, leora: Leora) -> None:
    hold(crm_of_user, leora, "one")
    hold(crm_of_user, leora, "two")

    assert leora("update", "--tenant-slug", "one", "--allow-mass-change").code == 0
    assert crm_of_user.counts("two") == {"ACTIVE": 30}
    assert leora("update", "--allow-mass-change").code == 0

    assert crm_of_user.counts("two") == {"PROSPECT": 30}


def test_one_failing_tenant_exits_1_named_in_one_line_and_the_others_are_done(
    crm_of_user: Crm, pipeline_url: str, leora: Leora
) -> None:
    broken, sound = crm_of_user.tenant("broken"), crm_of_user.tenant("sound")
    crm_of_user.customer(broken, None)
    crm_of_user.customer(sound, None)
    crm_of_user.break_tenant(broken)

    outcome = as_process(pipeline_url, "update")
    as_json = leora("update", "--json")

    assert outcome.code == 1
    assert "broken" in outcome.error
    assert "the disk is made of cheese" in outcome.error
    assert "✅ Account types updated for sound: ACTIVE=0, TARGET=0, PROSPECT=1" in outcome.lines
    assert not any("updated for broken" in line for line in outcome.lines)
    assert as_json.code == 1
    assert [result["tenant_slug"] for result in json_of(as_json)["results"]] == ["sound"]
    assert "broken" in as_json.error
    assert crm_of_user.counts("broken") == {None: 1}
    assert crm_of_user.counts("sound") == {"PROSPECT": 1}


@pytest.mark.parametrize("command", ["update", "preview"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tenant-slug", "celar"], "celar"),
        (["--tenant-slug", "cellar", "--tenant-slug", "nobody"], "nobody"),
        (["--tenant-slug", ""], "tenant"),
        (["--as-of", "yesterday"], "yesterday"),
        (["--as-of", ""], "''"),
        (["--as-of", "2026-02-30"], "2026-02-30"),
        (["--as-of", "0001-01-01T00:00:00+14:00"], "0001-01-01"),
    ],
)
def test_wrong_usage_exits_2_in_one_line(
    crm_of_user: Crm, leora: Leora, command: str, arguments: list[str], named: str
) -> None:
    crm_of_user.tenant("cellar")

    outcome = leora(command, *arguments)

    assert outcome.code == 2
    assert named in outcome.error
    assert outcome.lines in ([], [STARTING])


def test_an_update_as_of_the_future_is_wrong_usage(crm_of_user: Crm, leora: Leora) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant(), None)

    outcome = leora("update", "--as-of", (ago(days=-1)).isoformat())

    assert outcome.code == 2
    assert "future" in outcome.error
    assert outcome.lines in ([], [STARTING])
    assert crm_of_user.type_of(customer) is None


def test_wrong_usage_in_a_process_of_its_own_is_one_line_too(
    crm_of_user: Crm, pipeline_url: str
) -> None:
    crm_of_user.tenant("cellar")

    outcome = as_process(pipeline_url, "update", "--tenant-slug", "celar", "--json")

    assert outcome.code == 2
    assert "celar" in outcome.error
    assert "cellar" in outcome.error, "the known tenants help who mistyped"
    assert outcome.out == ""


# leora preview.


@pytest.fixture
def misclassified(crm_of_user: Crm) -> Crm:
    """A tenant with customers of each kind: right, wrong, unclassified, pinned."""
    tenant = crm_of_user.tenant("cellar")
    crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=212),), name="Bodega")
    crm_of_user.customer(tenant, "PROSPECT", orders=(ago(days=3),), name="Cask Room")
    crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=400),), name="Delicatessen")
    crm_of_user.customer(tenant, None, name="Enoteca")
    crm_of_user.customer(tenant, "TARGET", orders=(ago(days=200),), name="Fine Wines")
    crm_of_user.customer(tenant, "HOLD", orders=(ago(days=3),), name="Grocer")
    return crm_of_user


def test_preview_json_is_the_contracts(misclassified: Crm, leora: Leora) -> None:
    outcome = leora("preview", "--json")

    told = json_of(outcome)
    assert (outcome.code, outcome.err) == (0, "")
    assert set(told) == {"as_of", "results"}
    assert abs(datetime.fromisoformat(told["as_of"]) - datetime.now(UTC)) < timedelta(seconds=30)
    (result,) = told["results"]
    assert {key: result[key] for key in ("tenant_slug", "total", "correct", "incorrect")} == {
        "tenant_slug": "cellar",
        "total": 5,
        "correct": 1,
        "incorrect": 4,
    }
    current = {"ACTIVE": 2, "TARGET": 1, "PROSPECT": 1}
    assert {name: result["current"][name] for name in current} == current
    assert sum(result["current"].values()) == 5, "who is not classified is counted as such"
    assert result["expected"] == {"ACTIVE": 1, "TARGET": 2, "PROSPECT": 2}
    moves = {(move["from"], move["to"]): move["count"] for move in result["transitions"]}
    assert moves == {
        ("ACTIVE", "TARGET"): 1,
        ("ACTIVE", "PROSPECT"): 1,
        ("PROSPECT", "ACTIVE"): 1,
        (None, "PROSPECT"): 1,
    }
    named = {
        customer["name"]: (customer["current"], customer["expected"], customer["reason"])
        for customer in result["misclassified"]
    }
    assert named == {
        "Bodega": ("ACTIVE", "TARGET", "Ordered 212 days ago (180-365 days)"),
        "Cask Room": ("PROSPECT", "ACTIVE", "Ordered 3 days ago (within 180 days)"),
        "Delicatessen": ("ACTIVE", "PROSPECT", "Ordered 400 days ago (over 365 days)"),
        "Enoteca": (None, "PROSPECT", "Never ordered"),
    }
    for customer in result["misclassified"]:
        assert set(customer) == {
            "customer_id",
            "name",
            "current",
            "expected",
            "last_order_at",
            "reason",
        }
        UUID(customer["customer_id"])
        if customer["name"] == "Enoteca":
            assert customer["last_order_at"] is None
        else:
            assert datetime.fromisoformat(customer["last_order_at"]).utcoffset() == timedelta(0)


def test_preview_shows_people_what_is_wrong_why_and_what_to_do(
    misclassified: Crm, pipeline_url: str
) -> None:
    outcome = as_process(pipeline_url, "preview")

    assert (outcome.code, outcome.err) == (0, "")
    for part in (
        "cellar",
        "Incorrect: 4",
        "Correct: 1",
        "Bodega\tACTIVE\tTARGET\tOrdered 212 days ago (180-365 days)",
        "Never ordered",
        "ACTIVE\tPROSPECT\t1",
        "leora update --tenant-slug cellar",
    ):
        assert part in outcome.out, f"{part!r} is not told:\n{outcome.out}"
    assert "Fine Wines" not in outcome.out, "who is right is not listed"
    assert "Grocer" not in outcome.out, "who is pinned is not listed"


def test_preview_names_as_many_as_asked_and_says_how_to_see_the_rest(
    misclassified: Crm, leora: Leora
) -> None:
    two = leora("preview", "--limit", "2", "--json")
    assert len(json_of(two)["results"][0]["misclassified"]) == 2
    assert json_of(two)["results"][0]["incorrect"] == 4
    assert json_of(leora("preview", "--limit", "0", "--json"))["results"][0]["misclassified"] == []
    assert "--limit 4" in leora("preview", "--limit", "2").out


def test_preview_says_when_there_is_nothing_to_do(misclassified: Crm, leora: Leora) -> None:
    assert leora("update").code == 0

    outcome = leora("preview")

    assert outcome.code == 0
    assert "nothing to do" in outcome.out
    assert "Incorrect: 0" in outcome.out
    assert "leora update" not in outcome.out


def test_preview_warns_before_an_update_that_would_hold_the_tenant(
    crm_of_user: Crm, leora: Leora
) -> None:
    tenant = crm_of_user.tenant()
    crm_of_user.customers(tenant, 30, "ACTIVE", ago(days=1))
    assert leora("update").code == 0
    crm_of_user.lose_orders(tenant)

    outcome = leora("preview")

    assert outcome.code == 0
    assert "missing orders" in outcome.out
    assert "--allow-mass-change" in outcome.out


def test_preview_writes_nothing_anywhere(misclassified: Crm, leora: Leora) -> None:
    """Neither where nothing ran before, nor where a run left states, logs and a plan behind."""
    untouched = misclassified.contents()
    assert leora("preview").code == 0
    assert leora("preview", "--json", "--as-of", "2031-01-01").code == 0
    assert misclassified.contents() == untouched

    assert leora("update").code == 0
    hold(misclassified, leora, "emptied")
    after_runs = misclassified.contents()
    assert after_runs != untouched
    assert leora("preview", "--tenant-slug", "emptied", "--tenant-slug", "cellar").code == 0
    assert misclassified.contents() == after_runs


def test_preview_works_where_the_server_forbids_writes(
    misclassified: Crm, pipeline_url: str, leora: Leora
) -> None:
    database = pipeline_url.rpartition("?")[0].rpartition("/")[2]
    misclassified.run(f"ALTER DATABASE {database} SET default_transaction_read_only = on")

    refused = leora("update")
    assert refused.code == 1
    assert "read-only" in refused.error
    assert json_of(leora("preview", "--json"))["results"][0]["incorrect"] == 4


def test_preview_as_of_the_future_shows_what_age_will_do(misclassified: Crm, leora: Leora) -> None:
    outcome = leora("preview", "--as-of", ago(days=-1000).isoformat(), "--json")

    assert outcome.code == 0
    assert json_of(outcome)["results"][0]["expected"] == {"ACTIVE": 0, "TARGET": 0, "PROSPECT": 5}


def test_preview_of_another_instant_advises_nothing_that_an_update_would_not_do(
    misclassified: Crm, leora: Leora
) -> None:
    """What is said to come next has to be right when it is typed as it stands."""
    future = leora("preview", "--as-of", ago(days=-1000).isoformat())
    past = leora("preview", "--as-of", "2026-01-31")

    assert "leora update" not in future.out, "an update of the future does not exist"
    for line in past.lines:
        if "leora update" in line:
            assert "--as-of 2026-01-31" in line, "an update of now would correct others"


def test_preview_foretells_exactly_what_update_then_does(crm_of_user: Crm, leora: Leora) -> None:
    crm_of_user.load(HEALTHY)
    foretold = json_of(leora("preview", "--json"))["results"][0]
    assert foretold["incorrect"]

    done = json_of(leora("update", "--json"))["results"][0]

    moved = {"ACTIVE": 0, "TARGET": 0, "PROSPECT": 0}
    for move in foretold["transitions"]:
        moved[move["to"]] += move["count"]
    assert done["changed"] == moved
    assert foretold["expected"] == {
        "ACTIVE": done["active"],
        "TARGET": done["target"],
        "PROSPECT": done["prospect"],
    }
    assert foretold["total"] == done["total"]


# leora check.


def test_check_passes_a_healthy_crm_and_fails_a_dying_one(crm_of_user: Crm, leora: Leora) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0

    healthy = leora("check")
    healthy_json = leora("check", "--json")

    assert (healthy.code, healthy.err) == (0, "")
    assert "✅ high_churn" in healthy.out
    assert "❌" not in healthy.out
    assert healthy_json.code == 0
    assert json_of(healthy_json)["ok"] is True

    crm_of_user.load(DYING)
    assert leora("update").code == 0, "an unhealthy tenant is no failure of the run"
    dying = leora("check")
    dying_json = leora("check", "--json")

    assert dying.code == 1
    assert re.search(r"❌ high_churn: old-river: ACTIVE 30\.0 %", dying.out)
    assert dying_json.code == 1
    told = json_of(dying_json)
    assert told["ok"] is False
    failed = {
        (verdict["check_name"], verdict["tenant_slug"], verdict["severity"])
        for verdict in told["results"]
        if verdict["status"] == "failed"
    }
    assert failed == {
        ("high_churn", "old-river", "error"),
        ("outside_healthy", "old-river", "warn"),
    }


def test_check_as_a_process_prints_nothing_but_its_verdicts(
    crm_of_user: Crm, pipeline_url: str, leora: Leora
) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0

    outcome = as_process(pipeline_url, "check", "--json")

    assert (outcome.code, outcome.err) == (0, "")
    assert json_of(outcome)["ok"] is True
    assert "\x1b" not in outcome.out


# leora status.


def test_status_is_0_when_all_is_well(crm_of_user: Crm, pipeline_url: str, leora: Leora) -> None:
    crm_of_user.load(HEALTHY)
    assert leora("update").code == 0

    outcome = as_process(pipeline_url, "status")
    as_json = leora("status", "--json")

    assert (outcome.code, outcome.err) == (0, "")
    assert "hillside" in outcome.out
    assert "Nothing is wrong" in outcome.out
    told = json_of(as_json)
    assert as_json.code == 0
    assert (told["ok"], told["problems"]) == (True, [])
    assert [tenant["tenant_slug"] for tenant in told["tenants"]] == ["hillside"]
    finished = datetime.fromisoformat(told["tenants"][0]["last_full_success"])
    assert timedelta(0) <= datetime.now(UTC) - finished < timedelta(minutes=5)


def test_status_names_the_tenant_whose_nightly_run_died_three_days_ago(
    crm_of_user: Crm, leora: Leora
) -> None:
    for slug in ("awake", "asleep"):
        crm_of_user.customer(crm_of_user.tenant(slug), None)
    assert leora("update").code == 0
    crm_of_user.run(
        "UPDATE leora_pipeline.tenant_run SET started_at = started_at - interval '3 days', "
        "finished_at = finished_at - interval '3 days' "
        "WHERE tenant_id = (SELECT id FROM \"Tenant\" WHERE slug = 'asleep')"
    )

    outcome = leora("status")
    told = json_of(leora("status", "--json"))

    assert outcome.code == 1
    problems = [line for line in outcome.lines if "❌" in line]
    assert len(problems) == 1
    assert "asleep" in problems[0]
    assert told["ok"] is False
    assert len(told["problems"]) == 1
    assert told["problems"][0].startswith("asleep: ")
    # Its next run is what cures it.
    assert leora("update", "--tenant-slug", "asleep").code == 0
    assert leora("status").code == 0


def test_status_names_a_tenant_that_never_ran_once_its_first_nights_are_missed(
    crm_of_user: Crm, leora: Leora
) -> None:
    tenant = crm_of_user.tenant("new")
    assert leora("status").code == 0
    crm_of_user.run(
        'UPDATE "Tenant" SET "createdAt" = now() - interval \'3 days\' WHERE id = :id', id=tenant
    )

    outcome = leora("status")

    assert outcome.code == 1
    assert re.search(r"❌ new: ", outcome.out)


def test_status_is_1_while_a_tenant_is_held_or_its_last_run_failed(
    crm_of_user: Crm, leora: Leora
) -> None:
    hold(crm_of_user, leora)
    held = leora("status")
    assert held.code == 1
    assert re.search(r"❌ cellar: held, 30 of 30 customers", held.out)
    assert leora("update", "--allow-mass-change").code == 0
    assert leora("status").code == 0

    tenant = crm_of_user.tenant("broken")
    crm_of_user.customer(tenant, None)
    crm_of_user.break_tenant(tenant)
    assert leora("update").code == 1
    failed = leora("status")
    assert failed.code == 1
    assert re.search(r"❌ broken: .*the disk is made of cheese", failed.out)


def test_status_counts_who_still_has_to_be_told(crm_of_user: Crm, leora: Leora) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant(), None)
    with crm_of_user.engine.connect() as someone, someone.begin():
        someone.exec_driver_sql(f"SELECT FROM \"Customer\" WHERE id = '{customer}' FOR UPDATE")
        assert leora("update").code == 0
        told = json_of(leora("status", "--json"))
        assert told["unsynced"] == 1
        assert told["oldest_transaction_seconds"] > 0


# Refusals.

COMMANDS = ["update", "preview", "check", "status"]


@pytest.fixture
def filtered_url(engine: Any, pipeline_url: str) -> Iterator[str]:
    """A URL whose role row level security filters."""
    crm = CrmBuilder(engine)
    role = f"leora_{uuid4().hex[:12]}"
    crm.run(f"CREATE ROLE {role} LOGIN")
    for grant in (
        "USAGE ON SCHEMA leora_pipeline",
        "ALL ON ALL TABLES IN SCHEMA leora_pipeline",
        "ALL ON ALL TABLES IN SCHEMA public",
    ):
        crm.run(f"GRANT {grant} TO {role}")
    crm.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    crm.run(
        'CREATE POLICY own ON "Order" '
        "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
    )
    yield pipeline_url.replace("postgres@", f"{role}@", 1)
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


@pytest.mark.parametrize(
    ("command", "password"),
    [
        *((command, "s3cret") for command in ("migrate", *COMMANDS)),
        # Characters that have to be percent-encoded, as people paste them all the same.
        *(("status", pasted) for pasted in ("12/s3cret", "12?s3cret", "to#s3cret/")),
    ],
)
def test_an_unreachable_server_is_one_line_without_the_password(
    leora: Leora, monkeypatch: pytest.MonkeyPatch, command: str, password: str
) -> None:
    monkeypatch.setenv("LEORA_DATABASE_URL", f"postgresql://leora:{password}@127.0.0.1:1/crm")

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


@pytest.mark.parametrize(
    ("variable", "value"),
    [("LEORA_SCHEDULE_TIMEZONE", "Mars/Olympus"), ("LEORA_WRITE_LAST_ORDER_DATE", "perhaps")],
)
def test_a_variable_that_means_nothing_is_wrong_usage_named(
    leora: Leora, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    outcome = leora("update")

    assert outcome.code == 2
    assert variable in outcome.error
    assert value in outcome.error


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
    crm_of_user: Crm, leora: Leora
) -> None:
    crm_of_user.run("UPDATE leora_pipeline.alembic_version SET version_num = '9999'")

    for command in (("update",), ("migrate",), ("migrate", "--down")):
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


def test_output_that_cannot_be_written_is_one_line(pipeline_url: str) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [BIN / "leora", "status", "--json"],
            env=environment(LEORA_DATABASE_URL=pipeline_url),
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


# Output.


@pytest.mark.parametrize("command", ["update", "preview", "status"])
def test_output_in_a_pipe_is_plain_even_where_colour_is_offered(
    crm_of_user: Crm, pipeline_url: str, command: str
) -> None:
    tenant = crm_of_user.tenant()
    crm_of_user.customer(tenant, "ACTIVE", orders=(ago(days=212),))

    outcome = as_process(pipeline_url, command, TERM="xterm-256color", COLORTERM="truecolor")

    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "\x1b" not in outcome.out
    assert not set("┏┃│─╭") & set(outcome.out)


def test_a_locale_without_check_marks_is_no_failure(crm_of_user: Crm, pipeline_url: str) -> None:
    crm_of_user.customer(crm_of_user.tenant(), None)

    outcome = as_process(pipeline_url, "update", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")

    assert (outcome.code, outcome.err) == (0, "")
    assert "? Account types updated for cellar" in outcome.out
