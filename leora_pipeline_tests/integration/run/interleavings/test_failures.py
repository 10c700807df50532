"""Failures in the middle of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import sqlalchemy as sa

from leora_pipeline import (
    LeoraError,
    TenantsFailedError,
    update_account_types,
)
from leora_pipeline.core.customers.refresh import refresh_customers
from leora_pipeline.core.database.connection import stream_rows, transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.run import refresh as refresh_step
from leora_pipeline.core.run.apply import apply
from leora_pipeline.core.run.plan import plan
from leora_pipeline.core.run.publish import publish
from leora_pipeline.core.run.refresh import customers_to_refresh, refresh
from leora_pipeline.core.run.run import resolve_run
from leora_pipeline.core.run.update import run_all_steps
from leora_pipeline_tests.crm_builder import CrmBuilder, ago
from leora_pipeline_tests.interleaving import add_customers, failed_run, make_batches
from leora_pipeline_tests.roles import grant_runtime
from leora_pipeline_tests.scenes import (
    WRITER,
    everything,
    refuse_rows,
    settle,
)


@pytest.mark.parametrize(
    "table",
    [
        '"Customer"',
        "leora_pipeline.customer_state",
        "leora_pipeline.account_type_change",
        "leora_pipeline.account_type_transition",
        "leora_pipeline.account_type_distribution",
    ],
)
def test_a_tenant_that_fails_at_any_step_leaves_the_others_done(
    engine: sa.Engine, build: CrmBuilder, table: str
) -> None:
    slugs = ("cellar", "dry-goods", "market")
    tenants = [build.tenant(slug) for slug in slugs]
    customers = [build.customer(tenant, orders=(ago(days=1),)) for tenant in tenants]
    column = "tenant_id" if table.startswith("leora_pipeline") else '"tenantId"'
    refuse_rows(build, table, column, tenants[1])

    with pytest.raises(TenantsFailedError) as failure:
        update_account_types(engine=engine)

    assert failure.value.errors == {"dry-goods": "the disk is made of cheese"}
    assert "dry-goods" in str(failure.value)
    assert [result.tenant_slug for result in failure.value.results] == ["cellar", "market"]
    assert [build.type_of(customers[i]) for i in (0, 2)] == ["ACTIVE", "ACTIVE"]
    reported = table == "leora_pipeline.account_type_distribution"
    assert build.type_of(customers[1]) == ("ACTIVE" if reported else None)
    assert len(build.log(customers[1])) == (1 if reported else 0)
    assert build.run(
        'SELECT t.slug, r.status, r.error FROM leora_pipeline.tenant_run AS r JOIN "Tenant" AS t '
        "ON t.id = r.tenant_id WHERE r.finished_at IS NOT NULL ORDER BY t.slug"
    ) == [
        ("cellar", "succeeded", None),
        ("dry-goods", "failed", "the disk is made of cheese"),
        ("market", "succeeded", None),
    ]
    assert {row[0] for row in distribution(build)} == {tenants[0], tenants[2]}

    build.run("DROP FUNCTION refuse_rows CASCADE")
    settle(engine, build)
    assert build.type_of(customers[1]) == "ACTIVE"
    assert len(distribution(build)) == 3


def distribution(build: CrmBuilder) -> list[Any]:
    return build.run("SELECT tenant_id FROM leora_pipeline.account_type_distribution")


def test_a_batch_that_fails_takes_only_its_own_tenant_with_it(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batches(monkeypatch, 10)
    tenants = [build.tenant(slug) for slug in ("cellar", "dry-goods")]
    for tenant in tenants:
        add_customers(build, tenant, 35)
    third_batch = build.run(
        'SELECT id FROM "Customer" WHERE "tenantId" = :tenant ORDER BY id OFFSET 25 LIMIT 1',
        tenant=tenants[0],
    )[0].id
    refuse_rows(build, '"Customer"', "id", third_batch)

    with pytest.raises(TenantsFailedError):
        update_account_types(engine=engine)

    typed = 'SELECT count("accountType") FROM "Customer" WHERE "tenantId" = :tenant'
    assert build.run(typed, tenant=tenants[0]) == [(20,)], "two batches, and no half of the third"
    assert build.run(typed, tenant=tenants[1]) == [(35,)]
    assert len(build.log()) == 55


def test_a_read_that_breaks_off_fails_all_tenants_and_demotes_nobody(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refresh_step, "REFRESH_BATCH", 500)
    tenants = [build.tenant(slug) for slug in ("cellar", "dry-goods")]
    for tenant in tenants:
        add_customers(build, tenant, 8_000)  # More than sockets buffer.

    def cut_off(
        connection: sa.Connection, query: str, parameters: dict[str, object], *, size: int
    ) -> Iterator[tuple[object, ...]]:
        rows = stream_rows(connection, query, parameters, size=size)
        yield from islice(rows, 1_200)
        session = connection.connection.driver_connection
        assert session is not None
        build.run("SELECT pg_terminate_backend(:pid)", pid=session.info.backend_pid)
        yield from rows

    run = resolve_run(engine)
    with monkeypatch.context() as patch:
        patch.setattr(refresh_step, "stream_rows", cut_off)
        with pytest.raises((LeoraError, sa.exc.SQLAlchemyError)):
            run_all_steps(engine, run)

    assert build.run('SELECT count("accountType") FROM "Customer"') == [(0,)]
    assert build.log() == []
    ((status, error),) = failed_run(build, run)
    assert status == "failed"
    assert "connection" in error
    assert distribution(build) == []

    settle(engine, build)
    assert build.run('SELECT count("accountType") FROM "Customer"') == [(16_000,)]


@pytest.fixture
def filtered(engine: sa.Engine, build: CrmBuilder) -> Iterator[sa.Engine]:
    """Connects as a role that row level security would filter, once it is switched on."""
    build.run("DROP ROLE IF EXISTS leora_filtered")
    build.run("CREATE ROLE leora_filtered LOGIN")
    grant_runtime(build, "leora_filtered")
    url = engine.url.set(username="leora_filtered").render_as_string(hide_password=False)
    created = create_engine(url)
    yield created
    created.dispose()
    build.run("DROP OWNED BY leora_filtered")
    build.run("DROP ROLE leora_filtered")


def switch_on_row_level_security(build: CrmBuilder, table: str) -> None:
    build.run(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY')
    build.run(
        f'CREATE POLICY own ON "{table}" '
        "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
    )


def test_row_level_security_switched_on_before_the_read_fails_the_run(
    filtered: sa.Engine, build: CrmBuilder
) -> None:
    tenants = [build.tenant(slug) for slug in ("cellar", "dry-goods")]
    customers = [build.customer(tenant, orders=(ago(days=1),)) for tenant in tenants]
    update_account_types(engine=filtered)
    before = everything(build)
    run = resolve_run(filtered)
    switch_on_row_level_security(build, "Order")

    with pytest.raises((LeoraError, sa.exc.SQLAlchemyError), match="row-level security"):
        run_all_steps(filtered, run)

    assert everything(build) == before
    assert [build.type_of(customer) for customer in customers] == ["ACTIVE", "ACTIVE"]
    ((status, error),) = failed_run(build, run)
    assert status == "failed"
    assert "row-level security" in error


def test_row_level_security_switched_on_before_the_refresh_demotes_nobody(
    filtered: sa.Engine, build: CrmBuilder
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "ACTIVE", orders=(ago(days=1),))
    run = resolve_run(filtered)
    candidates = list(customers_to_refresh(filtered, run))
    switch_on_row_level_security(build, "Order")

    assert candidates == [(tenant, [customer])]
    with (
        pytest.raises(sa.exc.ProgrammingError, match="row-level security"),
        transaction(filtered) as connection,
    ):
        refresh_customers(connection, WRITER, tenant, [customer])

    assert everything(build)[1:] == [[], []]


@pytest.mark.parametrize("table", ["Customer", "Order"])
def test_row_level_security_switched_on_before_the_apply_writes_nothing_wrong(
    filtered: sa.Engine, build: CrmBuilder, table: str
) -> None:
    tenant = build.tenant()
    customer = build.customer(tenant, "TARGET", orders=(ago(days=1),))
    run = resolve_run(filtered)
    refresh(filtered, run)
    switch_on_row_level_security(build, table)

    with suppress(TenantsFailedError, sa.exc.ProgrammingError):
        plan(filtered, run)
        apply(filtered, run)
        publish(filtered, run)

    # The customers out of sight are an error; the orders are no longer read.
    assert build.type_of(customer) == ("TARGET" if table == "Customer" else "ACTIVE")
    assert failed_run(build, run)[0].status == ("failed" if table == "Customer" else "succeeded")


def test_an_interrupted_run_is_recorded_as_failed_and_the_next_one_makes_up_for_it(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_batches(monkeypatch, 10)
    add_customers(build, build.tenant(), 35)

    def interrupt(step: str, customers: int) -> None:
        if step == "apply":
            raise KeyboardInterrupt

    run = replace(resolve_run(engine), on_progress=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all_steps(engine, run)

    assert failed_run(build, run) == [("failed", "the run was interrupted")]
    assert build.run('SELECT count("accountType") FROM "Customer"') == [(10,)]
    settle(engine, build)
    assert build.run('SELECT count("accountType") FROM "Customer"') == [(35,)]
    assert len(build.log()) == 35
