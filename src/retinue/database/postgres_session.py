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
from psycopg import RawCursor
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int8BinaryDumper

from retinue.database.base import Row
from retinue.database.jobs import Calls
from retinue.database.migrations import newest
from retinue.database.postgres_errors import refused
from retinue.database.postgres_sql import literal, native
from retinue.database.postgres_url import Address
from retinue.errors import DatabaseError, SchemaTooNew, SchemaTooOld

OLDEST = 14
"""The oldest major version of Postgres that is supported."""

LOCK_TIMEOUT = 30.0
"""Seconds that a transaction waits for another's lock."""

IDLE_TIMEOUT = 10.0
"""Seconds after which the server ends a transaction whose process no longer speaks: frozen, or cut off."""

_CLOCK = "extract(epoch from clock_timestamp())::float8"
_BEGIN = {
    True: f"BEGIN; SELECT {_CLOCK}".encode(),
    False: f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT {_CLOCK}".encode(),
}
_OK = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class PostgresTransaction:
    """`Transaction` over a session that is inside BEGIN … COMMIT.

    What needs no answer (`executemany`, `lock`) waits and travels with the next statement that does, or the commit.
    """

    __slots__ = ("_connection", "_cursor", "_key", "calls", "now", "runs", "ticket", "waiting")

    def __init__(
        self, connection: psycopg.Connection[Row], cursor: RawCursor[Row], address: Address, now: float
    ) -> None:
        self._connection = connection
        self._cursor = cursor
        self._key = address.key
        self.now = now
        self.waiting: list[tuple[bytes, Sequence[Any]]] = []
        self.calls: Calls = []
        self.runs: set[str] = set()
        self.ticket: int | None = None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._send(native(sql), params).rowcount

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        text = native(sql)
        self.waiting += [(text, row) for row in rows]

    def one(self, sql: str, params: Sequence[Any] = (), *, lock: bool = False) -> Row | None:
        return self._send(native(sql, lock), params).fetchone()

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._send(native(sql), params).fetchall()

    def lock(self, name: str) -> None:
        self.waiting.append((b"SELECT pg_advisory_xact_lock($1)", (self._key("lock", name),)))

    def changed(self, run: str) -> None:
        self.runs.add(run)

    def after_commit(self, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def _send(self, sql: bytes, params: Sequence[Any]) -> RawCursor[Row]:
        if not self.waiting:
            return self._cursor.execute(sql, params)
        with self._connection.pipeline():
            self.send_waiting()
            return self._cursor.execute(sql, params)

    def send_waiting(self) -> None:
        """Inside a pipeline. An error comes up at its end."""
        waiting, self.waiting = self.waiting, []
        cursor = RawCursor(self._connection)
        for sql, params in waiting:
            cursor.execute(sql, params)


class Session:
    """A connection that is made when it is needed, and made anew when it was lost."""

    def __init__(self, address: Address, *, writes: bool) -> None:
        self.address = address
        self.connection: psycopg.Connection[Row] | None = None
        self._writes = writes
        self._cursor: RawCursor[Row] | None = None
        self._name = ""
        self._number = 0
        self._begun = False
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
        except BaseException:
            connection.close()
            raise
        self._cursor = RawCursor(connection)
        self._cursor.format = psycopg.pq.Format.BINARY
        self.connection = connection

    def _prepare(self, connection: psycopg.Connection[Row]) -> None:
        """What this session is to be like, in one message."""
        settings = [
            f"SET search_path = {self.address.schema}",
            f"SET idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}s'",
            "SET jit = off",
        ]
        if self._writes:
            self._name = self._name or secrets.token_hex(8)
            key = self.address.key("writer", self._name)
            row = f"'{self._name}'"
            settings += [
                "SET lock_timeout = '5s'",
                f"SELECT pg_advisory_lock({key})",
                "PREPARE retinue_done (BIGINT, FLOAT8) AS INSERT INTO writers (id, done, kept, seen) "  # noqa: S608
                f"VALUES ({row}, $1, 0, $2) ON CONFLICT (id) DO UPDATE SET done = $1, seen = $2",
                f"PREPARE retinue_kept (BIGINT) AS UPDATE writers SET kept = $1 WHERE id = {row}",  # noqa: S608
                f"PREPARE retinue_committed AS SELECT done FROM writers WHERE id = {row}",  # noqa: S608
                f"PREPARE retinue_forget AS DELETE FROM writers WHERE id = {row}",  # noqa: S608
            ]
        settings += [f"SET lock_timeout = '{LOCK_TIMEOUT}s'", "SELECT current_setting('synchronous_commit')"]
        (level,) = _values(_exec(connection, "; ".join(settings)))
        self._waits_for_disk = level != "off"
        connection.prepared_max = 500

    def drop(self) -> None:
        """Forget a connection that is lost. If it was lost in a transaction, the next one waits for the end of that."""
        connection, self.connection, self._cursor = self.connection, None, None
        if not self._begun:
            self._name = ""
        if connection is not None:
            connection.close()

    def close(self) -> None:
        if self.connection is not None and self._writes and self._number:
            with suppress(psycopg.Error):  # else `forget_writers` removes it another day
                _exec(self.connection, "EXECUTE retinue_forget")
        self.drop()

    # A transaction

    def begin(self, *, write: bool) -> PostgresTransaction:
        connection, cursor = self.connection, self._cursor
        assert connection is not None
        assert cursor is not None
        self._begun = False
        (now,) = _values(_exec(connection, _BEGIN[write]))
        self._begun = True
        self._number += 1
        return PostgresTransaction(connection, cursor, self.address, float(now or 0))

    def commit(self, transaction: PostgresTransaction, *, flush: bool) -> None:
        """Commit and wait for the disk. Raises psycopg's error; `committed` tells whether it took place."""
        connection = self.connection
        assert connection is not None
        steps = [f"EXECUTE retinue_done ({self._number}, {transaction.now!r})"]
        channel = literal(self.address.channel)
        steps += [f"SELECT pg_notify({channel}, {literal(run)})" for run in sorted(transaction.runs)]
        steps += ["SET LOCAL synchronous_commit = off", "COMMIT"]
        if self._waits_for_disk or flush:
            steps += self._keep(flush)
        if not transaction.waiting:
            _exec(connection, "; ".join(steps))
        else:
            with connection.pipeline():
                transaction.send_waiting()
                cursor = RawCursor(connection)
                for step in steps:
                    cursor.execute(step.encode(), prepare=False)
        self._begun = False

    def keep(self, *, flush: bool) -> None:
        """The second step alone."""
        assert self.connection is not None
        if self._waits_for_disk or flush:
            _exec(self.connection, "; ".join(self._keep(flush)))

    def _keep(self, flush: bool) -> list[str]:
        step = f"EXECUTE retinue_kept ({self._number})"
        if flush and not self._waits_for_disk:
            return ["BEGIN", "SET LOCAL synchronous_commit = on", step, "COMMIT"]
        return [step]

    def committed(self) -> bool:
        """Whether the last transaction took place. On the connection after the one that was lost, or on the same."""
        assert self.connection is not None
        return _values(_exec(self.connection, "EXECUTE retinue_committed")) == (str(self._number),)

    def rollback(self) -> None:
        """End whatever transaction is open. Raises psycopg's error for a connection that is gone."""
        connection = self.connection
        if connection is not None and connection.info.transaction_status != TransactionStatus.IDLE:
            _exec(connection, "ROLLBACK")
        self._begun = False


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
    _exec(connection, "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3")
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
    (ours,) = _values(_exec(connection, f"SELECT to_regclass('{address.schema}.migrations')"))
    if ours is None:
        return None
    (number,) = _values(_exec(connection, f"SELECT coalesce(max(number), 0) FROM {address.schema}.migrations"))  # noqa: S608
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
    _exec(connection, f"DELETE FROM {address.schema}.writers WHERE seen < {_CLOCK} - 86400")  # noqa: S608


def _exec(connection: psycopg.Connection[Row], statements: str | bytes) -> PGresult:
    """Send statements without parameters as one message; return the last result. Raises psycopg's error."""
    pgconn = connection.pgconn
    result = pgconn.exec_(statements if isinstance(statements, bytes) else statements.encode())
    if result.status not in _OK:
        if pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError("the connection is lost")
        raise error_from_result(result)
    return result


def _values(result: PGresult) -> tuple[str | None, ...]:
    """The first row as text."""
    if not result.ntuples:
        return ()
    found = (result.get_value(0, column) for column in range(result.nfields))
    return tuple(None if value is None else bytes(value).decode() for value in found)
