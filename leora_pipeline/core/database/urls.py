"""Database URLs: what a user writes, read strictly, the same wherever one stands.

libpq's form and Prisma's are read. What cannot be read is refused without being shown, since what
looks like a host may be the rest of a password. A security option that cannot be honoured is
refused, never dropped. What does not belong here: connecting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from urllib.parse import parse_qsl, unquote

import sqlalchemy as sa

from leora_pipeline.core.errors import WrongUsageError

# Of RFC 3986 what needs no percent-encoding, without what parts a URL: a password that holds one of
# `@ / ? # [ ]` as it is makes the rest of it look like a host, a database or an option.
_TEXT = r"(?:[\w.~!$&'()*+,;=\-]|%[0-9A-Fa-f]{2})"
_HOST = rf"(?:\[[0-9A-Fa-f:.]+\]|{_TEXT.replace(',', '')}+)(?::\d{{1,5}})?"
_URL = re.compile(
    rf"(?:postgres|postgresql)(?:\+psycopg2?)?://"
    rf"(?:(?P<user>{_TEXT}*)(?::(?P<password>(?:{_TEXT}|:)*))?@)?"
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)?"
    rf"(?:/(?P<database>(?:{_TEXT}|:)*))?"
    rf"(?:\?(?P<query>(?:{_TEXT}|[:/])*))?",
    re.ASCII,
)

_OF_PRISMAS_POOL = frozenset(
    {"connection_limit", "pgbouncer", "pool_timeout", "socket_timeout", "statement_cache_size"}
)
"""What Prisma's own pool is told: it means nothing to another client, and is left out."""


@dataclass(frozen=True)
class DatabaseUrl:
    """A database URL that has been read.

    Attributes:
        url: Host, role, database and what libpq is told besides; no driver is chosen.
        schema: The schema of the tables, as Prisma's ``?schema=`` names it, or None.
    """

    url: sa.URL
    schema: str | None = None

    def for_driver(self, driver: str) -> sa.URL:
        """Returns the URL for one of SQLAlchemy's drivers."""
        return self.url.set(drivername=f"postgresql+{driver}")


def read_url(text: str, *, variable: str = "LEORA_DATABASE_URL") -> DatabaseUrl:
    """Reads a database URL.

    Several hosts may be named (``host1:5432,host2:5432``): the first that answers is taken. Of
    Prisma's parameters, ``schema`` becomes the search path; ``sslaccept=strict`` becomes libpq's
    ``sslmode=verify-full``, with the certificate of the authority that ``sslcert`` names, or the
    system's (without ``sslaccept``, ``sslcert`` is libpq's: the client's own certificate).

    Args:
        text: The URL.
        variable: Where it stands, for the refusal.

    Raises:
        WrongUsageError: It cannot be read, has an option that nobody knows, or a security option
            that cannot be honoured.
    """
    match = _URL.fullmatch(text)
    ports = re.findall(r":(\d+)(?=,|$)", match["hosts"] or "") if match else []
    if match is None or any(not 0 < int(port) < 65536 for port in ports):
        raise WrongUsageError(
            f"{variable} cannot be read; it looks like "
            "postgresql://user:password@host:5432/database, special characters of the password "
            "percent-encoded (@ as %40, / as %2F, # as %23, ? as %3F, % as %25)"
        )
    options = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    schema = options.pop("schema", None) or None
    _translate_ssl(options, variable)
    unknown = sorted(options.keys() - _OF_PRISMAS_POOL - _libpq_options())
    if unknown:
        raise WrongUsageError(
            f"{variable} has an option that neither libpq nor Prisma knows: {', '.join(unknown)}; "
            "take it out"
        )
    query: dict[str, str | tuple[str, ...]] = {
        name: value for name, value in options.items() if name not in _OF_PRISMAS_POOL
    }
    hosts = [unquote(host) for host in (match["hosts"] or "").split(",") if host]
    host, port = None, None
    if len(hosts) == 1 and "/" not in hosts[0]:
        host, port = _host_and_port(hosts[0])
    elif hosts:  # A socket's folder, or several: SQLAlchemy takes them as an option.
        query["host"] = tuple(hosts) if len(hosts) > 1 else hosts[0]
    return DatabaseUrl(
        sa.URL.create(
            "postgresql",
            username=_decoded(match["user"]),
            password=_decoded(match["password"]),
            host=host,
            port=port,
            database=_decoded(match["database"]),
            query=query,
        ),
        schema,
    )


def shown_url(url: sa.URL) -> str:
    """Returns where a URL leads, without user, password or options."""
    host = url.host or url.query.get("host") or "localhost"
    if isinstance(host, tuple):
        return f"{', '.join(host)}, database {url.database}"
    return f"{host}:{url.port or 5432}/{url.database}"


def _translate_ssl(options: dict[str, str], variable: str) -> None:
    """Puts libpq's options in the place of Prisma's, or refuses what has no counterpart."""
    if "sslidentity" in options:
        raise WrongUsageError(
            f"{variable}: sslidentity (a PKCS 12 file) cannot be honoured; give libpq's sslcert "
            "and sslkey instead (`openssl pkcs12 -in FILE -out client.pem`)"
        )
    accept = options.pop("sslaccept", None)
    if accept not in (None, "strict", "accept_invalid_certs"):
        raise WrongUsageError(
            f"{variable}: sslaccept is neither strict nor accept_invalid_certs; correct it"
        )
    mode = options.get("sslmode")
    if (accept == "strict" and mode in ("disable", "allow")) or (
        accept == "accept_invalid_certs" and mode in ("verify-ca", "verify-full")
    ):
        raise WrongUsageError(
            f"{variable}: sslmode={mode} and sslaccept={accept} contradict each other; "
            "leave one out"
        )
    if accept == "strict":
        options["sslmode"] = "verify-full"
        authority = options.pop("sslcert", None) if "sslkey" not in options else None
        options.setdefault("sslrootcert", authority or "system")


def _host_and_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    return host.strip("[]"), int(port) if port else None


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


@cache
def _libpq_options() -> frozenset[str]:
    from psycopg import pq

    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
