"""The win-back digest: every transition to TARGET in one digest, and whom there is to win back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import update_account_types
from leora_pipeline.core.alerting import digest as digest_module
from leora_pipeline.core.alerting.digest import write_digests
from leora_pipeline.core.crm.tenants import find_tenants
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.errors import TenantsFailedError
from leora_pipeline_tests.crm_builder import CrmBuilder, ago


@pytest.fixture
def cellar(build: CrmBuilder) -> UUID:
    """A tenant without customers."""
    return build.tenant("cellar")


def nightly(engine: sa.Engine) -> dict[str, int]:
    """Runs a night: types, then digests."""
    update_account_types(engine=engine)
    return digests(engine)


def digests(engine: sa.Engine) -> dict[str, int]:
    """Writes the digests of all tenants."""
    with transaction(engine) as connection:
        tenants = find_tenants(connection)
    return write_digests(engine, tenants)


def bodies(build: CrmBuilder) -> list[str]:
    """Returns the texts of all digests, oldest first."""
    rows = build.run(
        "SELECT body FROM leora_pipeline.alert_message WHERE kind = 'win_back' ORDER BY message_id"
    )
    return [row.body for row in rows]


def set_customer(build: CrmBuilder, customer: UUID, column: str, value: Any) -> None:
    """Sets a column of a customer that the builder leaves alone."""
    build.run(f'UPDATE "Customer" SET "{column}" = :value WHERE id = :id', value=value, id=customer)


def test_who_became_target_is_reported_once_with_what_a_rep_needs(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    ordered = ago(days=200)
    lapsed = build.customer(cellar, "ACTIVE", orders=(ordered,), name="Elm\nWines")
    build.customer(cellar, "ACTIVE", orders=(ago(days=2),), name="Loyal")
    set_customer(build, lapsed, "city", "Napa")
    assert nightly(engine) == {"cellar": 1}
    (body,) = bodies(build)
    assert body == (
        "1 customer became TARGET since the last digest.\n\nWithout a sales rep:\n"
        f"- Elm Wines, Napa: last order {ordered:%Y-%m-%d}, 200 days ago"
    )
    assert nightly(engine) == {}
    assert len(bodies(build)) == 1


def test_a_customer_who_lapses_again_is_reported_again(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    customer = build.customer(cellar, "ACTIVE", orders=(ago(days=200),))
    nightly(engine)
    order = build.order(cellar, customer, ago(days=1))
    assert nightly(engine) == {}
    build.cancel(order)
    assert nightly(engine) == {"cellar": 1}


def test_a_customer_who_lapsed_twice_since_is_named_once(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    customer = build.customer(cellar, "ACTIVE", orders=(ago(days=200),))
    update_account_types(engine=engine)
    order = build.order(cellar, customer, ago(days=1))
    update_account_types(engine=engine)
    build.cancel(order)
    assert nightly(engine) == {"cellar": 1}
    assert len(build.log(customer)) == 3


def test_a_first_classification_counts_as_becoming_target(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    build.customer(cellar, None, orders=(ago(days=200),))
    assert nightly(engine) == {"cellar": 1}


def test_who_is_no_longer_to_be_won_back_is_left_out_for_good(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    closed, returned, deleted, held = (
        build.customer(cellar, "ACTIVE", orders=(ago(days=200),)) for _ in range(4)
    )
    update_account_types(engine=engine)
    set_customer(build, closed, "isPermanentlyClosed", True)
    build.order(cellar, returned, ago(days=1))
    update_account_types(engine=engine)
    build.run('DELETE FROM "Customer" WHERE id = :id', id=deleted)
    build.set_type(held, "HOLD")
    assert digests(engine) == {}
    set_customer(build, closed, "isPermanentlyClosed", False)
    assert digests(engine) == {}, "they were taken"
    assert bodies(build) == []


def test_customers_stand_under_their_sales_reps_and_many_are_counted(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest_module, "NAMED_OF_A_REP", 2)
    monkeypatch.setattr(digest_module, "NAMED", 3)
    reps = [UUID(int=n + 1) for n in range(3)]
    for rep, count in zip(reps, (3, 2, 1), strict=True):
        for n in range(count):
            customer = build.customer(
                cellar, "ACTIVE", orders=(ago(days=200 + n),), name=f"Shop {n}"
            )
            set_customer(build, customer, "salesRepId", rep)
    assert nightly(engine) == {"cellar": 6}
    (body,) = bodies(build)
    lines = [line.partition(":")[0] for line in body.splitlines() if line]
    assert lines == [
        "6 customers became TARGET since the last digest.",
        f"Sales rep {reps[0]}",
        "- Shop 0",
        "- Shop 1",
        "- … and 1 more",
        f"Sales rep {reps[1]}",
        "- Shop 0",
        "- … and 1 more",
        "And 1 customer of other sales reps; the CRM lists all as TARGET.",
    ]


def test_a_crm_without_the_optional_columns_gets_its_digest(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    for column in ("city", "salesRepId", "isPermanentlyClosed"):
        build.run(f'ALTER TABLE "Customer" DROP COLUMN "{column}"')
    build.customer(cellar, "ACTIVE", orders=(ago(days=200),), name="Elm Wines")
    assert nightly(engine) == {"cellar": 1}
    assert "- Elm Wines: last order" in bodies(build)[0]


def test_two_at_once_take_each_transition_once(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    for _ in range(20):
        build.customer(cellar, "ACTIVE", orders=(ago(days=200),))
    update_account_types(engine=engine)
    together = Barrier(4)

    def write(_: int) -> dict[str, int]:
        together.wait()
        return digests(engine)

    with ThreadPoolExecutor(4) as pool:
        written = [result for result in pool.map(write, range(4)) if result]
    assert written == [{"cellar": 20}]
    assert len(bodies(build)) == 1


def test_a_transition_that_commits_late_is_in_the_next_digest(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    customer = build.customer(cellar, "TARGET", orders=(ago(days=200),))
    record = sa.text(
        "INSERT INTO leora_pipeline.account_type_transition (tenant_id, customer_id, from_type, "
        "to_type, as_of, cause, run_id, recorded_at) "
        "VALUES (:tenant, :customer, 'ACTIVE', 'TARGET', now(), 'age', 'run', :at)"
    )
    with build.engine.connect() as late, late.begin():
        late.execute(
            record,
            {
                "tenant": cellar,
                "customer": customer,
                "at": datetime.now(UTC) - timedelta(hours=1),
            },
        )
        build.customer(cellar, "ACTIVE", orders=(ago(days=200),))
        assert nightly(engine) == {"cellar": 1}
    assert digests(engine) == {"cellar": 1}


def test_a_digest_that_cannot_be_written_takes_nothing_and_holds_up_no_other_tenant(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    other = build.tenant("vine")
    for tenant in (cellar, other):
        build.customer(tenant, "ACTIVE", orders=(ago(days=200),))
    update_account_types(engine=engine)
    build.run(
        "ALTER TABLE leora_pipeline.alert_message ADD CONSTRAINT refuse "
        f"CHECK (tenant_id <> '{cellar}')"
    )
    with pytest.raises(TenantsFailedError, match="cellar"):
        digests(engine)
    assert len(bodies(build)) == 1
    build.run("ALTER TABLE leora_pipeline.alert_message DROP CONSTRAINT refuse")
    assert digests(engine) == {"cellar": 1}


def test_a_hundred_thousand_at_once_are_counted_and_few_of_them_named(
    engine: sa.Engine, build: CrmBuilder, cellar: UUID
) -> None:
    build.run(
        'INSERT INTO "Customer" (id, "tenantId", name, "accountType", "updatedAt") '
        "SELECT gen_random_uuid(), :tenant, 'Shop ' || n, 'TARGET', now() "
        "FROM generate_series(1, 100000) AS n",
        tenant=cellar,
    )
    build.run(
        "INSERT INTO leora_pipeline.account_type_transition (tenant_id, customer_id, to_type, "
        "as_of, cause, run_id, recorded_at) "
        "SELECT \"tenantId\", id, 'TARGET', now(), 'nightly', :run, now() FROM \"Customer\"",
        run=str(uuid4()),
    )
    assert digests(engine) == {"cellar": 100_000}
    (body,) = bodies(build)
    assert len(body) < 5_000
    assert "… and 99950 more" in body
