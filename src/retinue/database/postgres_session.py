"""One connection to Postgres and its transactions. A thread has it for itself.

**A commit is two steps in one message.** The first commits without waiting for the disk, which lets go of the locks;
the second, a commit of one small row, waits for the disk, and with it for all that was committed before. Nothing is
reported as done before the second: what depends on it meanwhile lies behind it in the log, so it can only be kept
together with it. Locks that many need (a run's row, the audit trail's end) are therefore not held while a disk turns.

**A lost commit is looked up.** Each transaction writes its number to its connection's row. After a loss the new
connection takes the name's lock, which the server gives away once the old connection and its transaction are over; then
the row tells.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper

from retinue.database.base import Row
from retinue.database.jobs import Calls
from retinue.database.migrations import newest
from retinue.database.postgres_errors import refused
from retinue.database.postgres_sql import native
from retinue.database.postgres_url import Address
from retinue.database.postgres_wire import Statement, Wire
from retinue.errors import DatabaseError, SchemaTooNew, SchemaTooOld

OLDEST = 14
"""The oldest major version of Postgres that is supported."""

LOCK_TIMEOUT = 30.0
"""Seconds that a transaction waits for another's lock."""

IDLE_TIMEOUT = 10.0
"""Seconds after which the server ends a transaction whose process no longer speaks: frozen, or cut off."""

