"""Other processes, forked from one that has imported everything already; they talk with the test by pipes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

Talk = Connection
"""What parent and child say to each other."""
What = Callable[..., Awaitable[None]]
"""A coroutine function of a module; its first argument is the `Talk`."""


class Child:
    def __init__(self, what: What, *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._talk, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(what, theirs, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def hear(self, seconds: float = 60.0) -> Any:
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
        self._process.join(60)
        assert self._process.exitcode == 0
        self._talk.close()


PRELOADED = ["tests.database.postgres_child", "tests.postgres.child"]
"""Imported once, before the first child."""


def _run(what: What, talk: Talk, arguments: tuple[Any, ...]) -> None:
    asyncio.run(_await(what(talk, *arguments)))


async def _await(work: Awaitable[None]) -> None:
    await work


@contextmanager
def children() -> Generator[Callable[..., Child]]:
    """Start children; whatever is left of them at the end is killed."""
    started: list[Child] = []

    def start(what: What, *arguments: object) -> Child:
        started.append(Child(what, *arguments))
        return started[-1]

    yield start
    for child in started:
        child.kill()


async def told(talk: Talk) -> Any:
    return await asyncio.to_thread(talk.recv)
