"""A connection beside the transactions: it proves that this process lives, asks whether others do, hears of changes.

The proof is an advisory lock of the session, which the server lets go of when the connection ends. A connection can end
without its process, so a lock that is gone is not yet a death where all connections ended a moment ago, with the
server; and where one alone did, the fence makes a hasty takeover harmless.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import psycopg

from retinue.database.base import Row
from retinue.database.postgres_errors import lost
from retinue.database.postgres_session import connect, forget_writers
from retinue.database.postgres_url import Address
from retinue.errors import DatabaseError

T = TypeVar("T")

Connection = psycopg.Connection[Row]

ANSWER_SECONDS = 5.0
"""How long somebody who asks waits for the connection. He may be inside a transaction: see `IDLE_TIMEOUT`."""

YOUNG = 30.0
"""Seconds after a server's start in which a lock that is missing may not have been taken again yet."""

_log = logging.getLogger("retinue.database")


class Watch:
    """Started with the first thing that it is asked for."""

    def __init__(self, address: Address, owner: str) -> None:
        self._address = address
        self._owner = owner
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked: deque[tuple[Callable[[Connection], Any], Future[Any]]] = deque()
        self._followers: dict[str, list[Callable[[], None]]] = {}
        self._inner, self._outer = socket.socketpair()
        self._closing = False
        self._owning = self._holding = self._hearing = False
        self._news: set[str] = set()

    # From any thread

    def own(self) -> None:
        """Take the lock of this process's name. Raises `DatabaseUnreachable`."""
        self._owning = True
        try:
            self._ask(self._hold).result(ANSWER_SECONDS)
        except (TimeoutError, psycopg.Error) as error:
            raise lost(self._address) from error

    def alive(self, owner: str) -> bool | None:
        """Whether the process of this name holds its lock; None while nobody can tell."""
        key = self._address.key("owner", owner)

        def look(connection: Connection) -> bool | None:
            # Taking it, for an instant and in company, is the only way to ask that sees all of a server's sessions.
            row = connection.execute(
                "SELECT pg_try_advisory_xact_lock_shared(%s), "
                "extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8",
                (key,),
            ).fetchone()
            assert row is not None
            free, age = row
            if not free:
                return True
            return None if age < YOUNG else False

        try:
            return self._ask(look).result(ANSWER_SECONDS)
        except (TimeoutError, DatabaseError, psycopg.Error):
            return None

    @contextmanager
    def listening(self, run: str, tell: Callable[[], None]) -> Generator[None]:
        """Call ``tell``, on a thread of the watch's, whenever a change of the run has been committed."""
        with self._lock:
            self._followers.setdefault(run, []).append(tell)
        self._ask(self._hear)
        try:
            yield
        finally:
            with self._lock:
                self._followers[run].remove(tell)
                if not self._followers[run]:
                    del self._followers[run]
            self._ask(self._hear)

    def stop(self) -> None:
        with self._lock:
            self._closing = True
            thread = self._thread
        self._wake()
        if thread is not None:
            thread.join()
        self._inner.close()
        self._outer.close()

    def _ask(self, what: Callable[[Connection], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._closing:
                future.set_exception(DatabaseError(f"the database {self._address.shown} is closed"))
                return future
            self._asked.append((what, cast("Future[Any]", future)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="retinue-watch", daemon=True)
                self._thread.start()
        self._wake()
        return future

    def _wake(self) -> None:
        with suppress(OSError):
            self._outer.send(b"x")

    # On the watch's thread

    def _run(self) -> None:
        pause = 0.05
        while not self._closing:
            try:
                connection = connect(self._address)
                try:
                    pause = 0.05
                    connection.add_notify_handler(lambda note: self._news.add(note.payload))
                    self._serve(connection)
                finally:
                    connection.close()
            except (DatabaseError, psycopg.Error) as error:
                if not self._closing:
                    _log.warning("the watch on %s was lost: %s", self._address.shown, type(error).__name__)
            self._holding = self._hearing = False
            self._wait(None, 0.0 if self._closing else pause)
            pause = min(pause * 2, 1.0)
        for _, future in self._asked:
            future.set_exception(DatabaseError(f"the database {self._address.shown} is closed"))

    def _serve(self, connection: Connection) -> None:
        if self._owning:
            self._hold(connection)
        self._hear(connection)
        while not self._closing:
            while self._asked:
                self._answer(connection, *self._asked.popleft())
            # A lock that an older connection of ours still holds is tried for again.
            missing = self._owning and not self._holding
            self._spread()
            if self._wait(connection, 1.0 if missing else None):
                self._take_in(connection)
            if missing:
                self._hold(connection)
        if self._holding:  # the server takes its time to notice that a connection was closed
            connection.execute("SELECT pg_advisory_unlock_all()")

    def _answer(self, connection: Connection, what: Callable[[Connection], Any], future: Future[Any]) -> None:
        try:
            answer = what(connection)
        except psycopg.Error as error:
            future.set_exception(error)
            raise
        future.set_result(answer)

    def _wait(self, connection: Connection | None, seconds: float | None) -> bool:
        """Until somebody asks, the time is over, or the server says something (True)."""
        sockets: list[Any] = [self._inner] + ([connection] if connection is not None else [])
        ready, _, _ = select.select(sockets, [], [], seconds)
        if self._inner in ready:
            self._inner.recv(1024)
        return connection is not None and connection in ready

    def _hold(self, connection: Connection) -> None:
        if self._holding:
            return
        key = self._address.key("owner", self._owner)
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
        self._holding = row == (True,)
        with suppress(psycopg.Error):
            forget_writers(connection, self._address)

    def _hear(self, connection: Connection) -> None:
        """Listen while there are followers. They look once more whenever the listening begins."""
        with self._lock:
            wanted = bool(self._followers)
            everybody = [tell for tells in self._followers.values() for tell in tells]
        if wanted == self._hearing:
            return
        connection.execute(f'{"LISTEN" if wanted else "UNLISTEN"} "{self._address.channel}"'.encode())
        self._hearing = wanted
        for tell in everybody:
            tell()

    def _take_in(self, connection: Connection) -> None:
        """What the server said by itself. psycopg hands over what it finds beside an answer; this finds the rest."""
        pgconn = connection.pgconn
        pgconn.consume_input()  # raises for a connection that has ended
        while (note := pgconn.notifies()) is not None:
            self._news.add(note.extra.decode())

    def _spread(self) -> None:
        with self._lock:
            tells = [tell for run in self._news for tell in self._followers.get(run, ())]
        self._news.clear()
        for tell in tells:
            tell()
