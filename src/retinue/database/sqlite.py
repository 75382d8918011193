"""A SQLite file as the database: standard-library `sqlite3`, one writer thread and one reader thread a process.

WAL lets readers of this and other processes go on beside the writer. ``synchronous=NORMAL`` survives a killed process;
a write with ``flush`` is made with ``FULL`` and survives a power failure. ``:memory:`` runs the same SQL inline.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from retinue.database.base import Health, Row, Transaction
from retinue.database.errors import from_os, translate
from retinue.database.jobs import Calls, Job, announce, deliver
from retinue.database.migrations import newest
from retinue.database.schema import check_is_ours, enter_wal, migrate
from retinue.errors import DatabaseError, DatabaseReadOnly
from retinue.system import (
    OwnerLock,
    ensure_private_dir,
    is_held,
    owner_lock_path,
    owner_name,
    private_file,
    remove_stale,
)

T = TypeVar("T")

BUSY_TIMEOUT = 30.0
"""Seconds that a write waits for another process's write."""

POLL = 0.2
"""Seconds between looks whether another process has written."""


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

    def one(self, sql: str, params: Sequence[Any] = (), *, lock: bool = False) -> Row | None:
        return self._connection.execute(sql, params).fetchone()

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def lock(self, name: str) -> None:
        """Nothing to do: whoever writes is the only one."""

    def changed(self, run: str) -> None:
        """Nothing to do: followers see that the file has changed."""

    def after_commit(self, call: Callable[[], None]) -> None:
        self.calls.append(call)


class _Worker:
    """One connection's thread: takes jobs in order, one at a time."""

    def __init__(self, run: Callable[[Callable[[Transaction], Any], bool], tuple[Any, Calls]], name: str) -> None:
        self._run = run
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[Transaction], T], flush: bool) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._jobs.put(Job(work, flush, loop, future))
        # The job goes on when its caller is cancelled: half of a fact is worse than a fact nobody waits for.
        return cast(T, await future)

    def stop(self) -> None:
        """Return when the jobs in the queue are done."""
        self._jobs.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            value: Any = None
            calls: Calls = []
            error: BaseException | None = None
            try:
                value, calls = self._run(job.work, job.flush)
            except BaseException as caught:
                error = caught
            deliver(job, value, calls, error)
            del job, value, calls, error


class SQLiteDatabase:
    """`Database` on one SQLite file, or in memory with the path ``:memory:``. Used from one event loop."""

    def __init__(self, path: str, connection: sqlite3.Connection, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._writer = connection
        self._closed = False
        self._owner = owner_name()
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
        one that is not Retinue's, `SchemaTooNew` for one that a newer Retinue wrote. Such a file is left as it is.
        """
        return await asyncio.to_thread(cls._open, str(path), create, clock)

    @classmethod
    def _open(cls, path: str, create: bool, clock: Callable[[], float]) -> SQLiteDatabase:
        in_memory = path == ":memory:"
        path = path if in_memory else _prepare(path, create)
        connection: sqlite3.Connection | None = None
        try:
            connection = cls._connect(path)
            check_is_ours(connection, path)
            if not in_memory:
                enter_wal(connection, path, BUSY_TIMEOUT)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA fullfsync=ON")  # macOS: a plain fsync stops at the drive's cache
            migrate(connection, path)
            return cls(path, connection, clock=clock)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise translate(error, path) from error
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
        """This process's name, behind which a lock stands from the first time that it is asked for."""
        if self._lock is None and not self._inline:
            lock = OwnerLock(self._owners, self._owner)
            try:
                lock.acquire()
                remove_stale(self._owners)
            except OSError as error:
                raise from_os(error, str(self._owners)) from error
            self._lock = lock
        return self._owner

    def alive(self, owner: str) -> bool | None:
        if owner == self._owner:
            return True
        if self._inline or Path(owner).name != owner:
            return None
        try:
            return is_held(owner_lock_path(self._owners, owner))
        except OSError:  # another user's lock
            return None

    @property
    def _owners(self) -> Path:
        return Path(f"{self._path}-owners")

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        self._check_open()
        if not self._inline:
            return await self._write_worker.do(work, flush)
        value, calls = self._run_write(work, flush)
        announce(calls)
        return value

    async def read(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        if not self._inline:
            return await self._read_worker.do(work, False)
        changes = self._reader.total_changes
        value, _ = self._run_read(work, False)
        if self._reader.total_changes != changes:  # a file's reader refuses it beforehand
            raise DatabaseReadOnly("a read tried to write", hint="Use write() for a unit of work that changes rows.")
        return value

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseError(f"the database {self._path} is closed")

    def _run_write(self, work: Callable[[Transaction], T], flush: bool) -> tuple[T, Calls]:
        connection = self._writer
        try:
            if flush:
                connection.execute("PRAGMA synchronous=FULL")
            try:
                if connection.in_transaction:  # left behind by a rollback that failed, on a full disk for one
                    connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    transaction = SQLiteTransaction(connection, self._clock())
                    value = work(transaction)
                    self._commit(connection)
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            finally:
                if flush:
                    connection.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        return value, transaction.calls

    def _commit(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")

    def _run_read(self, work: Callable[[Transaction], T], _flush: bool) -> tuple[T, Calls]:
        connection = self._reader
        try:
            if self._inline:
                return work(SQLiteTransaction(connection, self._clock())), []
            connection.execute("BEGIN")
            try:
                return work(SQLiteTransaction(connection, self._clock())), []
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    async def changes(self, run: str) -> AsyncGenerator[None]:
        """See `Database.changes`. A look costs a read of the file's header."""
        seen: Row | None = None
        while True:
            found = await self.read(lambda tx: tx.one("PRAGMA data_version"))
            if found != seen or self._inline:  # in memory, only this connection writes, and it never sees itself
                seen = found
                yield
            await asyncio.sleep(POLL)

    async def check(self) -> Health:
        (said,) = await self.read(lambda tx: tx.one("PRAGMA quick_check(1)")) or ("nothing",)
        (schema,) = await self.read(lambda tx: tx.one("PRAGMA user_version")) or (0,)
        return Health(
            server=f"SQLite {sqlite3.sqlite_version}",
            schema=schema,
            newest=newest("sqlite"),
            problem="" if said == "ok" else said,
        )

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


def _prepare(path: str, create: bool) -> str:
    """The real path of a file that exists and can be written, its folder too (SQLite puts two files beside it).

    Real, because owners of one database must meet in one folder, whichever link they came by.
    """
    try:
        file = Path(path).expanduser().resolve()
        if not file.exists():
            if not create:
                raise DatabaseReadOnly(f"there is no database at {file}", hint="`retinue run` creates it.")
            ensure_private_dir(file.parent)
            private_file(file)
        writable = os.access(file, os.R_OK | os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)
    except OSError as error:
        raise from_os(error, path) from error
    except (ValueError, RuntimeError) as error:  # a null character; a home folder that nobody has
        raise DatabaseReadOnly(f"{path!r} is not a usable path: {error}") from error
    if not writable:
        raise DatabaseReadOnly(f"the database {file} or its folder is read-only")
    return str(file)
