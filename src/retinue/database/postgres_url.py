"""A Postgres URL: what libpq reads of it, what Retinue does, and what may be shown of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from retinue.errors import ConfigError

SCHEMES = ("postgresql://", "postgres://")
SCHEMA = "retinue"

_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,39}")
_SECRETS = ("password", "sslpassword")

_DEFAULTS = {
    "application_name": "retinue",
    "client_encoding": "UTF8",
    "connect_timeout": "10",
    # A server or network that vanished without a word is noticed within half a minute.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}

_FORM = "It looks like postgresql://user@host:5432/database; special characters are percent-encoded."


@dataclass(frozen=True, slots=True)
class Address:
    """Where the tables are."""

    parameters: dict[str, str] = field(repr=False)
    """What libpq is given; it adds ``PGHOST``, ``PGPASSFILE`` and the like for what is not in the URL."""
    schema: str
    shown: str
    """The URL without passwords."""

    @property
    def channel(self) -> str:
        """The name under which changes of runs are told."""
        return f"{self.schema}_runs"

    def key(self, kind: str, name: str) -> int:
        """The number of an advisory lock. Locks are shared by all schemas of a database, so ours is part of it."""
        digest = hashlib.sha256(f"{self.schema}\0{kind}\0{name}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big", signed=True)

    def without_secrets(self, text: str) -> str:
        for name in _SECRETS:
            if secret := self.parameters.get(name):
                text = text.replace(secret, "***")
        return text


def parse(url: str) -> Address:
    """Read a URL: libpq's form, with ``schema=NAME`` among its parameters. Raises `ConfigError`."""
    base, _, query = url.partition("?")
    pairs = [pair for pair in query.split("&") if pair]
    schema = SCHEMA
    for pair in [pair for pair in pairs if pair.startswith("schema=")]:
        schema = unquote(pair.removeprefix("schema="))
        pairs.remove(pair)
    if _NAME.fullmatch(schema) is None:
        raise ConfigError(
            f"{schema!r} cannot be the database's schema", hint="Use small letters, digits and _, at most 40."
        )
    try:
        given = conninfo_to_dict(f"{base}?{'&'.join(pairs)}" if pairs else base)
    except ProgrammingError as error:
        # What libpq says about a malformed URL repeats all of it.
        unknown = re.match(r'invalid URI query parameter: "(\w+)"', str(error))
        about = f"has an unknown parameter {unknown[1]}" if unknown else "cannot be read"
        raise ConfigError(f"the URL of the Postgres database {about}", hint=_FORM) from None
    parameters = {name: str(value) for name, value in given.items() if value is not None}
    return Address({**_DEFAULTS, **parameters}, schema, _shown(parameters, schema))


def _shown(parameters: dict[str, str], schema: str) -> str:
    hosts = parameters.get("host", "").split(",")
    ports = parameters.get("port", "").split(",")
    user, database = parameters.get("user"), parameters.get("dbname", "")
    query: list[str] = []
    place = ""
    if any(host.startswith(("/", "@")) for host in hosts):
        query.append(f"host={quote(','.join(hosts), safe='/,@')}")
        query += [f"port={','.join(ports)}"] if ports != [""] else []
    else:
        ports = ports * len(hosts) if len(ports) == 1 else ports
        named = [f"[{host}]" if ":" in host else host for host in hosts]
        place = ",".join(f"{h}:{p}" if p else h for h, p in zip(named, ports, strict=False))
    query += [f"schema={schema}"] if schema != SCHEMA else []
    at = f"{quote(user, safe='')}@" if user else ""
    return f"postgresql://{at}{place}/{quote(database, safe='')}" + (f"?{'&'.join(query)}" if query else "")
