"""Following a run: stored events by number, and what is told in passing, to any number of followers.

A follower has a queue of its own. One that goes away, or does not keep up, never holds up or ends the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing, contextmanager

from retinue.database.base import Database

from .events import LAST_LINES, Line, stored

PAGE = 500
BACKLOG = 10_000
"""Lines that wait for a slow follower; past that, passing ones are dropped and stored ones are read again."""


class Bus:
    """Hands the lines of this process's runs to its followers."""

    def __init__(self) -> None:
        self._followers: dict[str, list[asyncio.Queue[Line]]] = {}

    def followed(self, run: str) -> bool:
        return run in self._followers

    def publish(self, run: str, lines: Sequence[Line]) -> None:
        for queue in self._followers.get(run, ()):
            for line in lines:
                if queue.qsize() < BACKLOG or line["type"] in LAST_LINES:  # without the last it would wait for ever
                    queue.put_nowait(line)

    @contextmanager
    def listen(self, run: str) -> Generator[asyncio.Queue[Line]]:
        queue: asyncio.Queue[Line] = asyncio.Queue()
        self._followers.setdefault(run, []).append(queue)
        try:
            yield queue
        finally:
            self._followers[run].remove(queue)
            if not self._followers[run]:
                del self._followers[run]


async def read_events(db: Database, run: str, *, after: int = 0, limit: int = PAGE) -> list[Line]:
    """Stored events with a number over ``after``, in order."""
    rows = await db.read(
        lambda tx: tx.all(
            "SELECT seq, ts, type, body FROM events WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?", (run, after, limit)
        )
    )
    return [stored(run, seq, ts, kind, body) for seq, ts, kind, body in rows]


async def all_events(db: Database, run: str, *, after: int = 0) -> AsyncIterator[Line]:
    """Every stored event so far, a page at a time."""
    while page := await read_events(db, run, after=after):
        for line in page:
            yield line
        after = page[-1]["seq"]


async def watch(db: Database, run: str, *, after: int = 0) -> AsyncGenerator[Line]:
    """The stored events from ``after`` on of a run that any process executes, until it waits, was stopped or is over.

    Ends without an event for a run that is not there. Goes on while a run that says it is running has lost its process:
    another one may take it over.
    """
    async with aclosing(db.changes(run)) as changes:
        async for _ in changes:
            # The status first: a run that has ended has told all of its events.
            status = await db.read(lambda tx: tx.one("SELECT status FROM runs WHERE id = ?", (run,)))
            async for line in all_events(db, run, after=after):
                after = line["seq"]
                yield line
            if status != ("running",):
                return


async def follow(db: Database, queue: asyncio.Queue[Line], run: str, *, after: int = 0) -> AsyncGenerator[Line]:
    """The stream from ``after`` on, up to and including the line that ends this execution.

    What other processes wrote in between (an answer, say) is read from the database, so no number is missing.
    """
    while True:
        line = await queue.get()
        seq = line.get("seq")
        if seq is None:
            yield {**line, "after": after}
            continue
        if seq <= after:
            continue
        if seq > after + 1:
            async for missed in all_events(db, run, after=after):
                if missed["seq"] >= seq:
                    break
                yield missed
        after = seq
        yield line
        if line["type"] in LAST_LINES:
            return
