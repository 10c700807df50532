"""The hook keeps to what its caller sees of the CRM, and to the time that its session has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import OrderCreated, after_order_create_batch, update_account_types
from leora_pipeline.core.database.connection import transaction
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.hooks import call, hook, lock_our_tables, ordered_again
from leora_pipeline_tests.roles import connected_as, made_role
from leora_pipeline_tests.scenes import everything

MOST_CUSTOMERS = 5000
"""The most that one call takes."""


@pytest.fixture
def tenants(build: CrmBuilder) -> list[UUID]:
    return [build.tenant(slug) for slug in ("cellar", "market")]


@pytest.fixture
def application(
    engine: sa.Engine,
    build: CrmBuilder,
    tenants: list[UUID],
    bypass_row_level_security: Callable[[str], None],
) -> Iterator[sa.Engine]:
    """The CRM's application: it may call the hook, and sees the tenant of its session alone."""
    bypass_row_level_security("leora_owner")
    bypass_row_level_security("leora_runtime")
    with made_role(build) as name:
        build.run(f'GRANT ALL ON "Tenant", "Customer", "Order" TO {name}')
        build.run(f"GRANT leora_hook TO {name}")
        build.run(f"ALTER ROLE {name} SET app.current_tenant_id = '{tenants[0]}'")
        for table in ("Customer", "Order"):
            build.run(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY')
            build.run(f'ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY')
            build.run(
                f'CREATE POLICY own ON "{table}" '
                "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
            )
        with connected_as(engine, name) as connected:
            yield connected


def ordered_in_each(build: CrmBuilder, tenants: list[UUID]) -> list[UUID]:
    """Returns a customer of each tenant that was TARGET and has a new order."""
    customers = [build.customer(tenant, "TARGET", orders=(ago(days=200),)) for tenant in tenants]
    update_account_types(engine=build.engine)
    for tenant, customer in zip(tenants, customers, strict=True):
        build.order(tenant, customer, ago(days=1))
    return customers


def as_application(connection: sa.Connection) -> sa.Connection:
    """Lets row level security filter, as in the application's own sessions."""
    connection.exec_driver_sql("SET LOCAL row_security = on")
    return connection


def test_a_customer_of_another_tenant_is_unknown_and_neither_written_nor_locked(
    engine: sa.Engine, build: CrmBuilder, tenants: list[UUID], application: sa.Engine
) -> None:
    own, foreign = ordered_in_each(build, tenants)
    before = build.read(foreign)
    nobody = uuid4()

    with transaction(application) as connection:
        crm = as_application(connection)
        assert call(crm, own, foreign, nobody) == {
            own: "updated",
            foreign: "unknown",
            nobody: "unknown",
        }
        # While that transaction is open, nothing of the other tenant's waits for it.
        build.run('SELECT FROM "Customer" WHERE id = :id FOR UPDATE NOWAIT', id=foreign)
        build.run(
            "SELECT FROM leora_pipeline.customer_state WHERE customer_id = :id FOR UPDATE NOWAIT",
            id=foreign,
        )

    assert build.type_of(own) == "ACTIVE"
    assert build.read(foreign) == before
    assert foreign in build.pending()


def test_the_python_hook_on_the_callers_connection_keeps_to_its_tenant_too(
    build: CrmBuilder, tenants: list[UUID], application: sa.Engine
) -> None:
    own, foreign = ordered_in_each(build, tenants)

    with transaction(application) as connection:
        result = hook(own, foreign, connection=as_application(connection))

    assert (result.updated, result.unknown) == (1, (str(foreign),))
    assert build.type_of(foreign) == "TARGET"


def test_a_caller_that_goes_around_the_hook_gets_no_further(
    build: CrmBuilder, tenants: list[UUID], application: sa.Engine
) -> None:
    own, foreign = ordered_in_each(build, tenants)
    before = everything(build)
    ticket = sa.text("INSERT INTO leora_pipeline.hook_ticket (customer_id) VALUES (:id)")
    update = "SELECT * FROM leora_pipeline.update_ticketed_customers(true)"

    with transaction(application) as connection:
        crm = as_application(connection)
        assert crm.exec_driver_sql(update).all() == []
        for customer in (foreign, uuid4()):
            with (
                pytest.raises(sa.exc.DBAPIError, match="sees no such customer"),
                crm.begin_nested(),
            ):
                crm.execute(ticket, {"id": customer})
        # Nor by tables of its own in the place of the CRM's.
        crm.exec_driver_sql(
            f"CREATE TEMPORARY TABLE \"Customer\" AS SELECT '{foreign}'::uuid AS id"
        )
        crm.exec_driver_sql("SET LOCAL search_path = pg_temp, public")
        with pytest.raises(sa.exc.DBAPIError, match="sees no such customer"), crm.begin_nested():
            crm.execute(ticket, {"id": foreign})
        assert crm.exec_driver_sql(update).all() == []
    assert everything(build) == before

    with transaction(application) as connection:  # What it may do without the hook.
        crm = as_application(connection)
        crm.execute(ticket, {"id": own})
        assert crm.exec_driver_sql(update).all() == [(own, "updated")]


@pytest.mark.parametrize(
    "insert",
    [
        "SELECT CASE i WHEN 1 THEN '{foreign}' ELSE pg_temp.peek() END "
        "FROM generate_series(1, 2) AS i",
        "VALUES ('{foreign}') RETURNING pg_temp.peek()",
    ],
)
def test_a_ticket_is_worth_nothing_to_the_statement_that_asks_for_it_either(
    build: CrmBuilder, tenants: list[UUID], application: sa.Engine, insert: str
) -> None:
    """The statement would be rolled back, but not what it has told, nor how long it held a lock."""
    _, foreign = ordered_in_each(build, tenants)

    with transaction(application) as connection:
        crm = as_application(connection)
        crm.exec_driver_sql(
            "CREATE FUNCTION pg_temp.peek() RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION USING MESSAGE = (SELECT 'told: ' || string_agg(u.outcome, ' ') "
            "FROM leora_pipeline.update_ticketed_customers(true) AS u); END $$"
        )
        with pytest.raises(sa.exc.DBAPIError, match="sees no such customer"), crm.begin_nested():
            crm.exec_driver_sql(
                "INSERT INTO leora_pipeline.hook_ticket (customer_id) "
                + insert.format(foreign=foreign)
            )


def test_a_ticket_of_another_transaction_is_worth_nothing(
    build: CrmBuilder, tenants: list[UUID], application: sa.Engine
) -> None:
    (own,) = ordered_again(build, tenants[0])
    with transaction(application) as connection:
        as_application(connection).execute(
            sa.text("INSERT INTO leora_pipeline.hook_ticket (customer_id) VALUES (:id)"),
            {"id": own},
        )

    with transaction(application) as connection:
        update = "SELECT * FROM leora_pipeline.update_ticketed_customers(true)"
        assert as_application(connection).exec_driver_sql(update).all() == []


@pytest.mark.parametrize("granted", ["USAGE ON SCHEMA leora_pipeline", None])
def test_a_role_that_was_not_granted_the_hook_may_not_call_it(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, granted: str | None
) -> None:
    (customer,) = ordered_again(build, tenant)
    with (
        made_role(build, "", [granted] if granted else []) as name,
        connected_as(engine, name) as other,
        transaction(other) as crm,
        pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
    ):
        call(crm, customer)


def test_a_call_for_too_many_customers_is_deferred_and_says_so(
    build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)
    ids = [customer, *(uuid4() for _ in range(MOST_CUSTOMERS))]
    before = everything(build)

    with transaction(build.engine) as crm:
        rows = crm.execute(
            sa.text("SELECT * FROM leora_pipeline.after_order_create(CAST(:ids AS uuid[]))"),
            {"ids": ids},
        ).all()

    assert {row.outcome for row in rows} == {"deferred"}
    assert {row.error for row in rows} == {"more than 5000 customers in one call"}
    assert len(rows) == len(ids)
    assert everything(build) == before


def test_from_python_any_number_is_taken(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)
    events = [OrderCreated(uuid4(), uuid4()) for _ in range(MOST_CUSTOMERS + 1)]

    result = after_order_create_batch([*events, OrderCreated(uuid4(), customer)], engine=engine)

    assert (result.updated, len(result.unknown), result.error) == (1, MOST_CUSTOMERS + 1, None)


@pytest.mark.parametrize("locked", ["leora_pipeline.pending_customer", "everything"])
def test_a_statement_limited_to_less_than_the_hooks_wait_goes_through(
    build: CrmBuilder, tenant: UUID, locked: str
) -> None:
    """As 30 ms are to 50, at a scale at which no machine is too slow for the rest of it."""
    (customer,) = ordered_again(build, tenant)
    for function in ("after_order_create", "update_ticketed_customers"):
        build.run(f"ALTER FUNCTION leora_pipeline.{function} SET lock_timeout = '30s'")
    with transaction(build.engine) as migration:
        if locked == "everything":
            lock_our_tables(migration)
        else:
            migration.exec_driver_sql(f"LOCK TABLE {locked} IN ACCESS EXCLUSIVE MODE")
        with build.engine.connect() as crm, crm.begin():
            crm.exec_driver_sql("SET LOCAL statement_timeout = '3s'")
            assert call(crm, customer) == {customer: "deferred"}

    assert build.type_of(customer) == "TARGET"


def test_what_a_statement_timeout_would_end_is_deferred(build: CrmBuilder, tenant: UUID) -> None:
    """A slow trigger of the CRM's stands for a slow machine: each part takes 2 s."""
    customers = ordered_again(build, tenant, 600)
    build.run(
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$"
    )
    build.run(
        'CREATE TRIGGER slow AFTER UPDATE ON "Customer" FOR EACH STATEMENT '
        "EXECUTE FUNCTION public.slow()"
    )

    with build.engine.connect() as crm, crm.begin():
        crm.exec_driver_sql("SET LOCAL statement_timeout = '3500ms'")
        outcomes = list(call(crm, *customers).values())

    assert outcomes.count("updated") == 500
    assert outcomes.count("deferred") == 100
