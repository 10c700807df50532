"""The hook: a new order makes its customer's type right at once, and never harms who places it.

First the Python function with an engine of its own, then on the caller's connection, then the SQL
function in the CRM's own transaction. That it waits for nobody is asserted by a time limit on the
statement: one that waits for ever is ended by the server, and fails its test.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa

from leora_pipeline import (
    HookResult,
    OrderCreated,
    after_order_create,
    after_order_create_batch,
    update_account_types,
)
from leora_pipeline.core.customers.refresh import ensure_customer_state, refresh_customers
from leora_pipeline.core.customers.write_back import lock_customers
from leora_pipeline.core.customers.writer import Writer
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.realtime import hook as hook_module
from leora_pipeline.core.realtime.batch import take_actionable, take_pending
from leora_pipeline.core.run.refresh import actionable_tenants
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline.migrations import install_schema, remove_schema
from leora_pipeline.sample import create_tables
from leora_pipeline_tests.at_rest import wrong_customers
from leora_pipeline_tests.crm_builder import CrmBuilder, ago, stored
from leora_pipeline_tests.roles import connected_as, made_role
from leora_pipeline_tests.scenes import (
    WRITER,
    add_customers,
    everything,
    incremental,
    insert_order,
    make_held,
    refuse_rows,
)

DEADLINE = 10
"""Seconds after which the server ends what waits."""

PATIENCE = 5
"""Seconds after which what does not wait for others must have ended."""


@pytest.fixture(autouse=True)
def _nothing_waits_for_ever(engine: sa.Engine, build: CrmBuilder) -> None:
    """Ends what waits for a lock beyond the deadline, by a limit that no transaction takes off."""
    database = build.run("SELECT current_database() AS name")[0].name
    build.run(f"ALTER DATABASE {database} SET lock_timeout = '{DEADLINE}s'")
    engine.dispose()


def hook(
    *customers: UUID | str, engine: sa.Engine | None = None, connection: sa.Connection | None = None
) -> HookResult:
    """Calls the hook for an order of each of these customers."""
    events = [OrderCreated(uuid4(), customer) for customer in customers]
    return after_order_create_batch(events, engine=engine, connection=connection)


def call(connection: sa.Connection, *customers: UUID) -> dict[UUID, str]:
    """Calls the SQL function, and returns what became of each customer."""
    rows = connection.execute(
        sa.text("SELECT * FROM leora_pipeline.after_order_create(CAST(:ids AS uuid[]))"),
        {"ids": list(customers)},
    ).all()
    assert len(rows) == len({row.customer_id for row in rows})
    return {row.customer_id: row.outcome for row in rows}


def listen(engine: sa.Engine, tenant: UUID) -> None:
    """Takes the batches of a tenant that a listener takes."""
    run = Writer("listener", "listener")
    take_pending(engine, run, tenant)
    take_actionable(engine, run, tenant)


def assert_at_rest(engine: sa.Engine, build: CrmBuilder) -> None:
    """Asserts that all are as the oracle says, and that nothing is left for any run."""
    assert wrong_customers(engine) == {}
    assert build.pending() == set()
    assert actionable_tenants(engine, resolve_run(engine, mode="incremental")) == []
    settled = everything(build)
    update_account_types(engine=engine)
    assert everything(build) == settled


def ordered_again(build: CrmBuilder, tenant: UUID, count: int = 1) -> list[UUID]:
    """Returns customers, ascending, who were told TARGET and have a new order."""
    customers = add_customers(build, tenant, count, ordered=ago(days=200), account_type="TARGET")
    update_account_types(engine=build.engine)
    for customer in customers:
        build.order(tenant, customer, ago(days=1))
    return sorted(customers)


# What becomes of a customer.


@pytest.mark.parametrize("before", ["PROSPECT", None])
def test_a_first_order_makes_its_customer_active(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, before: str | None
) -> None:
    customer = build.customer(tenant, before)
    ordered = ago(minutes=1)
    order = build.order(tenant, customer, ordered)

    result = after_order_create(OrderCreated(order, customer, ordered, 12.5), engine=engine)

    assert result == HookResult(updated=1)
    found = build.read(customer)
    assert found[:2] == ("ACTIVE", ordered)
    assert found.updated > ago(minutes=1)
    assert build.log(customer) == [(before, "ACTIVE", "order")]
    assert build.pending() == set(), "nothing is left to the listener"
    assert_at_rest(engine, build)


def test_the_next_order_raises_a_customer_whom_the_pipeline_knows(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.log(customer) == [("TARGET", "ACTIVE", "order")]
    assert_at_rest(engine, build)


def test_a_first_order_of_300_days_ago_makes_its_customer_target(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered = ago(days=300)
    customer = build.customer(tenant, "PROSPECT", orders=(ordered,))

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.read(customer)[:2] == ("TARGET", ordered)


def test_a_back_dated_order_does_not_turn_a_date_back(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    recent = ago(days=2)
    customer = build.customer(tenant, orders=(recent,))
    update_account_types(engine=engine)
    before = everything(build)
    build.order(tenant, customer, ago(days=300))

    assert hook(customer, engine=engine) == HookResult(unchanged=1)

    assert everything(build) == before


@pytest.mark.parametrize(
    ("status", "ordered"),
    [("CANCELLED", ago(days=1)), ("DRAFT", ago(days=1)), ("SUBMITTED", None)],
)
def test_an_order_that_does_not_count_changes_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, status: str, ordered: datetime | None
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    before = everything(build)
    order = build.order(tenant, customer, ordered, status)

    result = after_order_create(OrderCreated(order, customer, ago(days=1)), engine=engine)

    assert result == HookResult(unchanged=1)
    assert everything(build) == before
    assert build.pending() == set()


def test_an_order_that_is_not_there_changes_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    before = everything(build)

    assert hook(customer, engine=engine) == HookResult(unchanged=1)

    assert everything(build) == before


def test_an_order_of_the_future_counts_when_its_time_comes(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    tomorrow = ago(days=-1)
    build.order(tenant, customer, tomorrow)

    assert hook(customer, engine=engine) == HookResult(unchanged=1)

    assert build.type_of(customer) == "TARGET"
    ((next_order_at,),) = build.run("SELECT next_order_at FROM leora_pipeline.customer_state")
    assert next_order_at == tomorrow


def test_a_pinned_type_stays_and_gets_its_date(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered = ago(days=1)
    customer = build.customer(tenant, "HOLD", orders=(ordered,))

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.read(customer)[:2] == ("HOLD", ordered)
    assert build.log() == []


def test_a_customer_who_would_be_demoted_is_left_and_told_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered, recent = ago(days=200), ago(days=1)
    customer = build.customer(tenant, orders=(ordered,))
    order = build.order(tenant, customer, recent)
    update_account_types(engine=engine)
    build.cancel(order)

    assert hook(customer, engine=engine) == HookResult(deferred=1)

    assert build.read(customer)[:2] == ("ACTIVE", recent)
    incremental(engine)
    assert build.log(customer)[-1] == ("ACTIVE", "TARGET", "order removed")
    assert_at_rest(engine, build)


def test_a_customer_who_has_aged_is_left_too(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    ordered = ago(days=200)
    customer = build.customer(tenant, "ACTIVE", last_order=ordered, orders=(ordered,))

    assert hook(customer, engine=engine) == HookResult(deferred=1)

    assert build.type_of(customer) == "ACTIVE"
    incremental(engine)
    assert build.type_of(customer) == "TARGET"


def test_the_demotion_of_a_held_tenant_is_not_written_and_a_rise_is(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    held, customers = make_held(engine, build)
    build.order(held, customers[0], ago(days=1))
    riser = build.customer(held, "PROSPECT", orders=(ago(days=1),))
    build.run("DELETE FROM leora_pipeline.pending_customer")

    assert hook(*customers, riser, engine=engine) == HookResult(updated=2, deferred=19)

    assert [build.type_of(customer) for customer in customers] == ["ACTIVE"] * 20
    assert build.read(customers[1]).date is not None
    assert build.type_of(riser) == "ACTIVE"


def test_a_customer_without_a_type_gets_one_even_in_a_held_tenant(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    held, _ = make_held(engine, build)
    customer = build.customer(held)

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.type_of(customer) == "PROSPECT"


def test_a_type_set_by_hand_that_the_orders_exceed_is_raised(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    update_account_types(engine=engine)
    build.set_type(customer, "PROSPECT")

    assert hook(customer, engine=engine) == HookResult(updated=1)

    assert build.log(customer)[-1] == ("PROSPECT", "ACTIVE", "by hand")


def test_the_date_is_left_to_the_crm_where_so_configured(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", "false")
    customer = build.customer(tenant, "PROSPECT", orders=(ago(days=1),))

    assert hook(customer, engine=engine) == HookResult(updated=1)
    assert build.read(customer)[:2] == ("ACTIVE", None)

    with transaction(engine) as connection:
        assert hook(customer, connection=connection) == HookResult(unchanged=1)
    assert build.read(customer)[:2] == ("ACTIVE", None)


def test_the_sql_function_leaves_the_date_to_the_crm_where_asked_to(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)
    before = build.read(customer).date

    build.run(
        "SELECT * FROM leora_pipeline.after_order_create("
        "p_customer_ids => ARRAY[CAST(:id AS uuid)], p_write_last_order_date => false)",
        id=customer,
    )

    assert build.read(customer)[:2] == ("ACTIVE", before)


# Batches, and honest counts.


def test_nobody_is_an_empty_batch(engine: sa.Engine) -> None:
    assert hook(engine=engine) == HookResult()


def test_what_is_no_customer_is_named(engine: sa.Engine, build: CrmBuilder, tenant: UUID) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    nobody = uuid4()

    result = hook(customer, nobody, "no id", "", engine=engine)

    assert (result.updated, result.deferred, result.error) == (1, 0, None)
    assert sorted(result.unknown) == sorted([str(nobody), "no id", ""])


def test_a_customer_with_several_new_orders_is_counted_once(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1), ago(days=2)))
    nobody = uuid4()

    result = hook(
        customer, str(customer), str(customer).upper(), nobody, nobody, "x", "x", engine=engine
    )

    assert (result.updated, result.unchanged, result.deferred) == (1, 0, 0)
    assert sorted(result.unknown) == sorted([str(nobody), "x"])
    assert len(build.log(customer)) == 1


def mixed_customers(engine: sa.Engine, build: CrmBuilder, slug: str) -> list[UUID]:
    """Returns a tenant's customers: one to be raised, one who is right, one to be demoted."""
    tenant = build.tenant(slug)
    customers = [build.customer(tenant, orders=(ago(days=200),)) for _ in range(3)]
    update_account_types([slug], engine=engine)
    build.order(tenant, customers[0], ago(days=1))
    build.set_type(customers[2], "ACTIVE")
    return customers


