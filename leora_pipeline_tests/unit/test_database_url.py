"""Database URLs, as libpq and as Prisma write them, and what a user reads about a bad one."""

from __future__ import annotations

import pytest

from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.errors import WrongUsageError


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("postgresql://u:p@db:5432/crm", "postgresql+psycopg://u:***@db:5432/crm"),
        ("postgres://u:p@db/crm", "postgresql+psycopg://u:***@db/crm"),
        ("postgresql:///crm?host=/tmp/socket", "postgresql+psycopg:///crm?host=%2Ftmp%2Fsocket"),
        (
            "postgresql://u:p@db/crm?schema=public&pgbouncer=true&connection_limit=1&sslmode=require",
            "postgresql+psycopg://u:***@db/crm?sslmode=require",
        ),
    ],
)
def test_a_url_is_read_without_what_only_prisma_knows(url: str, read: str) -> None:
    assert create_engine(url).url.render_as_string() == read


@pytest.mark.parametrize(
    "url", ["", "crm", "mysql://u:secret@db/crm", "postgresql://u:secret@db:x/"]
)
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(WrongUsageError, match="LEORA_DATABASE_URL") as caught:
        create_engine(url)
    assert "secret" not in str(caught.value)
