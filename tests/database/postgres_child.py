"""Other processes on a Postgres database: started from a process that has imported everything already."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from retinue.database import postgres_watch
from retinue.database.base import Transaction
from retinue.database.postgres import PostgresDatabase
from retinue.errors import RetinueError

INSERT = "INSERT INTO artifacts (run, id, media_type, body) VALUES (?, ?, '', ?)"

Talk = Connection
"""What parent and child say to each other."""

postgres_watch.YOUNG = 0.0  # the server of a test has only just been started


class Child:
    """A process that runs one of the functions below."""

    def __init__(self, what: Callable[..., Awaitable[None]], *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._talk, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(what, theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def hear(self, seconds: float = 30.0) -> Any:
        """The next thing that it says."""
        assert self._talk.poll(seconds), "the child says nothing"
        return self._talk.recv()

    def tell(self, what: Any = None) -> None:
        self._talk.send(what)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def freeze(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def finish(self) -> None:
        self._process.join(30)
        assert self._process.exitcode == 0


def _run(what: Callable[..., Awaitable[None]], talk: Talk, arguments: tuple[Any, ...]) -> None:
    asyncio.run(_await(what(talk, *arguments)))


async def _await(work: Awaitable[None]) -> None:
    await work


@contextmanager
def children() -> Generator[Callable[..., Child]]:
    started: list[Child] = []

    def start(what: Callable[..., Awaitable[None]], *arguments: object) -> Child:
        started.append(Child(what, *arguments))
        return started[-1]

    yield start
    for child in started:
        child.kill()


async def told(talk: Talk) -> Any:
    return await asyncio.to_thread(talk.recv)


# What they do


async def own(talk: Talk, url: str) -> None:
    """Take the name's lock; let go of it when told."""
    database = await PostgresDatabase.open(url)
    talk.send(await asyncio.to_thread(lambda: database.owner))
    await told(talk)
    await database.close()


async def increment(talk: Talk, url: str, times: int) -> None:
    """Read a number and write the next one, over and over."""
    database = await PostgresDatabase.open(url)

    def one_more(tx: Transaction) -> None:
        row = tx.one("SELECT body FROM artifacts WHERE run = 'counter'", lock=True)
        assert row is not None
        tx.execute("UPDATE artifacts SET body = ? WHERE run = 'counter'", (str(int(row[0]) + 1).encode(),))

    talk.send("ready")
    await told(talk)
    for _ in range(times):
        await database.write(one_more)
    await database.close()
    talk.send("done")


async def hold(talk: Talk, url: str, name: str, idle_timeout: float) -> None:
    """Stop in the middle of a transaction that has a lock, until told; say how it ends."""
    from retinue.database import postgres_session

    postgres_session.IDLE_TIMEOUT = idle_timeout
    database = await PostgresDatabase.open(url)

    def work(tx: Transaction) -> None:
        tx.lock(name)
        tx.execute(INSERT, ("held", str(tx.now), b""))
        talk.send("holding")
        talk.recv()

    try:
        await database.write(work)
    except RetinueError as error:
        talk.send(error.code)
    else:
        talk.send("written")
    await database.close()