@pytest.mark.parametrize("batch", [1, 2, 5_000])
@pytest.mark.parametrize("as_of_caller", [False, True])
def test_each_customer_of_a_batch_over_several_tenants_is_counted_as_what_became_of_it(
    engine: sa.Engine,
    build: CrmBuilder,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    as_of_caller: bool,
) -> None:
    monkeypatch.setattr(hook_module, "WRITE_BATCH", batch)
    customers = [mixed_customers(engine, build, slug) for slug in ("cellar", "dry-goods", "market")]
    strangers = [uuid4(), uuid4()]
    asked = [customer for each in customers for customer in each] + strangers

    if as_of_caller:
        with transaction(engine) as connection:
            result = hook(*asked, *asked, connection=connection)
    else:
        result = hook(*asked, *asked, engine=engine)

    assert (result.updated, result.unchanged, result.deferred) == (3, 3, 3)
    assert sorted(result.unknown) == sorted(map(str, strangers))
    assert [build.type_of(customer) for each in customers for customer in each] == [
        "ACTIVE",
        "TARGET",
        "ACTIVE",
    ] * 3
    incremental(engine)
    assert_at_rest(engine, build)


def test_a_batch_of_many_is_done_in_transactions_of_a_bounded_size(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_module, "WRITE_BATCH", 4)
    customers = [build.customer(tenant, orders=(ago(days=1),)) for _ in range(11)]

    assert hook(*customers, engine=engine) == HookResult(updated=11)

    writers = build.run('SELECT xmin::text, count(*) AS n FROM "Customer" GROUP BY 1')
    assert sorted(row.n for row in writers) == [3, 4, 4]
    assert_at_rest(engine, build)