_CLOCK = "extract(epoch from clock_timestamp())::float8"
_NOW: Statement = (f"SELECT {_CLOCK}".encode(), ())
_BEGIN: Statement = (b"BEGIN", ())
_BEGIN_READ: Statement = (b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", ())
_SOON: Statement = (b"SET LOCAL synchronous_commit = off", ())
_NOT_SOON: Statement = (b"SET LOCAL synchronous_commit = on", ())
_COMMIT: Statement = (b"COMMIT", ())
_ROLLBACK: Statement = (b"ROLLBACK", ())
_NOTIFY = b"SELECT pg_notify($1, $2)"
_DONE = (
    b"INSERT INTO writers (id, done, kept, seen) VALUES ($1, $2, 0, $3) "
    b"ON CONFLICT (id) DO UPDATE SET done = excluded.done, seen = excluded.seen"
)
_KEPT = b"UPDATE writers SET kept = $2 WHERE id = $1"
_LAST = b"SELECT done FROM writers WHERE id = $1"
_FORGET = b"DELETE FROM writers WHERE id = $1"


class PostgresTransaction:
    """`Transaction` over a session that is inside BEGIN … COMMIT.

    What needs no answer (`executemany`, `lock`) waits and travels with the next statement that does, or the commit.
    """

    __slots__ = ("_key", "_wire", "calls", "now", "runs", "ticket", "waiting")

    def __init__(self, wire: Wire, address: Address, now: float) -> None:
        self._wire = wire
        self._key = address.key
        self.now = now
        self.waiting: list[Statement] = []
        self.calls: Calls = []
        self.runs: set[str] = set()
        self.ticket: int | None = None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._wire.run(self._batch(native(sql), params)).command_tuples or 0

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        text = native(sql)
        self.waiting += [(text, row) for row in rows]

    def one(self, sql: str, params: Sequence[Any] = (), *, lock: bool = False) -> Row | None:
        return self._wire.one(self._batch(native(sql, lock), params))

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._wire.all(self._batch(native(sql), params))

    def lock(self, name: str) -> None:
        self.waiting.append((b"SELECT pg_advisory_xact_lock($1)", (self._key("lock", name),)))

    def changed(self, run: str) -> None:
        self.runs.add(run)

    def after_commit(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def _batch(self, sql: bytes, params: Sequence[Any]) -> list[Statement]:
        batch, self.waiting = self.waiting, []
        batch.append((sql, params))
        return batch


class Session:
    """A connection that is made when it is needed, and made anew when it was lost."""

    def __init__(self, address: Address, *, writes: bool) -> None:
        self.address = address
        self.writes = writes
        self.connection: psycopg.Connection[Row] | None = None
        self._wire: Wire | None = None
        self._name = ""
        self._number = 0
        self._keeps_name = False
        self._waits_for_disk = True

    # The connection

    def connect(self) -> None:
        """Raises the `DatabaseError` that says why there is none."""
        if self.connection is not None:
            return
        connection = connect(self.address)
        try:
            check_version(connection, self.address)
            check_schema(schema_of(connection, self.address), self.address)
            self._prepare(connection)
            self._wire = Wire(connection)
        except BaseException:
            connection.close()
            raise
        self.connection = connection

    def _prepare(self, connection: psycopg.Connection[Row]) -> None:
        """What this session is to be like, in one message."""
        settings = [
            f"SET search_path = {self.address.schema}",
            f"SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}s'",
            "SET jit = off",
        ]
        if self.writes:
            self._name = self._name or secrets.token_hex(8)
            key = self.address.key("writer", self._name)
            settings += ["SET lock_timeout = '5s'", f"SELECT pg_advisory_lock({key})"]
        settings += [f"SET lock_timeout = '{LOCK_TIMEOUT}s'", "SELECT current_setting('synchronous_commit')"]
        (level,) = ask(connection, "; ".join(settings))
        self._waits_for_disk = level != "off"

    def drop(self) -> None:
        """Forget a connection that is lost. If a transaction had begun, the next one waits for the end of that."""
        connection, wire = self.connection, self._wire
        self.connection = self._wire = None
        if not self._keeps_name:
            self._name = ""
        if wire is not None:
            wire.close()
        if connection is not None:
            connection.close()

    def close(self) -> None:
        if self._wire is not None and self.writes and self._number:
            with suppress(psycopg.Error):  # else `forget_writers` removes it another day
                self._wire.run([(_FORGET, (self._name,))])
        self.drop()

    # A transaction

    def begin(self, *, write: bool) -> PostgresTransaction:
        wire = self._connected
        self._keeps_name = False  # whatever there was before is settled: a loss from here on leaves nothing to wait for
        row = wire.one([_BEGIN if write else _BEGIN_READ, _NOW])
        assert row is not None
        self._keeps_name = True
        self._number += 1
        return PostgresTransaction(wire, self.address, row[0])

    def commit(self, transaction: PostgresTransaction, *, flush: bool) -> None:
        """Commit and wait for the disk. Raises psycopg's error; `committed` tells whether it took place."""
        steps = [*transaction.waiting, (_DONE, (self._name, self._number, transaction.now))]
        steps += [(_NOTIFY, (self.address.channel, run)) for run in sorted(transaction.runs)]
        steps += [_SOON, _COMMIT]
        if self._waits_for_disk or flush:
            steps += self._keep(flush)
        self._connected.run(steps)

    def keep(self, *, flush: bool) -> None:
        """The second step alone."""
        if self._waits_for_disk or flush:
            self._connected.run(self._keep(flush))

    def _keep(self, flush: bool) -> list[Statement]:
        step: Statement = (_KEPT, (self._name, self._number))
        return [_BEGIN, _NOT_SOON, step, _COMMIT] if flush and not self._waits_for_disk else [step]

    def committed(self) -> bool:
        """Whether the last transaction took place. On the connection after the one that was lost, or on the same."""
        return self._connected.one([(_LAST, (self._name,))]) == (self._number,)

    def rollback(self) -> None:
        """End whatever transaction is open. Raises psycopg's error for a connection that is gone."""
        connection = self.connection
        if connection is not None and connection.info.transaction_status != TransactionStatus.IDLE:
            self._connected.run([_ROLLBACK])

    @property
    def _connected(self) -> Wire:
        assert self._wire is not None
        return self._wire


def connect(address: Address) -> psycopg.Connection[Row]:
    """A connection without transactions of psycopg's own. Raises `DatabaseUnreachable`, `DatabaseBusy`."""
    try:
        connection = psycopg.connect(make_conninfo(**address.parameters), autocommit=True)
    except psycopg.Error as error:
        raise refused(error, address) from None  # the cause can hold the password
    # One type for all numbers: a statement is planned once, not once for each size of its arguments.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    connection.adapters.register_dumper(bool, Int8BinaryDumper)
    # A machine that vanished in the middle of a transaction holds its locks no longer than this.
    ask(connection, "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3")
    return connection


def check_version(connection: psycopg.Connection[Row], address: Address) -> None:
    if connection.info.server_version < OLDEST * 10_000:
        raise DatabaseError(
            f"the server of {address.shown} is {server_name(connection)}", hint=f"Retinue needs Postgres {OLDEST}."
        )


def server_name(connection: psycopg.Connection[Row]) -> str:
    """``Postgres 15.18``."""
    version = connection.info.server_version
    return f"Postgres {version // 10_000}.{version % 10_000}"


def schema_of(connection: psycopg.Connection[Row], address: Address) -> int | None:
    """The last migration that was applied; None where nothing of ours is."""
    (ours,) = ask(connection, f"SELECT to_regclass('{address.schema}.migrations')")
    if ours is None:
        return None
    (number,) = ask(connection, f"SELECT coalesce(max(number), 0) FROM {address.schema}.migrations")  # noqa: S608
    return int(number or 0)


def check_schema(schema: int | None, address: Address) -> None:
    """Raises `SchemaTooOld` or `SchemaTooNew`: whoever opens a database never changes its tables."""
    known = newest("postgres")
    if schema is None:
        raise SchemaTooOld(
            f"the database {address.shown} holds no tables of Retinue yet",
            hint="`retinue db upgrade` makes them, in the schema that the URL names.",
        )
    if schema < known:
        raise SchemaTooOld(f"the database {address.shown} has schema {schema}; this Retinue needs {known}")
    if schema > known:
        raise SchemaTooNew(
            f"the database {address.shown} has schema {schema}; this Retinue knows up to {known}",
            hint="Upgrade Retinue, or name another schema in the URL.",
        )


def forget_writers(connection: psycopg.Connection[Row], address: Address) -> None:
    """Remove the rows of connections whose processes died long ago."""
    ask(connection, f"DELETE FROM {address.schema}.writers WHERE seen < {_CLOCK} - 86400")  # noqa: S608


def ask(connection: psycopg.Connection[Row], statements: str) -> tuple[str | None, ...]:
    """Send statements of ours without values as one message; return the last one's first row, as text."""
    pgconn = connection.pgconn
    result = pgconn.exec_(statements.encode())
    if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        if pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError("the connection is lost")
        raise error_from_result(result)
    if not result.ntuples:
        return ()
    found = (result.get_value(0, column) for column in range(result.nfields))
    return tuple(None if value is None else bytes(value).decode() for value in found)
