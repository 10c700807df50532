"""``leora update`` as a user and a cron job call it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from leora_pipeline.core.os_user import os_user
from leora_pipeline_tests.acceptance.commands import STARTING, as_process, hold, json_of
from leora_pipeline_tests.acceptance.conftest import WELL_CRAFTED, Crm, Leora
from leora_pipeline_tests.crm_builder import ago

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]


ALLOW = ("--allow-mass-change", "--reason", "they are archived")


def test_update_prints_the_lines_of_the_seeds_example(crm_of_user: Crm, runtime_url: str) -> None:
    crm_of_user.load(WELL_CRAFTED)

    outcome = as_process(runtime_url, "update")

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

    reported = json_of(outcome)
    assert (outcome.code, outcome.err) == (0, "")
    assert set(reported) == {"as_of", "duration_ms", "results"}
    as_of = datetime.fromisoformat(reported["as_of"])
    assert begun <= as_of <= datetime.now(UTC) + timedelta(seconds=1)
    assert isinstance(reported["duration_ms"], int)
    assert reported["results"] == [
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
    reported = [line for line in (held.out + held.err).splitlines() if "held" in line]
    assert len(reported) == 1
    way_out = "leora update --tenant-slug cellar --allow-mass-change --reason"
    assert f"`{way_out} '…'`" in reported[0]
    assert held_json.code == 1
    assert json_of(held_json)["results"][0]["held"] is True
    assert crm_of_user.counts("cellar") == {"ACTIVE": 30}

    allowed = leora(*way_out.split()[1:], "orders of the old shop\n were archived", "--json")

    assert allowed.code == 0
    assert json_of(allowed)["results"][0]["held"] is False
    assert json_of(allowed)["results"][0]["changed"]["PROSPECT"] == 30
    assert crm_of_user.counts("cellar") == {"PROSPECT": 30}
    [(released_by,)] = crm_of_user.run("SELECT released_by FROM leora_pipeline.tenant_hold")
    assert released_by == f"{os_user()}: orders of the old shop were archived"


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        (["--allow-mass-change"], "--reason TEXT"),
        (["--allow-mass-change", "--reason", " "], "--reason TEXT"),
        (["--allow-mass-change", "--reason", "…"], "--reason TEXT"),  # Pasted as it is shown.
        (["--reason", "they are archived"], "--allow-mass-change"),
    ],
)
def test_a_mass_change_and_its_reason_go_together(
    crm_of_user: Crm, leora: Leora, options: list[str], way_out: str
) -> None:
    hold(crm_of_user, leora)

    refused = leora("update", *options)

    assert refused.code == 2
    assert way_out in refused.error
    assert crm_of_user.counts("cellar") == {"ACTIVE": 30}


def test_allow_mass_change_without_a_tenant_means_all(crm_of_user: Crm, leora: Leora) -> None:
    hold(crm_of_user, leora, "one")
    hold(crm_of_user, leora, "two")

    assert leora("update", "--tenant-slug", "one", *ALLOW).code == 0
    assert crm_of_user.counts("two") == {"ACTIVE": 30}
    assert leora("update", *ALLOW).code == 0

    assert crm_of_user.counts("two") == {"PROSPECT": 30}


def test_one_failing_tenant_exits_1_named_in_one_line_and_the_others_are_done(
    crm_of_user: Crm, runtime_url: str, leora: Leora
) -> None:
    broken, sound = crm_of_user.tenant("broken"), crm_of_user.tenant("sound")
    crm_of_user.customer(broken, None)
    crm_of_user.customer(sound, None)
    crm_of_user.break_tenant(broken)

    outcome = as_process(runtime_url, "update")
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
    crm_of_user: Crm, runtime_url: str
) -> None:
    crm_of_user.tenant("cellar")

    outcome = as_process(runtime_url, "update", "--tenant-slug", "celar", "--json")

    assert outcome.code == 2
    assert "celar" in outcome.error
    assert "cellar" in outcome.error, "the known tenants help who mistyped"
    assert outcome.out == ""
