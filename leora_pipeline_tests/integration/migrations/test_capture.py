"""Capture: whatever changes in the CRM makes exactly the customers pending whom it concerns.

The triggers note customers set-wise, a row a statement and customer; and whatever goes wrong with
them, the CRM's own statement goes through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline import (
    LeoraError,
    migrations,
    update_account_types,
    update_customer_account_type,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.migrations import install_schema
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored

STALL = 2.0
"""Seconds that a statement with a trigger in trouble may take, on the slowest of machines."""

Noted = Counter[tuple[UUID, UUID]]


def captured(build: CrmBuilder) -> Noted:
    """Returns how many rows are pending for each tenant and customer."""
    return Counter(
        (row.tenant_id, row.customer_id)
        for row in build.run("SELECT tenant_id, customer_id FROM leora_pipeline.pending_customer")
    )


def captured_by(build: CrmBuilder, sql: str, **parameters: Any) -> Noted:
    """Returns what one statement of the CRM makes pending."""
    build.run("DELETE FROM leora_pipeline.pending_customer")
    build.run(sql, **parameters)
    return captured(build)


@pytest.fixture
def customer(build: CrmBuilder, tenant: UUID) -> UUID:
    return build.customer(tenant)


@pytest.fixture
def order(build: CrmBuilder, tenant: UUID, customer: UUID) -> UUID:
    return build.order(tenant, customer, ago(days=3))


# Orders.

INSERT_ORDERS = (
    'INSERT INTO "Order" (id, "tenantId", "customerId", status, "orderedAt", "updatedAt") '
    "SELECT gen_random_uuid(), :tenant, c.id, 'FULFILLED', now() - n * interval '1 hour', now() "
    "FROM unnest(CAST(:customers AS uuid[])) AS c (id), generate_series(1, :each) AS n"
)


def test_a_new_order_makes_its_customer_pending(
    build: CrmBuilder, tenant: UUID, customer: UUID
) -> None:
    build.customer(tenant)
    assert captured_by(build, INSERT_ORDERS, tenant=tenant, customers=[customer], each=1) == {
        (tenant, customer): 1
    }


def test_a_bulk_insert_captures_each_of_its_customers_once(build: CrmBuilder, tenant: UUID) -> None:
    customers = [build.customer(tenant) for _ in range(10)]
    assert captured_by(build, INSERT_ORDERS, tenant=tenant, customers=customers, each=100) == {
        (tenant, customer): 1 for customer in customers
    }


def test_orders_that_are_copied_in_are_captured_like_any_other(
    build: CrmBuilder, pipeline_url: str, tenant: UUID
) -> None:
    customers = [build.customer(tenant) for _ in range(3)]
    build.run("DELETE FROM leora_pipeline.pending_customer")
    with (
        psycopg.connect(pipeline_url) as crm,
        crm.cursor() as cursor,
        cursor.copy(
            'COPY "Order" (id, "tenantId", "customerId", status, "updatedAt") FROM STDIN'
        ) as copy,
    ):
        for customer in customers * 4:
            copy.write_row((uuid4(), tenant, customer, "DRAFT", stored(ago())))
    assert captured(build) == {(tenant, customer): 1 for customer in customers}


def test_a_statement_that_finds_no_row_makes_nobody_pending(
    build: CrmBuilder, tenant: UUID, order: UUID
) -> None:
    assert order
    for sql in (
        "UPDATE \"Order\" SET status = 'CANCELLED' WHERE false",
        'DELETE FROM "Order" WHERE false',
        'UPDATE "Customer" SET "accountType" = \'HOLD\' WHERE false',
    ):
        assert captured_by(build, sql) == {}
    assert captured_by(build, INSERT_ORDERS, tenant=tenant, customers=[], each=1) == {}


@pytest.mark.parametrize(
    "change",
    [
        "status = 'CANCELLED'",
        '"orderedAt" = "orderedAt" - interval \'1 year\'',
        '"orderedAt" = NULL',
        "id = gen_random_uuid()",
    ],
)
def test_an_order_that_changes_in_what_counts_makes_its_customer_pending(
    build: CrmBuilder, tenant: UUID, customer: UUID, order: UUID, change: str
) -> None:
    build.customer(tenant, orders=(ago(days=1),))
    assert captured_by(build, f'UPDATE "Order" SET {change} WHERE id = :id', id=order) == {
        (tenant, customer): 1
    }


@pytest.mark.parametrize(
    "change",
    [
        "total = 12.5",
        '"updatedAt" = now()',
        "currency = 'EUR', \"orderNumber\" = id::text",
        'status = status, "orderedAt" = "orderedAt", "customerId" = "customerId"',
    ],
)
def test_an_order_that_changes_in_nothing_that_counts_makes_nobody_pending(
    build: CrmBuilder, order: UUID, change: str
) -> None:
    assert captured_by(build, f'UPDATE "Order" SET {change} WHERE id = :id', id=order) == {}


def test_an_update_of_many_orders_captures_only_those_that_changed_and_each_customer_once(
    build: CrmBuilder, tenant: UUID
) -> None:
    changed, unchanged = build.customer(tenant), build.customer(tenant)
    for _ in range(5):
        build.order(tenant, changed, ago(days=2), "SUBMITTED")
    build.order(tenant, unchanged, ago(days=2), "FULFILLED")
    assert captured_by(
        build, 'UPDATE "Order" SET status = \'FULFILLED\', total = 1, "updatedAt" = now()'
    ) == {(tenant, changed): 1}


def test_two_orders_that_swap_their_dates_make_both_customers_pending(
    build: CrmBuilder, tenant: UUID
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=days),)) for days in (10, 20)]
    assert captured_by(
        build,
        'UPDATE "Order" AS o SET "orderedAt" = p."orderedAt" FROM "Order" AS p WHERE p.id <> o.id',
    ) == {(tenant, customer): 1 for customer in customers}


def test_an_order_that_moves_makes_both_of_its_customers_pending(
    build: CrmBuilder, tenant: UUID, customer: UUID, order: UUID
) -> None:
    other = build.customer(tenant)
    assert captured_by(
        build, 'UPDATE "Order" SET "customerId" = :other WHERE id = :id', other=other, id=order
    ) == {(tenant, customer): 1, (tenant, other): 1}


def test_an_order_that_moves_to_another_tenant_is_captured_for_both(
    build: CrmBuilder, tenant: UUID, customer: UUID, order: UUID
) -> None:
    other = build.tenant("market")
    assert captured_by(
        build, 'UPDATE "Order" SET "tenantId" = :other WHERE id = :id', other=other, id=order
    ) == {(tenant, customer): 1, (other, customer): 1}


def test_an_upsert_captures_what_it_inserts_and_what_it_updates(
    build: CrmBuilder, tenant: UUID, customer: UUID, order: UUID
) -> None:
    newcomer = build.customer(tenant)
    assert captured_by(
        build,
        'INSERT INTO "Order" (id, "tenantId", "customerId", status, "updatedAt") VALUES '
        "(:order, :tenant, :customer, 'CANCELLED', now()), "
        "(gen_random_uuid(), :tenant, :newcomer, 'DRAFT', now()) "
        "ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status",
        order=order,
        tenant=tenant,
        customer=customer,
        newcomer=newcomer,
    ) == {(tenant, customer): 1, (tenant, newcomer): 1}


def test_deleted_orders_make_each_of_their_customers_pending_once(
    build: CrmBuilder, tenant: UUID
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=1), ago(days=2))) for _ in range(3)]
    build.customer(tenant)
    assert captured_by(build, 'DELETE FROM "Order"') == {
        (tenant, customer): 1 for customer in customers
    }


def test_a_deleted_customer_is_pending_by_its_orders(build: CrmBuilder, tenant: UUID) -> None:
    deleted = build.customer(tenant, orders=(ago(days=1), ago(days=2)))
    build.customer(tenant, orders=(ago(days=1),))
    assert captured_by(build, 'DELETE FROM "Customer" WHERE id = :id', id=deleted) == {
        (tenant, deleted): 1
    }


# Customers.


def test_new_customers_are_pending(build: CrmBuilder, tenant: UUID) -> None:
    build.customer(tenant)
    found = captured_by(
        build,
        'INSERT INTO "Customer" (id, "tenantId", name, "updatedAt") '
        "SELECT gen_random_uuid(), :tenant, 'New Shop', now() FROM generate_series(1, 50)",
        tenant=tenant,
    )
    rows = build.run("SELECT id FROM \"Customer\" WHERE name = 'New Shop'")
    assert found == {(tenant, row.id): 1 for row in rows}
    assert len(rows) == 50


@pytest.mark.parametrize(
    "change",
    [
        "\"accountType\" = 'HOLD'",
        "\"accountType\" = 'ACTIVE'",
        '"accountType" = NULL',
        '"lastOrderDate" = now()',
        '"lastOrderDate" = NULL',
    ],
)
def test_a_type_or_date_that_somebody_sets_makes_the_customer_pending(
    build: CrmBuilder, tenant: UUID, change: str
) -> None:
    customer = build.customer(tenant, "TARGET", last_order=ago(days=200))
    build.customer(tenant, "TARGET")
    assert captured_by(build, f'UPDATE "Customer" SET {change} WHERE id = :id', id=customer) == {
        (tenant, customer): 1
    }


@pytest.mark.parametrize(
    "change",
    [
        "name = 'Renamed'",
        '"updatedAt" = now()',
        "\"salesRepId\" = gen_random_uuid(), city = 'Napa'",
        '"accountType" = "accountType", "lastOrderDate" = "lastOrderDate"',
    ],
)
def test_anything_else_that_somebody_sets_makes_nobody_pending(
    build: CrmBuilder, customer: UUID, change: str
) -> None:
    assert captured_by(build, f'UPDATE "Customer" SET {change} WHERE id = :id', id=customer) == {}


def test_a_customer_who_moves_to_another_tenant_is_pending_in_both(
    build: CrmBuilder, tenant: UUID, customer: UUID
) -> None:
    other = build.tenant("market")
    assert captured_by(
        build, 'UPDATE "Customer" SET "tenantId" = :other WHERE id = :id', other=other, id=customer
    ) == {(tenant, customer): 1, (other, customer): 1}


def test_a_customer_who_gets_another_id_is_pending_under_both(
    build: CrmBuilder, tenant: UUID, customer: UUID, order: UUID
) -> None:
    assert order
    renumbered = uuid4()
    found = captured_by(
        build, 'UPDATE "Customer" SET id = :new WHERE id = :id', new=renumbered, id=customer
    )
    assert set(found) == {(tenant, customer), (tenant, renumbered)}


def test_the_pipelines_own_writes_make_nobody_pending_and_the_next_ones_of_a_person_do(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customers = [build.customer(tenant, "PROSPECT", orders=(ago(days=3),)) for _ in range(3)]

    update_account_types(engine=engine)

    assert [build.type_of(customer) for customer in customers] == ["ACTIVE"] * 3
    assert captured(build) == {}
    # By the same session, out of the engine's pool.
    build.set_type(customers[0], "TARGET")
    assert captured(build) == {(tenant, customers[0]): 1}
    update_customer_account_type(customers[0], engine=engine)
    assert build.type_of(customers[0]) == "ACTIVE"
    assert captured(build) == {}


# Never to the CRM's harm.

STATEMENTS = {
    "inserted orders": INSERT_ORDERS.replace(":customers", "ARRAY[:customer]").replace(
        ":each", "1"
    ),
    "updated orders": "UPDATE \"Order\" SET status = 'CANCELLED'",
    "deleted orders": 'DELETE FROM "Order"',
    "inserted customers": 'INSERT INTO "Customer" (id, "tenantId", name, "updatedAt") '
    "VALUES (gen_random_uuid(), :tenant, 'Shop', now())",
    "updated customers": 'UPDATE "Customer" SET "accountType" = \'HOLD\'',
}


class Session:
    """A session of the CRM's, with the notices that it is given."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.notices: list[tuple[str | None, str | None]] = []
        self.connection.add_notice_handler(
            lambda notice: self.notices.append((notice.severity, notice.message_primary))
        )

    def run(self, what: str, tenant: UUID, customer: UUID) -> int:
        """Runs one of the statements and returns how many rows it touched."""
        sql = STATEMENTS[what].replace(":tenant", "%(tenant)s")
        return self.connection.execute(
            sql.replace(":customer", "%(customer)s"), {"tenant": tenant, "customer": customer}
        ).rowcount

    def assert_warned(self, what: str) -> None:
        """Asserts that there was one warning, which says what was not captured."""
        ((severity, message),) = self.notices
        assert severity == "WARNING"
        assert message is not None
        assert message.startswith(f"leora_pipeline: {what} are left to the nightly run: ")


