"""Database URLs, as libpq and as Prisma write them, and what a user reads about a bad one."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from leora_pipeline.core.database.connection import transaction
from leora_pipeline.core.database.engine import create_engine
from leora_pipeline.core.database.urls import read_url, shown_url
from leora_pipeline.core.errors import LeoraError, WrongUsageError
from leora_pipeline.core.settings import Settings


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("postgresql://u:p@db:5432/crm", "postgresql+psycopg://u:***@db:5432/crm"),
        ("postgres://u:p@db/crm", "postgresql+psycopg://u:***@db/crm"),
        ("postgresql+psycopg2://u@db/crm", "postgresql+psycopg://u@db/crm"),
        ("postgresql:///crm?host=/tmp/socket", "postgresql+psycopg:///crm?host=%2Ftmp%2Fsocket"),
        ("postgresql://%2Ftmp%2Fsocket/crm", "postgresql+psycopg:///crm?host=%2Ftmp%2Fsocket"),
        ("postgresql://u@[::1]:5433/crm", "postgresql+psycopg://u@[::1]:5433/crm"),
        (
            "postgresql://u@a:5432,b:5433/crm?target_session_attrs=read-write",
            "postgresql+psycopg://u@/crm?host=a%3A5432&host=b%3A5433&target_session_attrs=read-write",
        ),
        (
            "postgresql://u:p@db/crm?schema=public&pgbouncer=true&connection_limit=1&sslmode=require",
            "postgresql+psycopg://u:***@db/crm?sslmode=require",
        ),
    ],
)
def test_a_url_is_read_without_what_only_prisma_knows(url: str, read: str) -> None:
    assert create_engine(url).url.render_as_string() == read


def test_special_characters_are_percent_encoded() -> None:
    url = read_url("postgresql://me%40home:p%2Fa%3As%25s%23:w@db/my%20crm").url

    assert (url.username, url.password, url.database) == ("me@home", "p/a:s%s#:w", "my crm")


def test_the_schema_is_prismas() -> None:
    assert read_url("postgresql://db/crm?schema=Vino%20%26%20Co").schema == "Vino & Co"
    assert read_url("postgresql://db/crm").schema is None


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ("sslaccept=strict", {"sslmode": "verify-full", "sslrootcert": "system"}),
        ("sslmode=require&sslaccept=strict", {"sslmode": "verify-full", "sslrootcert": "system"}),
        ("sslaccept=strict&sslcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        (
            "sslaccept=strict&sslcert=/c.pem&sslkey=/c.key&sslrootcert=/ca.pem",
            {
                "sslmode": "verify-full",
                "sslcert": "/c.pem",
                "sslkey": "/c.key",
                "sslrootcert": "/ca.pem",
            },
        ),
        ("sslmode=require&sslaccept=accept_invalid_certs", {"sslmode": "require"}),
        ("sslmode=verify-ca&sslrootcert=/a", {"sslmode": "verify-ca", "sslrootcert": "/a"}),
    ],
)  # fmt: skip
def test_prismas_security_options_mean_what_they_mean_there(
    options: str, read: dict[str, str]
) -> None:
    assert dict(read_url(f"postgresql://u:p@db/crm?{options}").url.query) == read


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ("sslidentity=client.p12&sslpassword=s3cret", "sslidentity .* cannot be honoured"),
        ("sslmode=disable&sslaccept=strict", "contradict each other"),
        ("sslmode=verify-full&sslaccept=accept_invalid_certs", "contradict each other"),
        ("sslaccept=s3cret", "neither strict nor accept_invalid_certs"),
        ("ssl=true", "neither libpq nor Prisma knows: ssl"),
        ("uselibpqcompat=s3cret", "neither libpq nor Prisma knows: uselibpqcompat"),
    ],
)
def test_a_security_option_that_cannot_be_honoured_is_refused_and_not_dropped(
    options: str, refusal: str
) -> None:
    with pytest.raises(WrongUsageError, match=refusal) as refused:
        read_url(f"postgresql://u:p@db/crm?{options}", variable="LEORA_DAGSTER_DATABASE_URL")

    assert str(refused.value).startswith("LEORA_DAGSTER_DATABASE_URL")
    assert "s3cret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "crm",
        "mysql://u:secret@db/crm",
        "postgresql://u:secret@db:x/",
        "postgresql://u:secret@db:70000/crm",
        "postgresql://u:secret@db:5432:1/crm",
        "postgresql://u:1@secret/secret@db/crm",
        "postgresql://u:secret#secret@db/crm",
        "postgresql://u:1?secret=secret@db/crm",
        "postgresql://u:12/secret@db/crm",
        "postgresql://u:secret%zz@db/crm",
        "postgresql://u:secret@db/crm#secret",
        "postgresql://u:sec ret@db/crm",
        "postgresql://u:secret@db/crm\n",
        "postgresql://u:secret@db,,db/crm",
        "postgresql:secret",
        "://u:secret@db",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(WrongUsageError, match="LEORA_DATABASE_URL") as caught:
        create_engine(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


PASSWORDS = st.text(
    st.sampled_from("Zq1xK9/@:?#[]%&=;,+ .-_~$!'()*\\\"<>^`{|}\n\té"), min_size=6, max_size=24
)


@given(PASSWORDS)
def test_no_part_of_a_password_that_was_put_in_as_it_is_is_ever_shown(password: str) -> None:
    url = f"postgresql://leora:{password}@127.0.0.1:1/crm"
    try:
        engine = create_engine(url)
    except LeoraError as error:
        shown = str(error)
    else:
        with pytest.raises(LeoraError) as unreachable, transaction(engine):
            pass
        engine.dispose()
        shown = f"{unreachable.value} {engine!r} {shown_url(engine.url)}"
    names = ("LEORA_DATABASE_URL", "LEORA_DAGSTER_DATABASE_URL", "LEORA_ALERT_URLS")
    shown += repr(Settings(dict.fromkeys(names, url)))
    # What is part of every refusal is none of the password's.
    known = "postgresql://user:password@host:5432/database, special characters %40 %2F %23 %3F %25"
    for part in re.findall(r"[Zq1xK9é]{3,}", password):
        assert part not in shown.replace(known, ""), shown


def test_several_hosts_are_all_shown_where_none_can_be_reached() -> None:
    engine = create_engine("postgresql://u:secret@127.0.0.1:1,127.0.0.1:2/crm")
    both = r"127\.0\.0\.1:1, 127\.0\.0\.1:2"
    with pytest.raises(LeoraError, match=both) as refused, transaction(engine):
        pass
    engine.dispose()
    assert "secret" not in str(refused.value)
