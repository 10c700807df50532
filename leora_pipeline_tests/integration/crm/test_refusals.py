"""What the pipeline refuses to work with, and that it says so in one line with the way out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from leora_pipeline import LeoraError, UnfitDatabaseError, WrongUsageError, update_account_types
from leora_pipeline.core.crm.requirements import require_fit_database
from leora_pipeline.core.database import engine as engine_settings
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline_tests.crm_builder import CrmBuilder, ago

POLICY = (
    'CREATE POLICY own ON "{0}" '
    "USING (\"tenantId\"::text = current_setting('app.current_tenant_id', true))"
)


def url_of(engine: sa.Engine, **parts: str) -> str:
    """Returns an engine's URL, as a user writes one, with other parts."""
    return engine.url.set(drivername="postgresql", **parts).render_as_string(hide_password=False)


def role_of(engine: sa.Engine) -> str:
    assert engine.url.username
    return engine.url.username


def refused(engine: sa.Engine) -> str:
    """Returns the refusal, which is one line."""
    with pytest.raises(UnfitDatabaseError) as refusal:
        require_fit_database(engine)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# Row level security.


@pytest.mark.parametrize("table", ["Customer", "Order"])
def test_a_role_that_row_level_security_filters_is_refused_by_name(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine], table: str
) -> None:
    role = connect_as()
    require_fit_database(role)
    build.run(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY')
    build.run(POLICY.format(table))

    refusal = refused(role)

    assert f'"{table}"' in refusal
    assert f"ALTER ROLE {role_of(role)} BYPASSRLS" in refusal
    with pytest.raises(UnfitDatabaseError):
        update_account_types(engine=role)


def test_row_level_security_without_any_policy_is_refused_too(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine]
) -> None:
    role = connect_as()
    build.run('ALTER TABLE "Tenant" ENABLE ROW LEVEL SECURITY')

    assert '"Tenant"' in refused(role)


def test_the_owner_of_the_tables_is_refused_only_where_security_is_forced(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine]
) -> None:
    role = connect_as()
    build.run(f'ALTER TABLE "Order" OWNER TO {role_of(role)}')
    build.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    build.run(POLICY.format("Order"))
    require_fit_database(role)

    build.run('ALTER TABLE "Order" FORCE ROW LEVEL SECURITY')

    assert '"Order"' in refused(role)


def test_a_role_with_bypassrls_sees_everything_and_works(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine]
) -> None:
    role = connect_as("BYPASSRLS")
    tenant = build.tenant()
    customer = build.customer(tenant, orders=(ago(days=1),))
    for table in ("Customer", "Order"):
        build.run(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY')
        build.run(f'ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY')
        build.run(POLICY.format(table))

    update_account_types(engine=role)

    assert build.type_of(customer) == "ACTIVE"


def test_the_way_out_that_the_refusal_names_works(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine]
) -> None:
    role = connect_as()
    build.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    refusal = refused(role)

    build.run(refusal[refusal.index("(") + 1 : refusal.rindex(")")])

    require_fit_database(role)


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_read_that_would_be_filtered_is_an_error_in_every_transaction(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine], snapshot: bool
) -> None:
    role = connect_as()
    build.customer(build.tenant(), orders=(ago(days=1),))
    read = sa.text('SELECT count(*) FROM "Order"')
    with transaction(role, snapshot=snapshot) as connection:
        assert connection.execute(read).scalar_one() == 1
    build.run('ALTER TABLE "Order" ENABLE ROW LEVEL SECURITY')
    build.run(POLICY.format("Order"))

    for _ in range(2):  # The second one on a connection that was given back and taken again.
        with (
            pytest.raises(sa.exc.ProgrammingError, match="row-level security"),
            transaction(role, snapshot=snapshot) as connection,
        ):
            connection.execute(read)


@pytest.mark.parametrize("of_the_database", ["3s", "0"])
def test_a_transactions_time_limits_are_its_own_and_never_none(
    engine: sa.Engine, build: CrmBuilder, of_the_database: str
) -> None:
    limits = {
        "statement_timeout": "2h",
        "transaction_timeout": "2h",
        "idle_in_transaction_session_timeout": "10s",
    }
    with transaction(build.engine) as connection:
        known = connection.execute(sa.text("SELECT name FROM pg_settings")).scalars().all()
    limits = {name: limit for name, limit in limits.items() if name in known}
    for setting in limits:
        build.run(f"ALTER DATABASE {engine.url.database} SET {setting} = '{of_the_database}'")
    engine.dispose()
    with transaction(engine) as connection:
        for setting, limit in limits.items():
            assert connection.exec_driver_sql(f"SHOW {setting}").scalar_one() == limit


