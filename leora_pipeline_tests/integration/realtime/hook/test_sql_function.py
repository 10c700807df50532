"""The SQL function, in the CRM's own transaction."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline import (
    HookResult,
    update_account_types,
)
from leora_pipeline.core.customers.refresh import ensure_customer_state, refresh_customers
from leora_pipeline.core.customers.write_back import lock_customers
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.realtime.batch import take_actionable, take_pending
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline.migrations import install_schema, remove_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.hooks import (
    DEADLINE,
    PATIENCE,
    assert_at_rest,
    call,
    filter_orders,
    grant_crm,
    hook,
    lock_our_tables,
    ordered_again,
)
from leora_pipeline_tests.roles import connected_as
from leora_pipeline_tests.scenes import (
    WRITER,
    everything,
    incremental,
    insert_order,
    refuse_rows,
)


def listen(engine: sa.Engine, tenant: UUID) -> None:
    """Takes the batches of a tenant that a listener takes."""
    run = Writer("listener", "listener")
    take_pending(engine, run, tenant)
    take_actionable(engine, run, tenant)


def test_a_role_that_may_use_the_crms_tables_alone_may_call_the_function(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    grant_crm(build, role)
    ordered = ago(days=1)

    with connected_as(engine, role) as application, transaction(application) as crm:
        crm.exec_driver_sql("SET LOCAL row_security = on")
        insert_order(crm, tenant, customer, ordered)
        assert call(crm, customer) == {customer: "updated"}
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), crm.begin_nested():
            crm.exec_driver_sql("SELECT FROM leora_pipeline.customer_state")

    assert build.read(customer)[:2] == ("ACTIVE", ordered)
    assert build.log(customer)[-1] == ("TARGET", "ACTIVE", "order")
    assert_at_rest(engine, build)


def test_row_level_security_that_filters_the_callers_orders_does_not_filter_the_functions(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    role: str,
    bypass_row_level_security: Callable[[str], None],
) -> None:
    (customer,) = ordered_again(build, tenant)
    grant_crm(build, role)
    filter_orders(build)
    bypass_row_level_security("leora_owner")

    with connected_as(engine, role) as application, transaction(application) as crm:
        crm.exec_driver_sql("SET LOCAL row_security = on")
        assert crm.exec_driver_sql('SELECT count(*) FROM "Order"').scalar_one() == 0
        assert call(crm, customer) == {customer: "updated"}

    assert build.type_of(customer) == "ACTIVE"


def test_what_the_function_did_is_rolled_back_to_the_callers_savepoint(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    first, second = ordered_again(build, tenant, 2)

    with transaction(build.engine) as crm:
        assert call(crm, first) == {first: "updated"}
        savepoint = crm.begin_nested()
        assert call(crm, second) == {second: "updated"}
        savepoint.rollback()

    assert (build.type_of(first), build.type_of(second)) == ("ACTIVE", "TARGET")
    assert build.pending() == {second}
    incremental(engine)
    assert_at_rest(engine, build)


def test_nobody_and_null_are_no_customers(build: CrmBuilder) -> None:
    with transaction(build.engine) as crm:
        for ids in ("NULL", "'{}'", "'{NULL}'"):
            rows = crm.exec_driver_sql(
                f"SELECT outcome FROM leora_pipeline.after_order_create({ids})"
            ).all()
            assert rows in ([], [("unknown",)])


@pytest.mark.parametrize("commits", [(True, True), (True, False), (False, True)])
def test_two_open_transactions_that_hook_the_same_customers_do_not_wait(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, commits: tuple[bool, bool]
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=200),)) for _ in range(2)]
    update_account_types(engine=engine)

    with build.engine.connect() as one, build.engine.connect() as other:
        for crm in (one, other):
            for customer in customers:
                insert_order(crm, tenant, customer, ago(days=1))
        assert call(one, customers[0]) == {customers[0]: "updated"}
        assert call(other, customers[1]) == {customers[1]: "updated"}
        assert call(one, customers[1]) == {customers[1]: "deferred"}
        assert call(other, customers[0]) == {customers[0]: "deferred"}
        for crm, is_committed in zip((one, other), commits, strict=True):
            crm.commit() if is_committed else crm.rollback()

    incremental(engine)
    assert [build.type_of(customer) for customer in customers] == ["ACTIVE", "ACTIVE"]
    assert_at_rest(engine, build)


@pytest.mark.parametrize("holder", ["refresh", "apply", "listener", "crm"])
def test_customers_whom_somebody_holds_are_left_and_the_others_are_not(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, holder: str
) -> None:
    held, free = ordered_again(build, tenant, 2)
    run = resolve_run(engine)
    if holder == "apply":
        with transaction(engine) as pipeline:
            refresh_customers(pipeline, WRITER, tenant, [held])

    with transaction(build.engine) as other:
        if holder in ("refresh", "listener"):
            refresh_customers(other, WRITER, tenant, [held])
        if holder in ("apply", "listener"):
            assert lock_customers(other, tenant, only=[held]) == [held]
        if holder == "crm":
            other.execute(sa.text('UPDATE "Customer" SET name = name WHERE id = :i'), {"i": held})
        with transaction(build.engine) as crm:
            assert call(crm, held, free) == {held: "deferred", free: "updated"}
        assert hook(held, free, engine=engine) == HookResult(unchanged=1, deferred=1)

    assert build.type_of(held) == "TARGET"
    run_all_steps(engine, run)
    assert build.type_of(held) == "ACTIVE"
    assert_at_rest(engine, build)


def test_a_customer_whom_somebody_creates_is_not_waited_for(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, background: ThreadPoolExecutor
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))

    with transaction(engine) as refreshing:
        ensure_customer_state(refreshing, tenant, [customer])
        result = background.submit(hook, customer, engine=engine).result(timeout=PATIENCE)

    assert (result.updated, result.deferred) == (0, 1)
    incremental(engine)
    assert_at_rest(engine, build)


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("others", ["full", "incremental", "listener"])
def test_a_transaction_that_called_the_hook_and_stays_open_holds_up_nobody(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, others: str, is_committed: bool
) -> None:
    held, free = (build.customer(tenant, orders=(ago(days=200),)) for _ in range(2))
    update_account_types(engine=engine)
    for customer in (held, free):
        build.order(tenant, customer, ago(days=2))

    def work() -> None:
        if others == "listener":
            listen(engine, tenant)
        else:
            run_all_steps(engine, resolve_run(engine, mode=others))  # type: ignore[arg-type]

    with build.engine.connect() as crm:
        insert_order(crm, tenant, held, ago(days=1))
        assert call(crm, held) == {held: "updated"}
        # What others do to the customer meanwhile is not lost either.
        newest = ago(hours=1)
        build.order(tenant, held, newest)
        work()
        assert (build.type_of(held), build.type_of(free)) == ("TARGET", "ACTIVE")
        assert build.run("SELECT DISTINCT status FROM leora_pipeline.tenant_run") == [
            ("succeeded",)
        ]
        crm.commit() if is_committed else crm.rollback()

    work()
    assert build.read(held)[:2] == ("ACTIVE", newest)
    assert_at_rest(engine, build)


def test_a_customer_whom_the_same_transaction_deletes_after_the_hook_leaves_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    gone, stays = ordered_again(build, tenant, 2)

    with transaction(build.engine) as crm:
        assert call(crm, gone, stays) == {gone: "updated", stays: "updated"}
        crm.execute(sa.text('DELETE FROM "Customer" WHERE id = :id'), {"id": gone})
        assert call(crm, gone) == {gone: "unknown"}

    incremental(engine)
    assert build.run("SELECT customer_id FROM leora_pipeline.customer_state") == [(stays,)]
    assert_at_rest(engine, build)


def test_what_the_same_transaction_does_after_the_hook_is_the_next_runs(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)

    with transaction(build.engine) as crm:
        assert call(crm, customer) == {customer: "updated"}
        crm.exec_driver_sql("UPDATE \"Order\" SET status = 'CANCELLED'")

    assert build.pending() == {customer}
    incremental(engine)
    assert build.type_of(customer) == "PROSPECT"
    assert_at_rest(engine, build)


@pytest.mark.parametrize("fails", [False, True])
def test_a_type_that_the_crm_sets_after_the_hook_in_the_same_transaction_is_captured(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, fails: bool
) -> None:
    (customer,) = ordered_again(build, tenant)
    if fails:
        refuse_rows(build, '"Customer"', "id", customer)

    with transaction(build.engine) as crm:
        assert call(crm, customer) == {customer: "deferred" if fails else "updated"}
        if fails:
            crm.exec_driver_sql("DROP FUNCTION refuse_rows CASCADE")
        crm.exec_driver_sql("DELETE FROM leora_pipeline.pending_customer")
        crm.exec_driver_sql('UPDATE "Customer" SET "accountType" = \'PROSPECT\'')

    assert build.pending() == {customer}
    incremental(engine)
    assert build.type_of(customer) == "ACTIVE"
    assert_at_rest(engine, build)


def test_what_the_hook_writes_is_not_captured_as_the_crms(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)
    build.run("DELETE FROM leora_pipeline.pending_customer")

    with transaction(build.engine) as crm:
        assert call(crm, customer) == {customer: "updated"}

    assert build.pending() == set()


def test_an_order_comes_through_with_a_warning_while_our_tables_are_locked(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, background: ThreadPoolExecutor
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    ordered = ago(days=1)
    warnings: list[str] = []

    with transaction(build.engine) as crm:
        session = crm.connection.driver_connection
        assert isinstance(session, psycopg.Connection)
        session.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        with transaction(build.engine) as migration:
            lock_our_tables(migration)
            insert_order(crm, tenant, customer, ordered)
            outcomes = background.submit(call, crm, customer).result(timeout=PATIENCE)
            assert outcomes == {customer: "deferred"}
        assert crm.exec_driver_sql("SHOW lock_timeout").scalar_one() == f"{DEADLINE}s"

    assert len(warnings) == 2
    assert all("lock timeout" in warning for warning in warnings)
    assert build.run('SELECT max("orderedAt") FROM "Order"') == [(stored(ordered),)]
    update_account_types(engine=engine)
    assert build.type_of(customer) == "ACTIVE"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("through", ["sql", "python"])
def test_a_transaction_that_sees_no_later_commits_leaves_the_customers(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, level: str, through: str
) -> None:
    (customer,) = ordered_again(build, tenant)
    nobody = uuid4()

    with build.engine.connect().execution_options(isolation_level=level) as crm, crm.begin():
        insert_order(crm, tenant, customer, ago(hours=1))
        if through == "sql":
            assert call(crm, customer, nobody) == {customer: "deferred", nobody: "unknown"}
        else:
            result = hook(customer, nobody, connection=crm)
            assert result == HookResult(deferred=1, unknown=(str(nobody),))

    assert build.pending() == {customer}
    incremental(engine)
    assert build.type_of(customer) == "ACTIVE"
    assert_at_rest(engine, build)


def test_a_crm_in_another_schema_is_found_by_whoever_calls(build: CrmBuilder) -> None:
    url = build.engine.url.render_as_string(hide_password=False)
    remove_schema(build.engine)
    build.run('DROP TABLE "Order", "Customer", "SalesRep", "User", "Tenant"')
    build.run('DROP TYPE "AccountType", "OrderStatus"')
    build.run('CREATE SCHEMA "Vino & Co"')
    elsewhere = create_engine(f"{url}&schema=Vino%20%26%20Co")
    with transaction(elsewhere) as connection:
        create_tables(connection)
    install_schema(elsewhere)
    there = CrmBuilder(elsewhere)
    customers = ordered_again(there, there.tenant(), 2)

    with transaction(build.engine) as crm:  # Whose search path does not lead there.
        assert call(crm, customers[0]) == {customers[0]: "updated"}
    assert hook(customers[1], engine=elsewhere) == HookResult(updated=1)

    assert [there.type_of(customer) for customer in customers] == ["ACTIVE", "ACTIVE"]
    assert_at_rest(elsewhere, there)
    remove_schema(elsewhere)
    elsewhere.dispose()


def test_tables_of_the_callers_own_are_not_taken_for_the_crms(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    before = everything(build)
    grant_crm(build, role)
    build.run(f"CREATE SCHEMA {role} AUTHORIZATION {role}")

    with connected_as(engine, role) as application, transaction(application) as crm:
        for schema in ("pg_temp", role):
            for table in ("Order", "Customer"):
                crm.exec_driver_sql(
                    f'CREATE TABLE {schema}."{table}" AS SELECT * FROM public."{table}"'
                )
            crm.exec_driver_sql(f'UPDATE {schema}."Order" SET "orderedAt" = now()')
        crm.exec_driver_sql(f"SET LOCAL search_path = pg_temp, {role}, public")
        assert call(crm, customer) == {customer: "unchanged"}
        for schema in ("pg_temp", role):
            types = crm.exec_driver_sql(f'SELECT "accountType"::text FROM {schema}."Customer"')
            assert types.all() == [("TARGET",)]

    assert everything(build) == before


def test_the_callers_own_settings_are_as_they_were(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)
    settings = "SELECT name, setting FROM pg_settings ORDER BY name"

    with transaction(build.engine) as crm:
        crm.exec_driver_sql("SET LOCAL timezone = 'Asia/Tokyo'; SET LOCAL datestyle = 'German'")
        before = crm.exec_driver_sql(settings).all()
        assert call(crm, customer) == {customer: "updated"}
        assert crm.exec_driver_sql(settings).all() == before

    ordered = build.run('SELECT max("orderedAt") AT TIME ZONE \'UTC\' AS at FROM "Order"')[0].at
    assert build.read(customer)[:2] == ("ACTIVE", ordered)


def test_the_function_goes_with_the_schema(build: CrmBuilder) -> None:
    found = "SELECT proname FROM pg_proc WHERE proname = 'after_order_create'"
    assert build.run(found) == [("after_order_create",)]

    remove_schema(build.engine)

    assert build.run(found) == []
