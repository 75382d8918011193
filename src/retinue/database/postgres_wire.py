"""Statements to Postgres in batches: one message there, one back (libpq's pipeline mode).

`psycopg` connects, adapts values and names errors. Its cursors are left out: six updates cost them 83 µs of CPU one by
one and 88 µs in its own pipeline, and 15 µs here, and each of a unit's statements would wait for the network by itself.
"""

from __future__ import annotations

import selectors
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from retinue.database.base import Row

Statement = tuple[bytes, Sequence[Any]]
"""SQL with ``$1``, ``$2``, … and the values."""

PREPARED_AT_MOST = 500


class Wire:
    """A connection in pipeline mode. Every statement is prepared when it first comes, for each types of its values."""

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._pgconn = connection.pgconn
        self._adapt = Transformer(connection)
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._made = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pgconn.socket, selectors.EVENT_READ)
        self._pgconn.enter_pipeline_mode()

    def close(self) -> None:
        self._selector.close()

    def run(self, statements: Sequence[Statement]) -> PGresult:
        """Send them all, wait for all, return the last one's result.

        They are not a transaction of themselves: BEGIN and COMMIT are statements like others. Raises the first error as
        psycopg's; the statements after it have then not been executed.
        """
        new: list[tuple[bytes, tuple[int, ...]]] = []
        try:
            try:
                for sql, values in statements:
                    self._send(sql, values, new)
            finally:  # also for a value that no column can hold: what was sent before it is answered
                self._pgconn.pipeline_sync()
                last = self._receive()
        except BaseException:
            for key in new:
                self._names.pop(key, None)
            raise
        assert last is not None
        return last

    def one(self, statements: Sequence[Statement]) -> Row | None:
        rows = self.all(statements)
        return rows[0] if rows else None

    def all(self, statements: Sequence[Statement]) -> list[Row]:
        """The rows of the last statement."""
        result = self.run(statements)
        self._adapt.set_pgresult(result, set_loaders=True, format=Format.BINARY)
        return self._adapt.load_rows(0, result.ntuples, tuple)

    def _send(self, sql: bytes, values: Sequence[Any], new: list[tuple[bytes, tuple[int, ...]]]) -> None:
        dumped: Sequence[Any] | None = None
        types: tuple[int, ...] = ()
        formats: Sequence[Format] | None = None
        if values:
            dumped = self._adapt.dump_sequence(values, [PyFormat.AUTO] * len(values))
            types, formats = self._adapt.types or (), self._adapt.formats
        key = (sql, types)
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= PREPARED_AT_MOST:
                self._pgconn.send_query_params(sql, dumped, types, formats, Format.BINARY)
                return
            self._made += 1
            name = self._names[key] = b"retinue_%d" % self._made
            new.append(key)
            self._pgconn.send_prepare(name, sql, types)
        self._pgconn.send_query_prepared(name, dumped, formats, Format.BINARY)

    def _receive(self) -> PGresult | None:
        """All results up to the end of the batch; the last of them, or the first error."""
        last: PGresult | None = None
        error: psycopg.Error | None = None
        while True:
            self._wait()
            result = self._pgconn.get_result()
            if result is None:
                continue  # the end of one statement's results
            if result.status == ExecStatus.PIPELINE_SYNC:
                break
            if result.status == ExecStatus.FATAL_ERROR:
                error = error or error_from_result(result)
            else:
                last = result
            if self._pgconn.status != ConnStatus.OK:
                raise error or psycopg.OperationalError("the connection is lost")
        if error is not None:
            raise error
        return last

    def _wait(self) -> None:
        """Until there is a result to get: libpq would wait for one with Python's lock in its hands."""
        pgconn = self._pgconn
        while pgconn.flush():  # more than the network takes at once
            self._selector.modify(pgconn.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
            try:
                ready = self._selector.select()
            finally:
                self._selector.modify(pgconn.socket, selectors.EVENT_READ)
            if any(events & selectors.EVENT_READ for _, events in ready):
                pgconn.consume_input()
        while pgconn.is_busy():
            self._selector.select()
            pgconn.consume_input()
