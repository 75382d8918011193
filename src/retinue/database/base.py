"""What the rooms may ask of a database. SQLite is the first implementation; a second one needs only this.

A unit of work is a plain function of a transaction. It runs whole, on the database's own writer, in a transaction that
commits when the function returns and rolls back when it raises. SQL is the subset that SQLite and Postgres share, with
``?`` placeholders; JSON is text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row, or None. Also for ``… RETURNING``."""
        ...

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]: ...

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call this on the event loop once the transaction has committed, in the order of commits."""
        ...


class Database(Protocol):
    """One gate for every read and write of a process."""

    @property
    def url(self) -> str: ...

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

    async def close(self) -> None: ...
