"""The local engine: the process that starts, answers or resumes a run executes it.

Two things more. A run can be left to a background process. And a process that executes runs looks, now and then, for
runs of the same principal whose process is gone, and goes on with them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from retinue.database.base import Transaction
from retinue.errors import RetinueError
from retinue.system import ensure_private_dir, private_file, start_in_background

from ...auth.principal import Principal
from ..execution import Execution
from ..records import RunRecord
from ..runs import Runs
from .base import Ticket

log = logging.getLogger("retinue")

LOOK_SECONDS = 15.0
"""Between looks for runs whose process is gone."""
SETTLED_SECONDS = 10.0
"""A run that changed more recently may be on its way to a process that is just starting."""
FRUITLESS = 3
"""A run that was taken so often in a row without telling anything is left to people: it may be what ends processes."""


class LocalEngine:
    """``command`` is the program with its global options; ``resume RUN --left`` is added to it.

    ``logs`` is the folder of what background processes have to say.
    """

    elsewhere = False

    def __init__(self, command: Sequence[str] = (), *, logs: Path) -> None:
        self._command = tuple(command) or (sys.executable, "-P", "-m", "retinue")
        self._logs = logs

    async def ready(self) -> None:
        return

    async def start(self, ticket: Ticket) -> None:
        """Leave the run to a background process."""
        await asyncio.to_thread(self._spawn, ticket.run)

    async def wake(self, ticket: Ticket) -> None:
        """Whoever answers or resumes goes on with the run."""

    async def cancel(self, ticket: Ticket) -> None:
        """The keeper of the process that executes it reads it in the row."""

    async def close(self) -> None:
        return

    def log_of(self, run: str) -> Path:
        """Where the background process of a run writes what it has to say."""
        return self._logs / f"{run}.log"

    def _spawn(self, run: str) -> None:
        """A process of a session of its own: it outlives the terminal and its signals."""
        path = self.log_of(run)
        ensure_private_dir(path.parent)
        private_file(path)
        start_in_background([*self._command, "resume", run, "--left"], output=path)


class TakeOver:
    """Goes on with abandoned runs of one principal, one at a time, while this process executes a run of its own.

    A run that was taken over is let go of when the process has nothing else to do: it is then as abandoned as it was.
    """

    def __init__(self, runs: Runs, principal: Principal, take: Callable[[RunRecord], Awaitable[Execution]]) -> None:
        self._runs = runs
        self._principal = principal
        self._take = take
        self._task: asyncio.Task[None] | None = None
        self._execution: Execution | None = None
        self._users = 0
        self._refused: set[str] = set()
        """Runs that could not be taken: their workflow is not here, or has changed."""
        self.seconds = LOOK_SECONDS
        self.settled = SETTLED_SECONDS

    async def __aenter__(self) -> None:
        self._users += 1
        if self._task is None:
            self._task = asyncio.create_task(self._look_now_and_then(), name="retinue-take-over")

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._users or self._task is None:
            return
        task, self._task = self._task, None
        if self._execution is not None:
            self._execution.end("release")
            await asyncio.wait([task])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _look_now_and_then(self) -> None:
        while self._users:
            await asyncio.sleep(self.seconds)
            try:
                for record in await self._candidates():
                    if self._users:
                        await self._go_on(record)
            except Exception as error:
                log.warning("looking for abandoned runs failed: %s", error)

    async def _candidates(self) -> list[RunRecord]:
        found = await self._runs.abandoned(subject=self._principal.key)

        def worthwhile(tx: Transaction) -> list[RunRecord]:
            return [r for r in found if r.updated_at <= tx.now - self.settled and not _fruitless(tx, r)]

        return [r for r in await self._runs.db.read(worthwhile) if r.id not in self._refused]

    async def _go_on(self, record: RunRecord) -> None:
        try:
            execution = await self._take(record)
        except RetinueError as error:
            log.info("run %s is not taken over: %s", record.id[:8], error)
            self._refused.add(record.id)
            return
        log.warning("run %s was abandoned; this process goes on with it", record.id[:8])
        self._execution = execution
        if not self._users:
            execution.end("release")
        try:
            await self._runs.execute(execution)
        except RetinueError as error:
            log.warning("run %s, which was taken over, was lost: %s", record.id[:8], error)
        finally:
            self._execution = None


def _fruitless(tx: Transaction, record: RunRecord) -> bool:
    rows = tx.all("SELECT type FROM events WHERE run = ? ORDER BY seq DESC LIMIT ?", (record.id, FRUITLESS))
    return len(rows) == FRUITLESS and all(kind == "run.resumed" for (kind,) in rows)
