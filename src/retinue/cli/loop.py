"""The event loop of a command, and what Ctrl-C does to it.

The first SIGINT, SIGTERM or SIGHUP stops what goes on, in order; the second leaves at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Signals:
    """Hears signals while a command runs."""

    def __init__(self) -> None:
        self.stopping = False
        """Whether somebody asked to stop."""
        self.ignored = False
        """Set while another program has the terminal: its Ctrl-C is not ours."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[Any] | None = None
        self._stop: Callable[[], None] | None = None
        self._restore: list[Callable[[], None]] = []

    @contextmanager
    def stops(self, stop: Callable[[], None]) -> Generator[None]:
        """Call ``stop`` on the loop in place of cancelling the command. A signal that came before calls it at once."""
        outer, self._stop = self._stop, stop
        if self.stopping:
            stop()
        try:
            yield
        finally:
            self._stop = outer

    @contextmanager
    def restores(self, restore: Callable[[], None]) -> Generator[None]:
        """Call ``restore`` before leaving at once: the terminal is given back as it was."""
        self._restore.append(restore)
        try:
            yield
        finally:
            self._restore.remove(restore)

    @contextmanager
    def installed(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        before = {number: signal.signal(number, self._heard) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def attach(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        if self.stopping:
            self._act()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.ignored and number == signal.SIGINT:
            return
        if self.stopping:
            self._leave()
        self.stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._act)

    def _act(self) -> None:
        if self._stop is not None:
            self._stop()
        elif self._main is not None:
            self._main.cancel()

    def _leave(self) -> None:
        for restore in reversed(self._restore):
            with suppress(Exception):  # leaving is what counts
                restore()
        os._exit(130)


def run(main: Callable[[Signals], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine to its end. Raises `KeyboardInterrupt` when a signal cancelled it."""
    signals = Signals()

    async def attached() -> T:
        signals.attach()
        return await main(signals)

    with signals.installed():
        try:
            return asyncio.run(attached())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
