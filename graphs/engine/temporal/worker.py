"""The worker's side: segments of runs, executed in a bounded number of slots."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from retinue.database.base import Transaction
from retinue.errors import DatabaseError, LeaseLost, RetinueError, RunBusy, RunError, UsageError, WorkflowChanged

from ... import records
from ...execution import Ending, Execution
from ...records import TERMINAL, RunRecord
from ...runs import Runs
from ..base import Ticket
from ..queue import due, give_up, is_due
from . import schedules
from .engine import TemporalEngine
from .flow import RELEASED, Made, RunFlow, ScheduleFlow

log = logging.getLogger("retinue")

MISFITS = 5
"""Attempts after which a run that cannot be executed as things are (no workflow, no model) is stopped."""
ATTEMPTS = 30
"""Attempts of one segment, most of which ended their worker, after which the run is stopped."""

Take = Callable[[RunRecord], Awaitable[Execution]]


class Segments:
    """The activities of one worker."""

    def __init__(self, runs: Runs, take: Take, engine: TemporalEngine) -> None:
        self._runs = runs
        self._take = take
        self._engine = engine
        self._at_work: set[_Segment] = set()
        self._leaving = False

    def leave(self) -> None:
        """Let go of all runs, so that other workers go on with them at once. Calls in flight are waited for."""
        self._leaving = True
        for segment in self._at_work:
            segment.end("release")

    @activity.defn(name="retinue-segment")
    async def segment(self, run: str) -> str:
        """Run until the next question or the end; the status then. Every attempt takes the lease anew."""
        info = activity.info()
        segment = _Segment()
        self._at_work.add(segment)
        if self._leaving:
            segment.end("release")
        # A task of its own: an activity that is cancelled still lets go of its run in order.
        work = asyncio.create_task(self._carry(run, segment, info.attempt), name=f"segment of {run[:8]}")
        beat = asyncio.create_task(_beat((info.heartbeat_timeout or timedelta(seconds=20)).total_seconds() / 4))
        try:
            while True:
                try:
                    return await asyncio.shield(work)
                except asyncio.CancelledError:
                    if work.done():
                        raise
                    segment.end(_why())
        finally:
            beat.cancel()
            self._at_work.discard(segment)

    async def _carry(self, run: str, segment: _Segment, attempt: int) -> str:
        try:
            record, wanted = await self._runs.db.read(lambda tx: _look(records.get(tx, run), tx))
            if not wanted:
                return record.status
            if attempt > ATTEMPTS:
                raise RunError(f"{ATTEMPTS} attempts to execute the run have failed")
            if segment.ending == "release":
                return RELEASED
            return await self._execute(record, segment)
        except RetinueError as error:
            log.warning("run %s, attempt %d: %s", run[:8], attempt, error)
            hopeless = isinstance(error, (UsageError, WorkflowChanged)) and attempt >= MISFITS
            if hopeless or attempt > ATTEMPTS:
                await self._give_up(run, error)
                return "stopped"
            raise _told(error.code) from None
        except Exception as error:
            log.exception("run %s, attempt %d", run[:8], attempt)
            raise _told(type(error).__name__) from None

    async def _execute(self, record: RunRecord, segment: _Segment) -> str:
        execution = await self._take(record)
        segment.has(execution)
        outcome = await self._runs.execute(execution)
        # "running": it was let go of so that another worker takes it.
        return RELEASED if outcome.status == "running" else outcome.status

    async def _give_up(self, run: str, error: RetinueError) -> None:
        record = await self._runs.db.read(lambda tx: records.get(tx, run))
        await give_up(self._runs.db, record, error, seconds=self._engine.address.heartbeat)

    @activity.defn(name="retinue-cancel")
    async def cancel(self, run: str) -> None:
        """End a run that Temporal was asked to cancel. Tried again until whoever holds its lease has let go of it."""
        try:
            record = await self._runs.db.read(lambda tx: records.get(tx, run))
            ended = record.status in TERMINAL or await self._runs.cancel(record, principal=record.principal)
        except (LeaseLost, DatabaseError, RunBusy) as error:
            raise _told(error.code) from None
        except RetinueError as error:  # it ended in the meantime, or was pruned
            log.info("run %s: %s", run[:8], error)
            return
        if not ended:
            raise _told("still executing")

    @activity.defn(name="retinue-make")
    async def make(self, name: str, execution: str) -> Made:
        """Make the run of a schedule, once for each execution of it."""
        try:
            record = await schedules.make(self._runs.db, name, execution)
        except RetinueError as error:
            log.warning("schedule %s: %s", name, error)
            raise _told(error.code) from None
        ticket = Ticket.of(record)
        address = self._engine.address
        return Made(self._engine.order(record.id), ticket.workflow, ticket.tenant, address.priority)


class _Segment:
    """One attempt: its execution, once there is one, and why it is to end."""

    def __init__(self) -> None:
        self.ending: Ending | None = None
        self._execution: Execution | None = None

    def has(self, execution: Execution) -> None:
        self._execution = execution
        if self.ending is not None:
            execution.end(self.ending)

    def end(self, why: Ending) -> None:
        self.ending = self.ending or why
        if self._execution is not None:
            self._execution.end(why)


def _look(record: RunRecord, tx: Transaction) -> tuple[RunRecord, bool]:
    return record, is_due(tx, record)


def _why() -> Ending:
    details = activity.cancellation_details()
    if details is not None and details.cancel_requested:
        return "cancel"
    if details is not None and details.worker_shutdown:
        return "release"
    return "lost"  # the attempt was given up on: another one has the run, or will have


def _told(what: str) -> ApplicationError:
    """A failure as Temporal keeps it: a code, no message and no cause, which might quote what it was about."""
    return ApplicationError(what, type=what)


async def _beat(seconds: float) -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(seconds)


async def work(
    runs: Runs,
    take: Take,
    engine: TemporalEngine,
    *,
    slots: int,
    grace: float,
    leaving: asyncio.Event,
    sweep: float,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Execute runs in at most ``slots`` slots until ``leaving`` is set.

    Then no new segment is taken; those at work have ``grace`` seconds to end, and are let go of after that.

    About every ``sweep`` seconds the database is looked at for runs that no worker was told of, since a signal or a
    start may get lost.

    Raises `Unreachable` where Temporal does not answer at the start.
    """
    client = await engine.client()
    segments = Segments(runs, take, engine)
    heartbeat = engine.address.heartbeat
    worker = Worker(
        client,
        task_queue=engine.address.queue,
        workflows=[RunFlow, ScheduleFlow],
        activities=[segments.segment, segments.cancel, segments.make],
        workflow_runner=UnsandboxedWorkflowRunner(),  # it would import everything anew for each run
        max_cached_workflows=0,  # they are short; and of one cached by a dead worker nobody would hear for 10 s
        max_concurrent_activities=slots,
        max_heartbeat_throttle_interval=timedelta(seconds=heartbeat / 4),
        graceful_shutdown_timeout=timedelta(days=1),  # we let go of runs ourselves
    )
    sweeper = asyncio.create_task(_sweep(runs, engine, sweep), name="retinue-sweep")
    serving = asyncio.create_task(worker.run(), name="retinue-worker")
    try:
        started()
        left = asyncio.create_task(leaving.wait())
        await asyncio.wait([serving, left], return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if serving.done():
            serving.result()
    finally:
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        if not serving.done():
            await _drain(worker, serving, segments, grace)


async def _drain(worker: Worker, serving: asyncio.Task[None], segments: Segments, grace: float) -> None:
    stopping = asyncio.create_task(worker.shutdown(), name="retinue-drain")
    await asyncio.wait([stopping], timeout=grace)
    segments.leave()
    await asyncio.gather(stopping, serving, return_exceptions=True)


async def _sweep(runs: Runs, engine: TemporalEngine, seconds: float) -> None:
    """Look for runs that should be executed and that no worker was told of. Workers do this at different times."""
    while True:
        await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311
        try:
            for record in await due(runs.db):
                if record.status == "running" and record.owner is None:
                    await engine.start(Ticket.of(record))  # most of these have their workflow, and wait for a slot
                else:
                    await engine.wake(Ticket.of(record))
        except Exception as error:
            log.warning("looking for forgotten runs failed: %s", error)
