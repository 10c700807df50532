"""The command ``leora history``, as somebody who asks about one customer uses it."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from leora_pipeline_tests.acceptance.conftest import Crm, Leora
from leora_pipeline_tests.crm_builder import ago
from leora_pipeline_tests.processes import BIN, environment, run


def test_a_pipe_gets_the_whole_story_in_plain_lines(crm_of_user: Crm, runtime_url: str) -> None:
    tenant = crm_of_user.tenant("cellar")
    ordered, drafted = ago(days=12.5), ago(days=3)
    customer = crm_of_user.customer(tenant, orders=(ordered,), name="Vine\t& \x1b[31mDine")
    fulfilled = crm_of_user.run('SELECT id FROM "Order"')[0].id
    draft = crm_of_user.order(tenant, customer, drafted, "DRAFT")
    env = environment(LEORA_DATABASE_URL=runtime_url, TERM="xterm-256color")
    assert run(BIN / "leora", "update", env=env).code == 0
    crm_of_user.set_type(customer, "PROSPECT")
    assert run(BIN / "leora", "update", "--incremental", env=env).code == 0
    first, second = crm_of_user.run(
        "SELECT to_char(recorded_at, 'YYYY-MM-DD HH24:MI:SS') AS recorded, "
        "to_char(as_of, 'YYYY-MM-DD HH24:MI:SS') AS as_of, run_id "
        "FROM leora_pipeline.account_type_transition ORDER BY transition_id"
    )

    outcome = run(BIN / "leora", "history", str(customer), env=env)

    date = f"{ordered:%Y-%m-%d %H:%M:%S}"
    assert (outcome.code, outcome.err) == (0, "")
    assert re.fullmatch(r"Customer as of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC:", outcome.lines[0])
    assert outcome.lines[1:] == [
        "customer\tname\ttenant\ttype in the CRM\ttype by the rule\tlast order (UTC)",
        f"{customer}\tVine & \\x1b[31mDine\tcellar\tACTIVE\tACTIVE\t{date}",
        f"ACTIVE: ordered 12 days ago (within 180 days), on {ordered:%Y-%m-%d}.",
        "Transitions (2):",
        "time (UTC)\tfrom\tto\tlast order (UTC)\tas of (UTC)\twhy\trun",
        f"{first.recorded}\t\tACTIVE\t{date}\t{first.as_of}\t"
        f"first classification (the last order date moved forward)\t{first.run_id}",
        f"{second.recorded}\tPROSPECT\tACTIVE\t{date}\t{second.as_of}\t"
        f"somebody had set PROSPECT by hand; corrected to ACTIVE\t{second.run_id}",
        "Orders (2 of 2):",
        "order\tnumber\tdate (UTC)\tstatus\ttotal\tcounts",
        f"{draft}\t\t{drafted:%Y-%m-%d %H:%M:%S}\tDRAFT\t\tno: DRAFT does not count",
        f"{fulfilled}\t\t{date}\tFULFILLED\t\tyes: makes the last order date",
    ]


def test_json_is_one_object_of_the_same(crm_of_user: Crm, leora: Leora) -> None:
    tenant = crm_of_user.tenant()
    ordered = ago(days=2)
    customer = crm_of_user.customer(tenant, "PROSPECT", orders=(ordered,))
    assert leora("update").code == 0
    order, run_id = crm_of_user.run(
        'SELECT o.id, t.run_id FROM "Order" AS o, leora_pipeline.account_type_transition AS t'
    )[0]

    reported = json.loads(leora("history", str(customer), "--json").out)

    transition = reported["transitions"][0]
    assert reported == {
        "as_of": reported["as_of"],
        "customer_id": str(customer),
        "name": "Corner Bottle Shop",
        "tenant_id": str(tenant),
        "tenant_slug": "cellar",
        "today": {
            "crm_type": "ACTIVE",
            "account_type": "ACTIVE",
            "is_pinned": False,
            "last_order_at": ordered.isoformat(),
            "is_imported": False,
            "crm_order_at": ordered.isoformat(),
            "next_order_at": None,
            "explanation": f"ACTIVE: ordered 2 days ago (within 180 days), on {ordered:%Y-%m-%d}.",
            "cause": None,
            "held_since": None,
            "pending_since": None,
            "outlook": [],
        },
        "transitions": [
            {
                "recorded_at": transition["recorded_at"],
                "tenant_id": str(tenant),
                "tenant_slug": "cellar",
                "from_type": "PROSPECT",
                "to_type": "ACTIVE",
                "last_order_at": ordered.isoformat(),
                "as_of": transition["as_of"],
                "cause": "order",
                "is_set_by_hand": False,
                "explanation": "the last order date moved forward",
                "run_id": run_id,
            }
        ],
        "orders": [
            {
                "order_id": str(order),
                "order_number": None,
                "ordered_at": ordered.isoformat(),
                "status": "FULFILLED",
                "total": None,
                "counts": True,
                "exclusion": None,
                "makes_last_order_date": True,
            }
        ],
        "orders_total": 1,
    }


def test_asking_writes_nothing_and_the_advice_works_as_it_stands(
    crm_of_user: Crm, leora: Leora
) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant("o'brien's"), orders=(ago(days=1),))
    before = crm_of_user.contents()

    outcome = leora("history", str(customer))

    assert outcome.code == 0
    assert crm_of_user.contents() == before
    assert outcome.lines[3].startswith("No type yet in the CRM, but by the rule ACTIVE: ordered 1 ")
    assert "The pipeline has not changed this customer's type." in outcome.lines
    [advice] = re.findall(r"  → The next .* writes ACTIVE .*`leora (.*)` does it now", outcome.out)
    assert leora(*shlex.split(advice)).code == 0
    assert crm_of_user.type_of(customer) == "ACTIVE"


def test_a_database_that_forbids_writes_will_do(crm_of_user: Crm, leora: Leora) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant())
    crm_of_user.run(
        f"ALTER DATABASE {crm_of_user.engine.url.database} SET default_transaction_read_only = on"
    )
    assert leora("update").code == 1
    assert leora("history", str(customer)).code == 0


def test_dates_that_are_left_to_the_crm_are_not_synced(
    crm_of_user: Crm, leora: Leora, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant(), "ACTIVE", orders=(ago(days=1),))
    assert "writes the last order date" in leora("history", str(customer)).out

    monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", "false")

    assert "writes" not in leora("history", str(customer)).out


def test_orders_beyond_the_limit_are_counted(crm_of_user: Crm, leora: Leora) -> None:
    customer = crm_of_user.customer(
        crm_of_user.tenant(), orders=tuple(ago(days=days) for days in range(1, 6))
    )

    some = leora("history", str(customer), "--limit", "2")
    all_of_them = leora("history", str(customer), "--limit", "5")

    assert "Orders (2 of 5):" in some.lines
    assert some.lines[-1] == "And 3 more; `--limit 5` shows all."
    assert "Orders (5 of 5):" in all_of_them.lines
    assert "more" not in all_of_them.lines[-1]
    assert leora("history", str(customer), "--limit", "0").code == 2


def test_a_customer_who_is_gone_or_moved_is_reported_with_the_tenant_of_each_transition(
    crm_of_user: Crm, leora: Leora
) -> None:
    customer = crm_of_user.customer(crm_of_user.tenant("cellar"), orders=(ago(days=1),))
    assert leora("update").code == 0
    crm_of_user.run('UPDATE "Customer" SET "tenantId" = :market', market=crm_of_user.tenant("z"))
    crm_of_user.set_type(customer, None)
    assert leora("update").code == 0
    moved = leora("history", str(customer))
    crm_of_user.run('DELETE FROM "Customer"')

    gone = leora("history", str(customer))

    assert (moved.code, gone.code) == (0, 0)
    assert "The CRM has no such customer any more; what is left is the log." in gone.lines
    assert gone.lines[2] == f"{customer}\t\tz\t\t\t"
    assert "Orders" not in gone.out
    assert "No orders." not in gone.out
    for outcome in (moved, gone):
        transitions = [line for line in outcome.lines if "first classification" in line]
        assert ["(in cellar)" in line for line in transitions] == [True, False]


@pytest.mark.parametrize(
    ("customer", "error"),
    [
        (
            "6f2a9c7e-0000-4000-8000-000000000000",
            "no customer has, or had, the id 6f2a9c7e-0000-4000-8000-000000000000",
        ),
        ("Vine & Dine", "'Vine & Dine' is no customer's id, which is a UUID"),
    ],
)
def test_an_id_that_nobody_has_is_wrong_usage_in_one_line(
    crm_of_user: Crm, leora: Leora, customer: str, error: str
) -> None:
    outcome = leora("history", customer)

    assert (outcome.code, outcome.out, outcome.error) == (2, "", error)


def test_help_says_what_it_does(leora: Leora) -> None:
    reported = leora("history", "--help")

    assert reported.code == 0
    assert reported.out.startswith("Usage: leora history [OPTIONS] CUSTOMER_ID")
    assert "  history " in leora("--help").out
