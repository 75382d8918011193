"""Postgres as the database: `psycopg` 3 on a few threads, each with a connection and one transaction at a time.

Transactions run side by side in READ COMMITTED, and lock what they read in order to write (see `base`). A conflict or a
lost connection is met by doing the work again, for as long as a server takes to restart. Reads see one snapshot.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar, cast

import psycopg

from retinue.database.base import Health, Transaction
from retinue.database.crew import Crew, Tickets
from retinue.database.jobs import Job, deliver
from retinue.database.postgres_errors import CONFLICTS, is_lost, lost, translate
from retinue.database.postgres_schema import health
from retinue.database.postgres_session import PostgresTransaction, Session
from retinue.database.postgres_url import Address, parse
from retinue.database.postgres_watch import Watch
from retinue.errors import DatabaseBusy, DatabaseError, DatabaseUnreachable
from retinue.system import owner_name

T = TypeVar("T")

WRITERS = 4
READERS = 2
"""Connections for each, at most; they are made when they are needed."""

PATIENCE = 20.0
"""Seconds in which a lost server may come back. Less than a lease lasts, so runs go on under it."""

CONFLICTS_AT_MOST = 10

POLL = 2.0
"""Seconds between looks at a run whose changes are told anyway: news can be lost with a connection."""


class _Again(Exception):
    """The connection is lost, and the transaction did not take place."""


class _Missing(Exception):
    """There is no connection to be had just now."""

    def __init__(self, why: DatabaseError) -> None:
        super().__init__()
        self.why = why


class PostgresDatabase:
    """`Database` in one schema of a Postgres database. Used from one event loop."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._owner = owner_name()
        self._owned = False
        self._reached = False
        self._closed = threading.Event()
        self._tickets = Tickets()
        self._writers = Crew("retinue-writer", WRITERS, partial(Session, address, writes=True), self._do_write)
        self._readers = Crew("retinue-reader", READERS, partial(Session, address, writes=False), self._do_read)
        self._watch = Watch(address, self._owner)

    @classmethod
    async def open(cls, url: str) -> PostgresDatabase:
        """Connect, and look whether the tables are those of this program. They are never changed here.

        Raises `ConfigError` for a URL that cannot be read, `DatabaseUnreachable`, `SchemaTooOld`, `SchemaTooNew`.
        """
        opened = cls(parse(url))
        try:
            await opened.read(lambda tx: None)
        except BaseException:
            await opened.close()
            raise
        return opened

    @property
    def url(self) -> str:
        return self._address.shown

    @property
    def owner(self) -> str:
        """This process's name, behind which an advisory lock stands from the first time that it is asked for."""
        if not self._owned:
            self._watch.own()
            self._owned = True
        return self._owner

    def alive(self, owner: str) -> bool | None:
        return True if owner == self._owner else self._watch.alive(owner)

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        return await self._submit(self._writers, work, flush)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._submit(self._readers, work, False)

    async def _submit(self, crew: Crew[Session], work: Callable[[Transaction], T], flush: bool) -> T:
        if self._closed.is_set():
            raise DatabaseError(f"the database {self.url} is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        crew.submit(Job(work, flush, loop, future))
        # The job goes on when its caller is cancelled: half of a fact is worse than a fact nobody waits for.
        return cast(T, await future)

    async def changes(self, run: str) -> AsyncGenerator[None]:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

        with self._watch.listening(run, tell):
            while True:
                changed.clear()
                yield
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await changed.wait()

    async def check(self) -> Health:
        return await asyncio.to_thread(health, self._address)

    async def close(self) -> None:
        """Finish the jobs in the queues, then let go of the connections. Closing twice is harmless."""
        if self._closed.is_set():
            return
        self._closed.set()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writers.stop()
        self._readers.stop()
        self._watch.stop()

    # On the threads

    def _do_write(self, session: Session, job: Job, almost_done: Callable[[], None]) -> None:
        try:
            value, transaction = self._run_write(session, job.work, job.flush)
        except BaseException as error:
            # Also a refusal follows from what was committed before it, and may not be heard earlier than that.
            self._tickets.redeem(self._tickets.take(), partial(deliver, job, None, [], error))
            return
        almost_done()
        assert transaction.ticket is not None
        self._tickets.redeem(transaction.ticket, partial(deliver, job, value, transaction.calls, None))

    def _run_write(
        self, session: Session, work: Callable[[Transaction], T], flush: bool
    ) -> tuple[T, PostgresTransaction]:
        return self._patiently(session, lambda: self._write_once(session, work, flush))

    def _write_once(
        self, session: Session, work: Callable[[Transaction], T], flush: bool
    ) -> tuple[T, PostgresTransaction]:
        transaction = session.begin(write=True)
        value = work(transaction)
        transaction.ticket = self._tickets.take()
        try:
            self._commit(session, transaction, flush)
        except BaseException:
            self._tickets.redeem(transaction.ticket, None)
            raise
        return value, transaction

    def _commit(self, session: Session, transaction: PostgresTransaction, flush: bool) -> None:
        try:
            session.commit(transaction, flush=flush)
        except psycopg.Error as error:
            gone = is_lost(error, session.connection)
            if gone:
                session.drop()
            else:
                self._undo(session)
            if not self._took_place(session, flush):
                raise _Again if gone else error from error

    def _took_place(self, session: Session, flush: bool) -> bool:
        """Whether the commit that failed did take place after all; if so, its second step is made up for."""

        def ask() -> bool:
            committed = session.committed()
            if committed:
                session.keep(flush=flush)
            return committed

        try:
            return self._patiently(session, ask)
        except DatabaseError as error:
            raise lost(self._address, unknown=True) from error

    def _do_read(self, session: Session, job: Job, almost_done: Callable[[], None]) -> None:
        try:
            value = self._patiently(session, lambda: job.work(session.begin(write=False)))
        except BaseException as error:
            deliver(job, None, [], error)
            return
        almost_done()
        deliver(job, value, [], None)  # the caller need not wait for the end of a transaction that changed nothing
        try:
            session.rollback()
        except psycopg.Error:
            session.drop()

    def _patiently(self, session: Session, attempt: Callable[[], T]) -> T:
        """Attempt it on a connection, again after a conflict, and again until a lost server is back."""
        deadline, conflicts, pause = time.monotonic() + PATIENCE, 0, 0.02
        while True:
            try:
                self._connect(session)
                return attempt()
            except _Again:
                problem: DatabaseError = lost(self._address)
            except _Missing as missing:
                problem = missing.why
            except psycopg.Error as error:
                if is_lost(error, session.connection):
                    session.drop()
                    problem = lost(self._address)
                else:
                    self._undo(session)
                    problem = translate(error, self._address, reading=not session.writes)
                    conflicts += 1
                    if error.sqlstate not in CONFLICTS or conflicts > CONFLICTS_AT_MOST:
                        raise problem from error
            except BaseException:
                self._undo(session)
                raise
            if time.monotonic() >= deadline or not self._reached or self._closed.is_set():
                raise problem
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # two that met must not meet again
            pause = min(pause * 2, 1.0)

    def _connect(self, session: Session) -> None:
        try:
            session.connect()
        except (DatabaseUnreachable, DatabaseBusy) as error:
            raise _Missing(error) from error
        except psycopg.Error as error:
            raise _Missing(translate(error, self._address)) from error
        self._reached = True

    def _undo(self, session: Session) -> None:
        try:
            session.rollback()
        except psycopg.Error:
            session.drop()
