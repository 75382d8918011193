"""A SQLite file as the database: standard-library `sqlite3`, one writer thread and one reader thread a process.

WAL lets readers of this and other processes go on beside the writer. ``synchronous=NORMAL`` survives any killed process;
a write with ``flush`` is made with ``FULL`` and survives a power failure. ``:memory:`` runs the same SQL inline.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar, cast

from retinue.database.base import Row, Transaction
from retinue.database.errors import translate
from retinue.database.schema import check_is_ours, migrate
from retinue.errors import DatabaseError, DatabaseReadOnly
from retinue.system import OwnerLock, is_held, private_file

T = TypeVar("T")

BUSY_TIMEOUT = 30.0
"""Seconds that a write waits for another process's write."""


class SQLiteTransaction:
    """`Transaction` over a connection that is inside BEGIN … COMMIT."""

    __slots__ = ("_connection", "calls", "now")

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self.now = now
        self.calls: list[Callable[[], None]] = []

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, params).rowcount

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._connection.executemany(sql, rows)

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        return self._connection.execute(sql, params).fetchone()

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def after_commit(self, call: Callable[[], None]) -> None:
        self.calls.append(call)


class _Job(NamedTuple):
    work: Callable[[Transaction], Any]
    flush: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


def _settle(future: asyncio.Future[Any], calls: Sequence[Callable[[], None]], value: Any, error: BaseException | None) -> None:
    for call in calls:
        call()
    if future.cancelled():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class _Worker:
    """One connection and the thread that owns it."""

    def __init__(self, run: Callable[[_Job], tuple[Any, list[Callable[[], None]]]], name: str) -> None:
        self._run = run
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def put(self, job: _Job) -> None:
        self._jobs.put(job)

    def stop(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            value: Any = None
            calls: list[Callable[[], None]] = []
            error: BaseException | None = None
            try:
                value, calls = self._run(job)
            except BaseException as caught:
                error = caught
            try:
                job.loop.call_soon_threadsafe(_settle, job.future, calls, value, error)
            except RuntimeError:  # the loop was closed under a write in flight; the write itself stands
                continue
            finally:
                del job, value, calls, error


class SQLiteDatabase:
    """`Database` on one SQLite file, or in memory with the path ``:memory:``."""

    def __init__(self, path: str, connection: sqlite3.Connection, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._writer = connection
        self._closed = False
        self._owner = f"{os.uname().nodename if hasattr(os, 'uname') else 'host'}.{os.getpid()}.{secrets.token_hex(4)}"
        self._lock: OwnerLock | None = None
        self._inline = path == ":memory:"
        if self._inline:
            self._reader = connection
            return
        self._reader = self._connect(path)
        self._reader.execute("PRAGMA query_only=ON")
        self._write_worker = _Worker(self._run_write, "retinue-writer")
        self._read_worker = _Worker(self._run_read, "retinue-reader")

    @classmethod
    async def open(
        cls, path: str | Path, *, create: bool = True, clock: Callable[[], float] = time.time
    ) -> SQLiteDatabase:
        """Open the file, create it (mode 0600) where it is missing, bring its schema up to date.

        Raises `DatabaseReadOnly` for a file or folder that cannot be written, `DatabaseCorrupt` for a damaged file or
        one that is not Retinue's, `SchemaTooNew` for one that a newer Retinue wrote.
        """
        return await asyncio.to_thread(cls._open, str(path), create, clock)

    @classmethod
    def _open(cls, path: str, create: bool, clock: Callable[[], float]) -> SQLiteDatabase:
        if path != ":memory:":
            path = str(Path(path).expanduser().absolute())
            try:
                if not Path(path).exists():
                    if not create:
                        raise DatabaseReadOnly(f"there is no database at {path}", hint="`retinue run …` creates it.")
                    Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    private_file(Path(path))
            except OSError as error:
                raise DatabaseReadOnly(f"the database {path} cannot be created: {error.strerror}") from None
        connection: sqlite3.Connection | None = None
        try:
            connection = cls._connect(path)
            check_is_ours(connection, path)
            if path != ":memory:":
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            migrate(connection, path)
            return cls(path, connection, clock=clock)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise translate(error, path) from None
        except BaseException:
            if connection is not None:
                connection.close()
            raise

    @staticmethod
    def _connect(path: str) -> sqlite3.Connection:
        # Transactions are begun and ended by hand; the threads hand the connection over, never share it.
        return sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)

    @property
    def url(self) -> str:
        return self._path if self._inline else f"sqlite:///{self._path}"

    @property
    def owner(self) -> str:
        if self._lock is None and not self._inline:
            self._lock = OwnerLock(self._owners_folder, self._owner)
            self._lock.acquire()
        return self._owner

    def alive(self, owner: str) -> bool | None:
        if owner == self._owner:
            return True
        return None if self._inline else is_held(self._owners_folder / f"{owner}.lock")

    @property
    def _owners_folder(self) -> Path:
        return Path(f"{self._path}-owners")

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        job = _Job(work, flush, loop, future)
        if self._closed:
            raise DatabaseError(f"the database {self._path} is closed")
        if self._inline:
            value, calls = self._run_write(job)
            _settle(future, calls, value, None)
            return cast(T, value)
        self._write_worker.put(job)
        # The write goes on when the caller is cancelled: half of a fact is worse than a fact nobody waits for.
        return cast(T, await asyncio.shield(future))

    async def read(self, work: Callable[[Transaction], T]) -> T:
        loop = asyncio.get_running_loop()
        job = _Job(work, False, loop, loop.create_future())
        if self._closed:
            raise DatabaseError(f"the database {self._path} is closed")
        if self._inline:
            return cast(T, self._run_read(job)[0])
        self._read_worker.put(job)
        return cast(T, await asyncio.shield(job.future))

    def _run_write(self, job: _Job) -> tuple[Any, list[Callable[[], None]]]:
        connection = self._writer
        try:
            if job.flush:
                connection.execute("PRAGMA synchronous=FULL")
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    transaction = SQLiteTransaction(connection, self._clock())
                    value = job.work(transaction)
                    self._commit(connection)
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            finally:
                if job.flush:
                    connection.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error as error:
            raise translate(error, self._path) from None
        return value, transaction.calls

    def _commit(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")

    def _run_read(self, job: _Job) -> tuple[Any, list[Callable[[], None]]]:
        connection = self._reader
        try:
            if self._inline:
                return job.work(SQLiteTransaction(connection, self._clock())), []
            connection.execute("BEGIN")
            try:
                return job.work(SQLiteTransaction(connection, self._clock())), []
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise translate(error, self._path) from None

    async def close(self) -> None:
        """Finish the writes in the queue, then let go of the file. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if not self._inline:
            self._write_worker.stop()
            self._read_worker.stop()
            self._reader.close()
        self._writer.close()
        if self._lock is not None:
            self._lock.release()
