"""``leora preview``, the dry run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from leora_pipeline_tests.acceptance.commands import HEALTHY, as_process, hold, json_of
from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import ago

pytestmark = [
    # Great Expectations 1.24 uses what pandas and marshmallow have deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:great_expectations"),
]


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

    reported = json_of(outcome)
    assert (outcome.code, outcome.err) == (0, "")
    assert set(reported) == {"as_of", "results"}
    assert abs(datetime.fromisoformat(reported["as_of"]) - datetime.now(UTC)) < timedelta(
        seconds=30
    )
    (result,) = reported["results"]
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
    misclassified: Crm, runtime_url: str
) -> None:
    outcome = as_process(runtime_url, "preview")

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
        assert part in outcome.out, f"{part!r} is not reported:\n{outcome.out}"
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
    assert "--allow-mass-change --reason '…'" in outcome.out


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
    misclassified: Crm, runtime_url: str, leora: Leora
) -> None:
    database = runtime_url.rpartition("?")[0].rpartition("/")[2]
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


def test_preview_predicts_exactly_what_update_then_does(crm_of_user: Crm, leora: Leora) -> None:
    crm_of_user.load(HEALTHY)
    predicted = json_of(leora("preview", "--json"))["results"][0]
    assert predicted["incorrect"]

    done = json_of(leora("update", "--json"))["results"][0]

    moved = {"ACTIVE": 0, "TARGET": 0, "PROSPECT": 0}
    for move in predicted["transitions"]:
        moved[move["to"]] += move["count"]
    assert done["changed"] == moved
    assert predicted["expected"] == {
        "ACTIVE": done["active"],
        "TARGET": done["target"],
        "PROSPECT": done["prospect"],
    }
    assert predicted["total"] == done["total"]