def test_batches_before_the_one_that_fails_are_done_and_the_rest_is_left(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_module, "WRITE_BATCH", 4)
    customers = [build.customer(tenant, orders=(ago(days=1),)) for _ in range(10)]
    begun = []

    @contextmanager
    def breaking(engine: sa.Engine) -> Iterator[sa.Connection]:
        begun.append(engine)
        if len(begun) == 2:
            raise sa.exc.OperationalError("", None, Exception("the line was cut"))
        with transaction(engine) as connection:
            yield connection

    monkeypatch.setattr(hook_module, "transaction", breaking)

    result = hook(*customers, "x", engine=engine)

    assert result == HookResult(
        updated=4, unchanged=0, deferred=6, unknown=("x",), error="the line was cut"
    )
    assert Counter(build.type_of(customer) for customer in customers) == {"ACTIVE": 4, None: 6}


def test_the_number_of_statements_does_not_grow_with_the_batch(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    hook(build.customer(tenant, orders=(ago(days=1),)), engine=engine)
    statements: list[str] = []

    @sa.event.listens_for(engine, "before_cursor_execute")
    def count(_connection: object, _cursor: object, text: str, *_rest: object) -> None:
        statements.append(text)

    counts = []
    for size in (1, 50):
        customers = [build.customer(tenant, orders=(ago(days=1),)) for _ in range(size)]
        statements.clear()
        assert hook(*customers, engine=engine) == HookResult(updated=size)
        counts.append(len(statements))

    assert counts[0] == counts[1] <= 5, "settings, tenants, first states, the function"


# Whatever goes wrong, nothing is raised, and it is said.


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Returns what the hook has logged as warnings and errors."""
    caplog.set_level(logging.WARNING, logger="leora_pipeline")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def assert_left(result: HookResult, error: str, told: Callable[[], str], count: int = 1) -> None:
    """Asserts that all customers were left, and that the result and the log say why."""
    assert (result.updated, result.unchanged, result.deferred) == (0, 0, count)
    assert result.unknown == ()
    assert error in (result.error or "")
    assert "\n" not in (result.error or "")
    assert error in told()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (None, "LEORA_DATABASE_URL is not set"),
        ("mysql://root:hunter2@localhost/crm", "LEORA_DATABASE_URL cannot be read"),
        ("postgresql://leora:hunter2@localhost/crm?host=/nowhere", "cannot be reached"),
    ],
)
def test_a_database_out_of_reach_is_logged_and_the_customers_are_left(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    told: Callable[[], str],
    url: str | None,
    error: str,
) -> None:
    if url:
        monkeypatch.setenv("LEORA_DATABASE_URL", url)

    result = hook(uuid4(), uuid4())

    assert_left(result, error, told, count=2)
    assert "hunter2" not in caplog.text + (result.error or "")


def test_the_database_that_the_environment_names_is_the_default(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))
    url = engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("LEORA_DATABASE_URL", url)

    try:
        assert after_order_create(OrderCreated(uuid4(), customer)) == HookResult(updated=1)
    finally:
        hook_module.configured_engine().dispose()

    assert build.type_of(customer) == "ACTIVE"


def test_a_configuration_that_means_nothing_is_logged(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, told: Callable[[], str]
) -> None:
    monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", "perhaps")

    assert_left(hook(uuid4(), engine=engine), "LEORA_WRITE_LAST_ORDER_DATE", told)


def test_events_that_cannot_be_read_are_logged(engine: sa.Engine, told: Callable[[], str]) -> None:
    def breaking_off() -> Iterator[OrderCreated]:
        yield OrderCreated(uuid4(), uuid4())
        raise OSError("the feed broke off")

    result = after_order_create_batch(breaking_off(), engine=engine)

    assert result == HookResult(error="the feed broke off")
    assert "the feed broke off" in told()


def test_a_schema_that_is_not_installed_is_logged(crm: sa.Engine, told: Callable[[], str]) -> None:
    build = CrmBuilder(crm)
    customer = build.customer(build.tenant())

    assert_left(hook(customer, engine=crm), "leora_pipeline", told)

    with transaction(crm) as connection:
        assert hook(customer, connection=connection).deferred == 1
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


@pytest.fixture
def role(build: CrmBuilder) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    with made_role(build) as name:
        yield name


def grant_crm(build: CrmBuilder, role: str) -> None:
    """Grants what the CRM's application needs: its own tables, and to reach the hook."""
    build.run(f'GRANT ALL ON "Tenant", "Customer", "Order" TO {role}')
    build.run(f"GRANT USAGE ON SCHEMA leora_pipeline TO {role}")


def test_privileges_that_are_missing_are_logged(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str, told: Callable[[], str]
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))

    with connected_as(engine, role) as powerless:
        assert_left(hook(customer, engine=powerless), "permission denied", told)

    assert build.type_of(customer) is None