def test_the_crm_gets_its_rows_back_from_a_client_that_says_nothing_more(
    engine: sa.Engine, build: CrmBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_settings, "IDLE_SECONDS", 1)
    customer = build.customer(build.tenant())
    silent = create_engine(url_of(engine))

    def hold(connection: sa.Connection) -> None:
        held = 'UPDATE "Customer" SET "updatedAt" = now() WHERE id = :id'
        connection.execute(sa.text(held), {"id": customer})
        # The CRM waits for the row, and the client does not go on before the CRM has it.
        build.set_type(customer, "TARGET")
        connection.execute(sa.text("SELECT 1"))

    with (
        pytest.raises(sa.exc.DBAPIError, match="idle-in-transaction"),
        transaction(silent) as connection,
    ):
        hold(connection)
    silent.dispose()
    assert build.type_of(customer) == "TARGET"


def test_nothing_of_a_transactions_settings_stays_with_a_poolers_session(
    engine: sa.Engine,
) -> None:
    with transaction(engine) as connection:
        assert connection.exec_driver_sql("SHOW row_security").scalar_one() == "off"
        assert connection.exec_driver_sql("SHOW timezone").scalar_one() == "UTC"
        session = connection.connection.driver_connection
        assert session is not None
        connection.commit()
        assert session.execute("SHOW row_security").fetchone() == ("on",)
        session.rollback()


# Tables, columns, privileges, the schema.


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ('DROP TABLE "Order"', 'lacks "Order";'),
        ('DROP TABLE "Tenant" CASCADE', 'lacks "Tenant";'),
        ('ALTER TABLE "Order" DROP COLUMN "orderedAt"', 'lacks "Order"."orderedAt";'),
        ('ALTER TABLE "Customer" RENAME "accountType" TO type', 'lacks "Customer"."accountType";'),
        ('ALTER TABLE "Customer" DROP COLUMN "lastOrderDate"', '"Customer"."lastOrderDate"'),
        ('ALTER TABLE "Tenant" DROP COLUMN "timezone"', '"Tenant"."timezone"'),
        ('CREATE SCHEMA away; ALTER TABLE "Order" SET SCHEMA away', 'lacks "Order";'),
    ],
)
def test_what_is_missing_of_the_crm_is_named(
    engine: sa.Engine, build: CrmBuilder, sql: str, named: str
) -> None:
    with transaction(build.engine) as connection:
        connection.exec_driver_sql(sql)

    assert named in refused(engine)


@pytest.mark.parametrize(
    ("revoke", "named"),
    [
        ('SELECT ON "Order"', 'SELECT on "Order"'),
        ('SELECT ON "Tenant"', 'SELECT on "Tenant"'),
        ('UPDATE ("accountType") ON "Customer"', 'UPDATE ("accountType") on "Customer"'),
        ('UPDATE ("updatedAt") ON "Customer"', 'UPDATE ("updatedAt") on "Customer"'),
        ('SELECT (slug, name) ON "Tenant"', 'SELECT (slug, name) on "Tenant"'),
        ("USAGE ON SCHEMA leora_pipeline", "leora_pipeline"),
    ],
)
def test_a_privilege_that_is_missing_is_named(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine], revoke: str, named: str
) -> None:
    role = connect_as()
    require_fit_database(role)
    build.run(f"REVOKE {revoke} FROM {role_of(role)}")

    refusal = refused(role)

    assert role_of(role) in refusal
    assert named in refusal


def test_privileges_on_three_columns_are_all_that_it_takes(
    build: CrmBuilder, connect_as: Callable[..., sa.Engine]
) -> None:
    role = connect_as()
    customer = build.customer(build.tenant(), orders=(ago(days=1),))

    update_account_types(engine=role)

    assert build.type_of(customer) == "ACTIVE"


def test_a_database_that_is_not_migrated_names_the_command(crm: sa.Engine) -> None:
    assert "`leora migrate`" in refused(crm)
    require_fit_database(crm, migrated=False)


@pytest.mark.parametrize("revision", ["0000", "9999"])
def test_a_schema_of_another_version_is_refused(
    engine: sa.Engine, build: CrmBuilder, revision: str
) -> None:
    build.run("UPDATE leora_pipeline.alembic_version SET version_num = :it", it=revision)

    refusal = refused(engine)

    assert revision in refusal
    assert "leora migrate" in refusal


