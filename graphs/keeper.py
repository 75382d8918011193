"""Keeps the leases of this process's executions, and hears of requests to cancel them."""

from __future__ import annotations

import asyncio
import logging
import time

from retinue.database.base import Database, Transaction

from .execution import Execution
from .lease import LEASE_SECONDS, renew

log = logging.getLogger("retinue")

TICK = 0.5
"""Seconds between looks for requests to cancel."""


class Keeper:
    """One task for all executions of a process; it runs only while there are any."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._task: asyncio.Task[None] | None = None
        self._renewed = 0.0
        self.executions: dict[str, Execution] = {}

    def add(self, execution: Execution) -> None:
        if (before := self.executions.get(execution.run)) is not None:
            before.end("lost")  # it was outrun by this process itself
        self.executions[execution.run] = execution
        if self._task is None or self._task.done():
            self._renewed = time.monotonic()
            self._task = asyncio.create_task(self._keep(), name="retinue-keeper")

    def remove(self, execution: Execution) -> None:
        if self.executions.get(execution.run) is execution:
            del self.executions[execution.run]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while self.executions:
            await asyncio.sleep(min(TICK, self._due))
            try:
                await self.look()
            except Exception as error:
                # The next tick tries again; a lease that lapses meanwhile ends its execution at its next write.
                log.warning("the leases of this process could not be renewed: %s", error)

    @property
    def _due(self) -> float:
        """Seconds after which leases are renewed."""
        return min((e.lease.seconds for e in self.executions.values()), default=LEASE_SECONDS) / 3

    async def look(self) -> None:
        """One round: renew what is due, break off what was lost or is to be cancelled."""
        executions = list(self.executions.values())
        if time.monotonic() - self._renewed < self._due:
            asked = await self._db.read(
                lambda tx: tx.all("SELECT id FROM runs WHERE status = 'running' AND cancelling = 1")
            )
            for (run,) in asked:
                if run in self.executions:
                    self.executions[run].end("cancel")
            return

        def work(tx: Transaction) -> list[bool | None]:
            return [renew(tx, e.lease, active=e.active) for e in executions]

        for execution, cancelling in zip(executions, await self._db.write(work), strict=True):
            if self.executions.get(execution.run) is not execution:
                continue  # it ended while the leases were being renewed
            if cancelling is None:
                execution.end("lost")
            elif cancelling:
                execution.end("cancel")
        self._renewed = time.monotonic()