def filter_orders(build: CrmBuilder) -> None:
    """Switches row level security on, with a policy that hides all orders."""
    build.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    build.run('ALTER TABLE "Order" FORCE ROW LEVEL SECURITY')
    build.run(
        'CREATE POLICY own ON "Order" '
        "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
    )


def let_own(build: CrmBuilder, role: str) -> None:
    """Makes the hook run as a role whom row level security filters, and that may do the rest."""
    grant_crm(build, role)
    build.run(f"GRANT ALL ON ALL TABLES IN SCHEMA leora_pipeline TO {role}")
    build.run(f"GRANT USAGE ON SCHEMA public TO {role}")
    build.run(f"GRANT CREATE ON SCHEMA leora_pipeline TO {role}")
    build.run(f"ALTER FUNCTION leora_pipeline.after_order_create OWNER TO {role}")


def test_orders_that_row_level_security_would_hide_demote_nobody_and_are_logged(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str, told: Callable[[], str]
) -> None:
    (customer,) = ordered_again(build, tenant)
    before = everything(build)
    let_own(build, role)
    filter_orders(build)

    result = hook(customer, engine=engine)

    assert everything(build) == before
    assert_left(result, "row-level security", told)


def test_row_level_security_that_filters_the_functions_owner_changes_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str
) -> None:
    (customer,) = ordered_again(build, tenant)
    before = everything(build)
    let_own(build, role)
    filter_orders(build)

    with transaction(engine) as crm:
        crm.exec_driver_sql("SET LOCAL row_security = on")
        assert call(crm, customer) == {customer: "deferred"}

    assert everything(build) == before
    assert build.pending() == {customer}


