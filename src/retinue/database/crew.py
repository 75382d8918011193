"""Threads that take jobs in turn, as many as are needed up to a limit, and tickets that keep their news in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from retinue.database.jobs import Job

IDLE_SECONDS = 60.0
"""After this long without a job a thread ends, and what it holds is let go."""


class Holder(Protocol):
    def close(self) -> None: ...


H = TypeVar("H", bound=Holder)


class Crew(Generic[H]):
    """Up to ``limit`` threads, each with something of its own (a connection).

    ``do`` handles what it raises itself. It may say, by its third argument, that the rest will not take long: then no
    other thread is made for a job that comes meanwhile.
    """

    def __init__(
        self, name: str, limit: int, make: Callable[[], H], do: Callable[[H, Job, Callable[[], None]], None]
    ) -> None:
        self._name = name
        self._limit = limit
        self._make = make
        self._do = do
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._ready_soon: set[threading.Thread] = set()
        self._closing = False

    def submit(self, job: Job) -> None:
        with self._changed:
            self._jobs.append(job)
            if self._idle:
                self._changed.notify()
            if self._idle + len(self._ready_soon) < len(self._jobs) and len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._threads.add(thread)
                thread.start()

    def stop(self) -> None:
        """Return when the jobs in the queue are done and the threads have ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.join()

    def _run(self) -> None:
        holder = self._make()
        try:
            while (job := self._next()) is not None:
                self._do(holder, job, self._almost)
                del job
        finally:
            holder.close()

    def _almost(self) -> None:
        with self._changed:
            self._ready_soon.add(threading.current_thread())

    def _next(self) -> Job | None:
        """The next job; None for a thread that is not needed any more."""
        with self._changed:
            self._ready_soon.discard(threading.current_thread())
            while not self._jobs:
                if self._closing:
                    return None
                self._idle += 1
                notified = self._changed.wait(IDLE_SECONDS)
                self._idle -= 1
                if not notified and not self._jobs:
                    self._threads.discard(threading.current_thread())
                    return None
            return self._jobs.popleft()


class Tickets:
    """Lets calls through in the order in which their tickets were taken.

    Transactions commit side by side. One that builds upon another takes its ticket after it, since the other's locks
    kept it waiting until then; what is told of the two must not overtake.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = self._let_through = 0
        self._waiting: dict[int, Callable[[], None] | None] = {}

    def take(self) -> int:
        with self._lock:
            self._taken += 1
            return self._taken

    def redeem(self, ticket: int, call: Callable[[], None] | None) -> None:
        """Make the call as soon as all earlier tickets are redeemed; None for a ticket that led to nothing."""
        with self._lock:
            self._waiting[ticket] = call
            while self._let_through + 1 in self._waiting:
                self._let_through += 1
                waiting = self._waiting.pop(self._let_through)
                if waiting is not None:
                    waiting()
