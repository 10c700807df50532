"""Whatever goes wrong, nothing is raised, and it is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    HookResult,
    OrderCreated,
    after_order_create,
    after_order_create_batch,
)
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.realtime import hook as hook_module
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.hooks import (
    PATIENCE,
    assert_left,
    call,
    filter_orders,
    grant_crm,
    hook,
    lock_our_tables,
    ordered_again,
)
from leora_pipeline_tests.roles import connected_as
from leora_pipeline_tests.scenes import (
    everything,
    refuse_rows,
)


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
    reported: Callable[[], str],
    url: str | None,
    error: str,
) -> None:
    if url:
        monkeypatch.setenv("LEORA_DATABASE_URL", url)

    result = hook(uuid4(), uuid4())

    assert_left(result, error, reported, count=2)
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
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, reported: Callable[[], str]
) -> None:
    monkeypatch.setenv("LEORA_WRITE_LAST_ORDER_DATE", "perhaps")

    assert_left(hook(uuid4(), engine=engine), "LEORA_WRITE_LAST_ORDER_DATE", reported)


def test_events_that_cannot_be_read_are_logged(
    engine: sa.Engine, reported: Callable[[], str]
) -> None:
    def breaking_off() -> Iterator[OrderCreated]:
        yield OrderCreated(uuid4(), uuid4())
        raise OSError("the feed broke off")

    result = after_order_create_batch(breaking_off(), engine=engine)

    assert result == HookResult(error="the feed broke off")
    assert "the feed broke off" in reported()


def test_a_schema_that_is_not_installed_is_logged(
    crm: sa.Engine, reported: Callable[[], str]
) -> None:
    build = CrmBuilder(crm)
    customer = build.customer(build.tenant())

    assert_left(hook(customer, engine=crm), "leora_pipeline", reported)

    with transaction(crm) as connection:
        assert hook(customer, connection=connection).deferred == 1
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


def test_privileges_that_are_missing_are_logged(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str, reported: Callable[[], str]
) -> None:
    customer = build.customer(tenant, orders=(ago(days=1),))

    with connected_as(engine, role) as powerless:
        assert_left(hook(customer, engine=powerless), "permission denied", reported)

    assert build.type_of(customer) is None


def let_own(build: CrmBuilder, role: str) -> None:
    """Makes the hook run as a role whom row level security filters, and that may do the rest."""
    grant_crm(build, role)
    build.run(f"GRANT ALL ON ALL TABLES IN SCHEMA leora_pipeline TO {role}")
    build.run(f"GRANT USAGE ON SCHEMA public TO {role}")
    build.run(f"GRANT CREATE ON SCHEMA leora_pipeline TO {role}")
    build.run(f"ALTER FUNCTION leora_pipeline.after_order_create OWNER TO {role}")


def test_orders_that_row_level_security_would_hide_demote_nobody_and_are_logged(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str, reported: Callable[[], str]
) -> None:
    (customer,) = ordered_again(build, tenant)
    before = everything(build)
    let_own(build, role)
    filter_orders(build)

    result = hook(customer, engine=engine)

    assert everything(build) == before
    assert_left(result, "row-level security", reported)


def test_row_level_security_that_filters_the_functions_owner_changes_nothing(
    engine: sa.Engine, build: CrmBuilder, tenant: UUID, role: str
) -> None:
    (customer,) = ordered_again(build, tenant)
    before = everything(build)
    let_own(build, role)
    filter_orders(build)

    with transaction(build.engine) as crm:
        crm.exec_driver_sql("SET LOCAL row_security = on")
        assert call(crm, customer) == {customer: "deferred"}

    assert everything(build) == before
    assert build.pending() == {customer}


@pytest.mark.parametrize("as_of_caller", [False, True])
def test_a_trigger_of_the_crm_that_raises_is_logged(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    reported: Callable[[], str],
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
    assert_left(result, "the disk is made of cheese", reported, count=2)


def test_tables_that_are_locked_are_not_waited_for(
    engine: sa.Engine,
    build: CrmBuilder,
    tenant: UUID,
    background: ThreadPoolExecutor,
    reported: Callable[[], str],
) -> None:
    (customer,) = ordered_again(build, tenant)

    with transaction(build.engine) as migration:
        lock_our_tables(migration)
        result = background.submit(hook, customer, engine=engine).result(timeout=PATIENCE)

    assert_left(result, "lock timeout", reported)
    assert build.pending() == {customer}
