"""What of Retinue is in a Postgres database, and how it gets there: `retinue db status` and `retinue db upgrade`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg

from retinue.database.base import Health, Row
from retinue.database.migrations import newest, numbered
from retinue.database.postgres_errors import is_lost, lost, translate
from retinue.database.postgres_session import check_version, connect, schema_of, server_name
from retinue.database.postgres_url import Address, parse
from retinue.errors import DatabaseCorrupt, SchemaTooNew

T = TypeVar("T")

_TABLE = """
    CREATE TABLE migrations (
        number     INTEGER PRIMARY KEY,
        applied_at DOUBLE PRECISION NOT NULL DEFAULT extract(epoch from clock_timestamp())
    )
"""


def status(url: str) -> Health:
    """What is there; a schema of 0 where nothing is. Raises `DatabaseError`, `ConfigError`. Blocks."""
    return health(parse(url))


def health(address: Address) -> Health:
    def look(connection: psycopg.Connection[Row]) -> Health:
        schema = schema_of(connection, address) or 0
        return Health(server=server_name(connection), schema=schema, newest=newest("postgres"))

    return _on(address, look)


def upgrade(url: str) -> list[int]:
    """Make what is missing, in one transaction, and return the numbers of the migrations that were applied. Blocks.

    Several processes may do it at once. Raises `DatabaseCorrupt` for a schema that holds somebody else's tables,
    `SchemaTooNew`, and what `PostgresDatabase.open` raises.
    """
    address = parse(url)
    return _on(address, lambda connection: _upgrade(connection, address, numbered("postgres")))


def _on(address: Address, use: Callable[[psycopg.Connection[Row]], T]) -> T:
    connection = connect(address)
    try:
        check_version(connection, address)
        return use(connection)
    except psycopg.Error as error:
        raise (lost(address) if is_lost(error, connection) else translate(error, address)) from error
    finally:
        connection.close()


def _upgrade(connection: psycopg.Connection[Row], address: Address, known: list[tuple[int, str]]) -> list[int]:
    schema = address.schema
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (address.key("upgrade", ""),))
        current = schema_of(connection, address)
        if current is None:
            found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = %s", (schema,)).fetchone()
            if found != (0,):
                raise DatabaseCorrupt(
                    f"the schema {schema} of {address.shown} holds tables that are not Retinue's",
                    hint="Name another one in the URL: ?schema=NAME. This one was left as it is.",
                )
            if connection.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() == (None,):
                connection.execute(f"CREATE SCHEMA {schema}".encode())
        if current is not None and current > known[-1][0]:
            raise SchemaTooNew(
                f"the database {address.shown} has schema {current}; this Retinue knows up to {known[-1][0]}"
            )
        connection.execute(f"SET LOCAL search_path = {schema}".encode())
        if current is None:
            connection.execute(_TABLE)
        missing = [(number, script) for number, script in known if number > (current or 0)]
        for number, script in missing:
            connection.execute(script.encode())
            connection.execute("INSERT INTO migrations (number) VALUES (%s)", (number,))
        return [number for number, _ in missing]
