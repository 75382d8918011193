"""What the rooms may ask of a database. SQLite and Postgres implement it.

A unit of work is a plain function of a transaction. It runs whole, on a thread of the database's own, in a transaction
that commits when the function returns and rolls back when it raises. It may run more than once, after a conflict or a
lost connection, so it changes nothing outside its transaction but through `Transaction.after_commit`.

SQL is the subset that SQLite and Postgres share, with ``?`` placeholders; JSON is text. SQLite has one writer at a
time. Postgres has many, so whoever reads in order to write says so: with ``lock=True`` for a row that is there, with
`Transaction.lock` for what has no row. Locks are taken in one order, which rules out deadlocks: the run's row, then its
questions, then named locks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Row = tuple[Any, ...]


class Transaction(Protocol):
    """One transaction, valid only inside the function it is given to."""

    @property
    def now(self) -> float:
        """Database time: seconds since the epoch, the same all through the transaction."""
        ...

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run one statement; return the number of rows it changed."""
        ...

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for each row. Nothing is answered, so it may travel with what comes next."""
        ...

    def one(self, sql: str, params: Sequence[Any] = (), *, lock: bool = False) -> Row | None:
        """The first row, or None. Also for ``… RETURNING``.

        With ``lock``, for a SELECT of one table: nobody else changes the rows until this transaction ends.
        """
        ...

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]: ...

    def lock(self, name: str) -> None:
        """Wait for every other transaction that took the lock of this name; it is let go at the end."""
        ...

    def changed(self, run: str) -> None:
        """Tell those who follow this run, in any process, once the transaction has committed."""
        ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this on the event loop once the transaction has committed, in the order of commits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a look at the database found."""

    server: str
    """``SQLite 3.40.1``."""
    schema: int
    """The last migration that was applied; 0 before the first."""
    newest: int
    """The last migration that this program knows."""
    problem: str = ""
    """What is damaged, or empty."""


class Database(Protocol):
    """One gate for every read and write of a process."""

    @property
    def url(self) -> str:
        """Where it is, without a password."""
        ...

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        """Run ``work`` in a write transaction and return its result once that is committed.

        A cancelled caller does not undo the write: it commits or fails whole. ``flush`` also waits until the
        transaction is on the disk itself, so that it outlives a power failure and not only a killed process.

        Raises the subclass of `DatabaseError` that fits, and whatever ``work`` raises.
        """
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` on one consistent snapshot. It must not write."""
        ...

    def alive(self, owner: str) -> bool | None:
        """Whether the process behind a lease owner's name runs: False is certain, None is not known."""
        ...

    @property
    def owner(self) -> str:
        """The name under which this process takes leases."""
        ...

    def changes(self, run: str) -> AsyncGenerator[None]:
        """Comes at once, and then whenever something that is told of this run may have been committed by any process.

        It may come without a reason, and once for several. Close it when done.
        """
        ...

    async def check(self) -> Health:
        """Look whether the database is whole."""
        ...

    async def close(self) -> None: ...