@pytest.fixture
def session(pipeline_url: str) -> Iterator[Session]:
    opened = Session(pipeline_url)
    yield opened
    opened.connection.close()


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_locked_pending_table_neither_fails_nor_stalls_the_crm(
    engine: sa.Engine,
    build: CrmBuilder,
    session: Session,
    tenant: UUID,
    customer: UUID,
    order: UUID,
    what: str,
) -> None:
    assert order
    session.connection.execute("SET lock_timeout = '7min'")
    before = captured(build)

    with transaction(build.engine) as other:
        other.exec_driver_sql("LOCK TABLE leora_pipeline.pending_customer IN ACCESS EXCLUSIVE MODE")
        began = monotonic()
        assert session.run(what, tenant, customer) == 1
        assert monotonic() - began < STALL

    session.assert_warned(what)
    assert captured(build) == before
    assert session.connection.execute("SHOW lock_timeout").fetchone() == ("7min",)


@pytest.mark.parametrize("what", STATEMENTS)
def test_without_a_pending_table_the_crm_is_only_warned(
    build: CrmBuilder, session: Session, tenant: UUID, customer: UUID, order: UUID, what: str
) -> None:
    assert order
    build.run("DROP TABLE leora_pipeline.pending_customer")
    assert session.run(what, tenant, customer) == 1
    session.assert_warned(what)


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_role_without_any_right_on_the_pipelines_schema_is_captured(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, customer: UUID, order: UUID, what: str
) -> None:
    assert order
    role = f"crm_{uuid4().hex}"
    build.run(f"CREATE ROLE {role} LOGIN")
    build.run(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "Tenant", "Customer", "Order" TO {role}')
    build.run("DELETE FROM leora_pipeline.pending_customer")
    session = Session(
        engine.url.set(drivername="postgresql", username=role).render_as_string(hide_password=False)
    )
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.connection.execute("SELECT FROM leora_pipeline.pending_customer")
        # Names of the session's own do not lead the trigger astray.
        session.connection.execute("CREATE TEMP TABLE pending_customer (tenant_id text)")
        assert session.run(what, tenant, customer) == 1
    finally:
        session.connection.close()
        build.run(f"DROP OWNED BY {role}")
        build.run(f"DROP ROLE {role}")

    ((found_tenant, found_customer),) = captured(build).elements()
    assert found_tenant == tenant
    assert (found_customer == customer) == (what != "inserted customers")
    assert session.notices == []


def test_a_transaction_of_the_crm_that_is_rolled_back_leaves_nothing_pending(
    build: CrmBuilder, session: Session, tenant: UUID, customer: UUID, order: UUID
) -> None:
    assert order
    build.run("DELETE FROM leora_pipeline.pending_customer")
    for what in STATEMENTS:
        with session.connection.transaction(force_rollback=True):
            session.run(what, tenant, customer)
    assert captured(build) == {}

    with session.connection.transaction():
        with session.connection.transaction(force_rollback=True):
            session.run("deleted orders", tenant, customer)
        session.run("inserted customers", tenant, customer)
    assert captured(build).total() == 1
    assert customer not in build.pending()


# Installation.


def triggers(build: CrmBuilder) -> set[tuple[str, str]]:
    """Returns the triggers on the CRM's tables that are no foreign key's."""
    return {
        (row.table_name, row.tgname)
        for row in build.run(
            "SELECT c.relname AS table_name, t.tgname FROM pg_trigger AS t "
            "JOIN pg_class AS c ON c.oid = t.tgrelid "
            "WHERE NOT t.tgisinternal AND c.relnamespace <> 'leora_pipeline'::regnamespace"
        )
    }


ALL_TRIGGERS = {
    ("Order", "leora_pipeline_insert"),
    ("Order", "leora_pipeline_update"),
    ("Order", "leora_pipeline_delete"),
    ("Customer", "leora_pipeline_insert"),
    ("Customer", "leora_pipeline_update"),
}


def test_capture_can_be_left_out_and_added_later(crm: sa.Engine) -> None:
    build = CrmBuilder(crm)
    install_schema(crm, triggers=False)
    assert triggers(build) == set()
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=1),))
    assert captured(build) == {}

    for _ in range(2):
        install_schema(crm)
        assert triggers(build) == ALL_TRIGGERS
    build.order(tenant, customer, ago(days=1))
    assert captured(build) == {(tenant, customer): 1}


def test_an_installation_gives_up_on_a_locked_table_and_is_completed_once_it_is_free(
    crm: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 20)
    build = CrmBuilder(crm)

    with transaction(crm) as somebody:
        # What any writer of the table holds until it commits.
        somebody.exec_driver_sql('LOCK TABLE "Order" IN ROW EXCLUSIVE MODE')
        with pytest.raises(LeoraError, match="stayed locked"):
            install_schema(crm)
        assert triggers(build) == set()

    install_schema(crm)
    assert triggers(build) == ALL_TRIGGERS
