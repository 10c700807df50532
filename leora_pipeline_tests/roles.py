"""Roles of the database: made for a test, and gone after it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import sqlalchemy as sa

from leora_pipeline.core.crm.requirements import open_doors
from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.migrations import print_roles
from leora_pipeline_tests.crm_builder import CrmBuilder
from leora_pipeline_tests.databases import psql


def make_roles(url: str) -> None:
    """Makes the pipeline's roles in a database, as an administrator does."""
    printed = io.StringIO()
    print_roles(printed)
    psql(url, printed.getvalue())


def take_back(admin: sa.Engine) -> None:
    """Takes back what the installation alone needed, as `leora migrate` asks for."""
    with transaction(admin) as connection:
        for door in open_doors(connection):
            connection.exec_driver_sql(door[door.index("(REVOKE") + 1 : door.rindex(")")])


@contextmanager
def made_role(build: CrmBuilder, attributes: str = "", grants: Sequence[str] = ()) -> Iterator[str]:
    """Makes a role that may log in and has the grants; yields its name."""
    name = f"leora_{uuid4().hex[:12]}"
    build.run(f"CREATE ROLE {name} LOGIN {attributes}")
    try:
        for grant in grants:
            build.run(f"GRANT {grant} TO {name}")
        yield name
    finally:
        build.run(f"DROP OWNED BY {name} CASCADE")
        build.run(f"DROP ROLE {name}")


def url_as(url: str | sa.URL, role: str) -> str:
    """Returns a database's URL for another role."""
    other = sa.make_url(url).set(drivername="postgresql", username=role)
    return other.render_as_string(hide_password=False)


@contextmanager
def connected_as(engine: sa.Engine, role: str) -> Iterator[sa.Engine]:
    """Connects to an engine's database as another role."""
    other = create_engine(url_as(engine.url, role))
    try:
        yield other
    finally:
        other.dispose()


def grant_runtime(build: CrmBuilder, role: str) -> None:
    """Grants a role what leora_runtime has, one by one, so that a test can take one away."""
    granted = build.run(
        "SELECT a.privilege_type AS privilege, c.oid::regclass::text AS object "
        "FROM pg_class AS c, aclexplode(c.relacl) AS a "
        "WHERE a.grantee = 'leora_runtime'::regrole "
        "UNION ALL "
        "SELECT format('%s (%I)', x.privilege_type, a.attname), a.attrelid::regclass::text "
        "FROM pg_attribute AS a, aclexplode(a.attacl) AS x "
        "WHERE x.grantee = 'leora_runtime'::regrole "
        "UNION ALL "
        "SELECT 'USAGE', 'SCHEMA ' || n.oid::regnamespace "
        "FROM pg_namespace AS n, aclexplode(n.nspacl) AS a "
        "WHERE a.grantee = 'leora_runtime'::regrole "
        "UNION ALL "
        "SELECT 'EXECUTE', 'FUNCTION ' || p.oid::regprocedure "
        "FROM pg_proc AS p, aclexplode(p.proacl) AS a "
        "WHERE a.grantee = 'leora_runtime'::regrole"
    )
    for row in granted:
        build.run(f"GRANT {row.privilege} ON {row.object} TO {role}")