@pytest.mark.parametrize("as_of_caller", [False, True])
def test_a_trigger_of_the_crm_that_raises_is_logged(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    told: Callable[[], str],
    as_of_caller: bool,
) -> None:
    customers = ordered_again(build, tenant, 2)
    before = everything(build)
    refuse_rows(build, '"Customer"', "id", customers[0])

    if as_of_caller:
        with transaction(engine) as connection:
            result = hook(*customers, connection=connection)
    else:
        result = hook(*customers, engine=engine)

    assert everything(build) == before, "nothing half-done"
    assert build.pending() == set(customers)
    assert_left(result, "the disk is made of cheese", told, count=2)


def lock_our_tables(connection: sa.Connection) -> None:
    """Locks all of the pipeline's tables, as a migration may."""
    tables = connection.exec_driver_sql(
        "SELECT string_agg('leora_pipeline.' || quote_ident(tablename), ', ') FROM pg_tables "
        "WHERE schemaname = 'leora_pipeline'"
    ).scalar_one()
    connection.exec_driver_sql(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")


def test_tables_that_are_locked_are_not_waited_for(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    background: ThreadPoolExecutor,
    told: Callable[[], str],
) -> None:
    (customer,) = ordered_again(build, tenant)

    with transaction(engine) as migration:
        lock_our_tables(migration)
        result = background.submit(hook, customer, engine=engine).result(timeout=PATIENCE)

    assert_left(result, "lock timeout", told)
    assert build.pending() == {customer}


# On the caller's own connection.


def test_an_order_that_is_not_yet_committed_counts_on_the_callers_connection(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    ordered = ago(days=1)

    with transaction(engine) as crm:
        insert_order(crm, tenant, customer, ordered)
        assert hook(customer, engine=engine) == HookResult(unchanged=1), "from elsewhere: unseen"
        assert hook(customer, connection=crm) == HookResult(updated=1)
        assert build.type_of(customer) == "TARGET", "until it commits"

    assert build.read(customer)[:2] == ("ACTIVE", ordered)
    assert build.pending() == set()
    assert_at_rest(engine, build)


def test_what_the_hook_did_is_rolled_back_with_the_callers_transaction(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    before = everything(build)

    with engine.connect() as crm:
        insert_order(crm, tenant, customer, ago(days=1))
        assert hook(customer, connection=crm) == HookResult(updated=1)
        crm.rollback()

    assert everything(build) == before
    assert_at_rest(engine, build)


def test_a_customer_never_met_is_left_on_the_callers_connection_and_taken_by_the_next_run(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    with transaction(engine) as crm:
        customer = uuid4()
        crm.execute(
            sa.text(
                'INSERT INTO "Customer" (id, "tenantId", name, "updatedAt") '
                "VALUES (:id, :tenant, 'Shop', now())"
            ),
            {"id": customer, "tenant": tenant},
        )
        insert_order(crm, tenant, customer, ago(days=1))
        assert hook(customer, connection=crm) == HookResult(deferred=1)
        # Nor does it keep anybody who meets the customer's tenant waiting.
        incremental(engine)

    assert build.type_of(customer) is None
    incremental(engine)
    assert build.type_of(customer) == "ACTIVE"
    assert_at_rest(engine, build)


def test_a_hook_that_fails_does_nothing_to_the_callers_transaction(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    (customer,) = ordered_again(build, tenant)
    build.run("DROP FUNCTION leora_pipeline.after_order_create")
    ordered = ago(hours=1)

    with transaction(engine) as crm:
        insert_order(crm, tenant, customer, ordered)
        result = hook(customer, connection=crm)
        crm.execute(sa.text("UPDATE \"Customer\" SET name = 'Renamed'"))

    assert (result.deferred, result.error is not None) == (1, True)
    assert build.run('SELECT name FROM "Customer"') == [("Renamed",)]
    assert build.run('SELECT max("orderedAt") FROM "Order"') == [(stored(ordered),)]
    incremental(engine)
    assert_at_rest(engine, build)


def test_a_transaction_that_has_failed_before_stays_the_callers_to_roll_back(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, told: Callable[[], str]
) -> None:
    (customer,) = ordered_again(build, tenant)

    with engine.connect() as crm:
        with pytest.raises(sa.exc.DataError):
            crm.exec_driver_sql("SELECT 1 / 0")
        assert_left(hook(customer, connection=crm), "current transaction is aborted", told)
        with pytest.raises(sa.exc.InternalError, match="current transaction is aborted"):
            crm.exec_driver_sql("SELECT 1")
        crm.rollback()
        assert hook(customer, connection=crm) == HookResult(updated=1)
        crm.commit()

    assert_at_rest(engine, build)


def test_a_connection_that_is_closed_is_logged(engine: sa.Engine, told: Callable[[], str]) -> None:
    with engine.connect() as crm:
        pass

    assert_left(hook(uuid4(), connection=crm), "closed", told)


# The SQL function, in the CRM's own transaction.


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


def test_row_level_security_that_filters_the_caller_does_not_filter_the_function(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str
) -> None:
    (customer,) = ordered_again(build, tenant)
    grant_crm(build, role)
    filter_orders(build)

    with connected_as(engine, role) as application, transaction(application) as crm:
        crm.exec_driver_sql("SET LOCAL row_security = on")
        assert crm.exec_driver_sql('SELECT count(*) FROM "Order"').scalar_one() == 0
        assert call(crm, customer) == {customer: "updated"}

    assert build.type_of(customer) == "ACTIVE"


def test_what_the_function_did_is_rolled_back_to_the_callers_savepoint(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    first, second = ordered_again(build, tenant, 2)

    with transaction(engine) as crm:
        assert call(crm, first) == {first: "updated"}
        savepoint = crm.begin_nested()
        assert call(crm, second) == {second: "updated"}
        savepoint.rollback()

    assert (build.type_of(first), build.type_of(second)) == ("ACTIVE", "TARGET")
    assert build.pending() == {second}
    incremental(engine)
    assert_at_rest(engine, build)


def test_nobody_and_null_are_no_customers(engine: sa.Engine) -> None:
    with transaction(engine) as crm:
        for ids in ("NULL", "'{}'", "'{NULL}'"):
            rows = crm.exec_driver_sql(
                f"SELECT outcome FROM leora_pipeline.after_order_create({ids})"
            ).all()
            assert rows in ([], [("unknown",)])


@pytest.mark.parametrize("commits", [(True, True), (True, False), (False, True)])
def test_two_open_transactions_that_hook_the_same_customers_do_not_meet(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, commits: tuple[bool, bool]
) -> None:
    customers = [build.customer(tenant, orders=(ago(days=200),)) for _ in range(2)]
    update_account_types(engine=engine)

    with engine.connect() as one, engine.connect() as other:
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

    with transaction(engine) as other:
        if holder in ("refresh", "listener"):
            refresh_customers(other, WRITER, tenant, [held])
        if holder in ("apply", "listener"):
            assert lock_customers(other, tenant, only=[held]) == [held]
        if holder == "crm":
            other.execute(sa.text('UPDATE "Customer" SET name = name WHERE id = :i'), {"i": held})
        with transaction(engine) as crm:
            assert call(crm, held, free) == {held: "deferred", free: "updated"}
        assert hook(held, free, engine=engine) == HookResult(unchanged=1, deferred=1)

    assert build.type_of(held) == "TARGET"
    run_all_steps(engine, run)
    assert build.type_of(held) == "ACTIVE"
    assert_at_rest(engine, build)


def test_a_customer_whom_somebody_is_meeting_is_not_waited_for(
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

    with engine.connect() as crm:
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

    with transaction(engine) as crm:
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

    with transaction(engine) as crm:
        assert call(crm, customer) == {customer: "updated"}
        crm.exec_driver_sql("UPDATE \"Order\" SET status = 'CANCELLED'")

    assert build.pending() == {customer}
    incremental(engine)
    assert build.type_of(customer) == "PROSPECT"
    assert_at_rest(engine, build)


@pytest.mark.parametrize("fails", [False, True])
def test_a_type_that_the_crm_sets_after_the_hook_in_the_same_transaction_is_noted(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, fails: bool
) -> None:
    (customer,) = ordered_again(build, tenant)
    if fails:
        refuse_rows(build, '"Customer"', "id", customer)

    with transaction(engine) as crm:
        assert call(crm, customer) == {customer: "deferred" if fails else "updated"}
        if fails:
            crm.exec_driver_sql("DROP FUNCTION refuse CASCADE")
        crm.exec_driver_sql("DELETE FROM leora_pipeline.pending_customer")
        crm.exec_driver_sql('UPDATE "Customer" SET "accountType" = \'PROSPECT\'')

    assert build.pending() == {customer}
    incremental(engine)
    assert build.type_of(customer) == "ACTIVE"
    assert_at_rest(engine, build)


def test_what_the_hook_writes_is_not_noted_as_the_crms(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID
) -> None:
    (customer,) = ordered_again(build, tenant)
    build.run("DELETE FROM leora_pipeline.pending_customer")

    with transaction(engine) as crm:
        assert call(crm, customer) == {customer: "updated"}

    assert build.pending() == set()


def test_an_order_comes_through_with_a_warning_while_our_tables_are_locked(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, background: ThreadPoolExecutor
) -> None:
    customer = build.customer(tenant, orders=(ago(days=200),))
    update_account_types(engine=engine)
    ordered = ago(days=1)
    warnings: list[str] = []

    with transaction(engine) as crm:
        session = crm.connection.driver_connection
        assert isinstance(session, psycopg.Connection)
        session.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
        with transaction(engine) as migration:
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

    with engine.connect().execution_options(isolation_level=level) as crm, crm.begin():
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
    build.run('DROP TABLE "Order", "Customer", "Tenant"')
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

    with transaction(engine) as crm:
        crm.exec_driver_sql("SET LOCAL timezone = 'Asia/Tokyo'; SET LOCAL datestyle = 'German'")
        before = crm.exec_driver_sql(settings).all()
        assert call(crm, customer) == {customer: "updated"}
        assert crm.exec_driver_sql(settings).all() == before

    ordered = build.run('SELECT max("orderedAt") AT TIME ZONE \'UTC\' AS at FROM "Order"')[0].at
    assert build.read(customer)[:2] == ("ACTIVE", ordered)


def test_the_function_goes_with_the_schema(engine: sa.Engine, build: CrmBuilder) -> None:
    found = "SELECT proname FROM pg_proc WHERE proname = 'after_order_create'"
    assert build.run(found) == [("after_order_create",)]

    remove_schema(engine)

    assert build.run(found) == []