# URLs and servers.


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://me:s3cret@host/crm",
        "postgresql://me:s3cret@host:port/crm",
        "postgresql://me:s3cret@host:5432:1/crm",
        "://me:s3cret@host",
        "postgresql+asyncpg:me:s3cret",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_the_password(url: str) -> None:
    with pytest.raises(WrongUsageError) as refusal:
        create_engine(url)

    assert "LEORA_DATABASE_URL" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/crm",
        "postgresql://me:s3cret@nowhere.invalid/crm",
        "postgresql://me:s3cret@localhost/crm?host=/nowhere/at/all",
        "postgresql://me:s3cret@127.0.0.1:1/crm?sslmode=nonsense",
    ],
)
def test_a_server_that_cannot_be_reached_is_one_line_without_the_password(url: str) -> None:
    engine = create_engine(url)
    with pytest.raises(LeoraError) as refusal:
        require_fit_database(engine)
    engine.dispose()

    assert "LEORA_DATABASE_URL" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


def test_of_several_hosts_the_first_that_answers_is_taken(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    customer = build.customer(build.tenant(), orders=(ago(days=1),))
    socket = quote(str(engine.url.query["host"]), safe="")
    both = create_engine(
        f"postgresql://leora_runtime@127.0.0.1:1,{socket}:5432/{engine.url.database}"
        "?target_session_attrs=read-write"
    )

    update_account_types(engine=both)
    both.dispose()

    assert build.type_of(customer) == "ACTIVE"


def test_a_database_that_does_not_exist_is_named(engine: sa.Engine) -> None:
    other = create_engine(url_of(engine, database="no_such_crm"))
    with pytest.raises(LeoraError, match="no_such_crm"):
        require_fit_database(other)
    other.dispose()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_url_as_prisma_writes_it_works(engine: sa.Engine, build: CrmBuilder, scheme: str) -> None:
    customer = build.customer(build.tenant(), orders=(ago(days=1),))
    url = url_of(engine).replace("postgresql://", f"{scheme}://")
    prisma = create_engine(
        f"{url}&schema=public&pgbouncer=true&connection_limit=1&pool_timeout=20&sslmode=disable"
    )

    update_account_types(engine=prisma)
    prisma.dispose()

    assert build.type_of(customer) == "ACTIVE"


def test_the_schema_that_a_url_names_is_the_one_that_is_used(
    engine: sa.Engine, build: CrmBuilder
) -> None:
    customer = build.customer(build.tenant(), orders=(ago(days=1),))
    build.run('CREATE SCHEMA "Vino & Co"')
    build.run('GRANT USAGE ON SCHEMA "Vino & Co" TO leora_runtime')
    elsewhere = create_engine(f"{url_of(engine)}&schema=Vino%20%26%20Co")
    assert '"Tenant", "Customer", "Order"' in refused(elsewhere)

    for table in ("Tenant", "Customer", "Order"):
        build.run(f'ALTER TABLE "{table}" SET SCHEMA "Vino & Co"')
    for enum in ("AccountType", "OrderStatus"):
        build.run(f'ALTER TYPE "{enum}" SET SCHEMA "Vino & Co"')
    update_account_types(engine=elsewhere)

    assert CrmBuilder(elsewhere).type_of(customer) == "ACTIVE"
    elsewhere.dispose()


# Instants and tenants.


@pytest.mark.parametrize(
    "as_of",
    [
        datetime.now(UTC) + timedelta(hours=1),
        datetime(2024, 5, 6),  # noqa: DTZ001
    ],
)
def test_an_instant_of_the_future_or_without_a_time_zone_is_refused(
    engine: sa.Engine, build: CrmBuilder, as_of: datetime
) -> None:
    customer = build.customer(build.tenant(), orders=(ago(days=1),))

    with pytest.raises(WrongUsageError, match="as_of"):
        update_account_types(as_of=as_of, engine=engine)

    assert build.type_of(customer) is None


@pytest.mark.parametrize("argument", ["tenant_slugs", "allow_mass_change"])
def test_an_unknown_tenant_is_refused_before_anything_is_done(
    engine: sa.Engine, build: CrmBuilder, argument: str
) -> None:
    customer = build.customer(build.tenant("cellar"), orders=(ago(days=1),))

    with pytest.raises(WrongUsageError, match=r"unknown tenant celar; known are: cellar"):
        update_account_types(**{argument: ["celar"]}, reason="archived", engine=engine)

    assert build.type_of(customer) is None
    assert build.run("SELECT FROM leora_pipeline.tenant_run") == []
