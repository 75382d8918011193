"""Runs: started, resumed, paused, ended, each by one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import anyio
import orjson
from langchain_core.runnables.config import var_child_runnable_config

from retinue import audit, telemetry
from retinue.database.base import Database, Transaction
from retinue.errors import ConfigError, RunBusy, RunCancelled, RunError, RunNotFound, WorkflowChanged

from ..agents.budget import Budget
from ..agents.equipment import Equipment
from ..agents.scope import Note
from ..auth.principal import Principal
from . import fork as forks
from . import questions, records
from .checkpoints import Checkpoints, serializer_for
from .drive import Outcome, drive, end, expire
from .events import Line
from .execution import Account, Execution, current
from .fingerprint import differences, fingerprint
from .follow import Bus
from .journal import append_events
from .keeper import Keeper
from .lease import LEASE_SECONDS, Lease, acquire, check
from .questions import Channel, Question
from .records import TERMINAL, RunRecord
from .workflow import Workflow

T = TypeVar("T")

log = logging.getLogger("retinue")


class Runs:
    """The runs of one database, and the executions of this process.

    ``lease_seconds`` is how long a process that no longer answers keeps its runs. A dead one loses them at once where
    the database can tell.
    """

    def __init__(self, db: Database, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.db = db
        self.bus = Bus()
        self._lease_seconds = lease_seconds
        self._keeper = Keeper(db)
        self._dropped: dict[str, Lease] = {}
        """Leases of this process that could not be let go of."""
        self._saver: Callable[..., Checkpoints] = self._make_saver

    def _make_saver(self, *types: type[Any]) -> Checkpoints:
        return Checkpoints(cast(Database, _Fenced(self.db)), serde=serializer_for(*types))

    async def close(self) -> None:
        await self._keeper.close()

    # Beginning

    async def start(
        self,
        workflow: Workflow,
        input: Any,  # noqa: A002
        *,
        principal: Principal,
        equipment: Equipment,
        settings: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        run: str | None = None,
        retry_of: str | None = None,
        parent: Execution | None = None,
    ) -> Execution:
        """Make a run and take its lease, in one transaction. Nothing has been executed yet: see `execute`.

        With ``parent`` it is a run that a member of that one makes: it spends from the parent's budget.

        Raises `InvalidInput`, `ConfigError` (a money budget and a model without a price), `RunExists` for an id that
        is taken, `DatabaseError`.
        """
        return await self._make(
            workflow,
            workflow.read_input(input),
            principal=principal,
            equipment=equipment,
            settings=dict(settings or {}),
            limits=budget or workflow.budget,
            id_=run or uuid.uuid4().hex,
            retry_of=retry_of,
            parent=parent,
        )

    async def fork(
        self,
        record: RunRecord,
        at: int,
        workflow: Workflow,
        equipment: Equipment,
        *,
        changes: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
        run: str | None = None,
    ) -> Execution:
        """Make a new run that shares the history of another one up to superstep ``at``, and take its lease.

        ``changes`` sets fields of the state there (of the input, at -1), one inside another as ``draft.title``. The
        other run is left as it is. Its limits hold for the new one from zero, or those of ``budget``.

        Raises `UsageError`, `InvalidInput`, `WorkflowChanged` where the graph is another one (prompts and tools may
        be), `NodeFailed` where the edges fail on the edited state, and what `start` does.
        """
        saver = cast(Checkpoints, workflow.compile(self._saver).checkpointer)
        id_ = run or uuid.uuid4().hex
        history = await forks.prepare(self.db, saver, record, at, workflow, id_, changes or {})
        if moved := forks.graph_changes(record.fingerprint, fingerprint(workflow, equipment)):
            raise WorkflowChanged(
                f"run {record.id[:8]} was started by another graph of {workflow.name}: {'; '.join(moved[:8])}",
                changes=moved,
            )
        return await self._make(
            workflow,
            history.input,
            principal=record.principal,
            equipment=equipment,
            settings={**record.settings, "forked_from": history.origin},
            limits=budget or record.budget,
            id_=id_,
            history=history,
        )

    async def _make(
        self,
        workflow: Workflow,
        data: dict[str, Any],
        *,
        principal: Principal,
        equipment: Equipment,
        settings: dict[str, Any],
        limits: Budget,
        id_: str,
        retry_of: str | None = None,
        parent: Execution | None = None,
        history: forks.History | None = None,
    ) -> Execution:
        _check_prices(limits, equipment)
        shape = fingerprint(workflow, equipment)
        origin = {} if history is None else {"forked_from": history.origin}
        note = Note(type="run.started", body={"workflow": workflow.name, **_models(equipment), **origin})
        with telemetry.span(f"start {workflow.name}", run=id_, workflow=workflow.name) as span:
            trace = span.traceparent

        def work(tx: Transaction) -> tuple[Lease, list[Line]]:
            if parent is not None:
                check(tx, parent.lease)
            records.insert(
                tx,
                id_,
                workflow=workflow.name,
                input=data,
                principal=principal,
                settings=settings,
                fingerprint=shape,
                budget=limits,
                traceparent=trace,
                retry_of=retry_of,
                root=None if parent is None else parent.account.lease.run,
            )
            lease = self._acquire(tx, id_)
            tx.execute("UPDATE runs SET seq = 1 WHERE id = ?", (id_,))
            lines = append_events(tx, id_, 1, [note])
            if history is not None:
                history.write(tx)
            body = {"workflow": workflow.name, "input": audit.digest(data), **origin}
            audit.append(tx, actor=principal.key, action="run.started", run=id_, body=body)
            tx.after_commit(lambda: self.bus.publish(id_, lines))
            return lease, lines

        lease, _ = await self.db.write(work)
        execution = Execution(
            run=id_,
            workflow=workflow,
            db=self.db,
            bus=self.bus,
            lease=lease,
            principal=principal,
            equipment=equipment,
            account=Account(lease=lease, budget=limits, active_before=0.0) if parent is None else parent.account,
            preapproved=tuple(settings.get("approve", ())),
            active_before=0.0,
            runs=self,
            parent=parent,
            traceparent=trace,
            # With a history there is something to go on from; the input is in its first superstep.
            input=data if history is None or history.empty else None,
        )
        return self._begin(execution)

    def _begin(self, execution: Execution) -> Execution:
        if (parent := execution.parent) is not None:
            parent.children.add(execution)
            if parent.ending is not None:
                execution.end(parent.ending)
        self._keeper.add(execution)
        return execution

    async def resume(
        self, record: RunRecord, workflow: Workflow, equipment: Equipment, *, parent: Execution | None = None
    ) -> Execution:
        """Take the lease of a run that is not over. One that a member made is resumed by its ``parent`` alone.

        Raises `RunBusy`, `WorkflowChanged` with what differs, `RunError` for a run that is over.
        """
        now = fingerprint(workflow, equipment)
        note_body = _models(equipment)

        def work(tx: Transaction) -> tuple[Lease, RunRecord]:
            if parent is not None:
                check(tx, parent.lease)
            fresh = records.get(tx, record.id, lock=True)
            if fresh.root is not None and parent is None:
                raise RunError(f"run {record.id[:8]} is part of another one", hint=f"Resume {fresh.root[:8]}.")
            if fresh.status in TERMINAL:
                raise RunError(f"run {record.id[:8]} is {fresh.status}", hint="Start a new one with `retinue run`.")
            # The parent's lease is held, so whoever still has this one has lost the parent and knows it or soon will.
            lease = self._acquire(tx, record.id, alive=self.db.alive if parent is None else _gone)
            if not fresh.fingerprint:  # somebody who did not execute it has made the run: see `engine.queue`
                _check_prices(fresh.budget, equipment)
                tx.execute("UPDATE runs SET fingerprint = ? WHERE id = ?", (orjson.dumps(now).decode(), record.id))
            elif changes := differences(fresh.fingerprint, now):
                raise WorkflowChanged(
                    f"run {record.id[:8]} was started by another version of {workflow.name}: {'; '.join(changes[:8])}",
                    changes=changes,
                )
            notes = [*expire(tx, record.id), Note(type="run.resumed", body={"epoch": lease.epoch, **note_body})]
            row = tx.one(
                "UPDATE runs SET status = 'running', seq = seq + ?, updated_at = ? WHERE id = ? RETURNING seq",
                (len(notes), tx.now, record.id),
            )
            assert row is not None
            lines = append_events(tx, record.id, row[0], notes)
            audit.append(
                tx, actor=fresh.principal.key, action="run.resumed", run=record.id, body={"epoch": lease.epoch}
            )
            tx.after_commit(lambda: self.bus.publish(record.id, lines))
            return lease, fresh

        lease, fresh = await self.db.write(work)
        execution = Execution(
            run=record.id,
            workflow=workflow,
            db=self.db,
            bus=self.bus,
            lease=lease,
            principal=fresh.principal,
            equipment=equipment,
            account=Account(lease=lease, budget=fresh.budget, active_before=fresh.active)
            if parent is None
            else parent.account,
            preapproved=tuple(fresh.settings.get("approve", ())),
            active_before=fresh.active,
            runs=self,
            parent=parent,
            traceparent=fresh.traceparent,
        )
        if fresh.cancelling:  # asked for while its last process was dying
            execution.end("cancel")
        return self._begin(execution)

    def _acquire(self, tx: Transaction, run: str, *, alive: Callable[[str], bool | None] | None = None) -> Lease:
        if (dropped := self._dropped.get(run)) is not None:  # we live, but no longer work on it
            tx.execute(
                "UPDATE runs SET owner = NULL WHERE id = ? AND owner = ? AND epoch = ?",
                (run, dropped.owner, dropped.epoch),
            )
        return acquire(tx, run, owner=self.db.owner, seconds=self._lease_seconds, alive=alive or self.db.alive)

    # Executing

    async def execute(self, execution: Execution) -> Outcome:
        """Run until the next question or the end, and let go of the lease.

        A cancelled caller stops the run: it can be resumed. The cancellation is passed on when that is done. Raises
        only what leaves the run as it was found on disk (`LeaseLost`, `DatabaseError`) and the caller's own
        cancellation; any other error is in the outcome.
        """
        # A task of its own: reasons to break it off never mix with its caller's, and letting go is never half done.
        # And a context without LangGraph's own: a graph in a node of another would be taken for a part of it.
        context = contextvars.copy_context()
        context.run(var_child_runnable_config.set, None)
        task = asyncio.create_task(self._execute(execution), name=f"run {execution.run[:8]}", context=context)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            execution.end("stop")
            await _finished(task)
            raise

    async def _execute(self, execution: Execution) -> Outcome:
        current.set(execution)
        try:
            name, trace = execution.workflow.name, execution.traceparent
            where = {"parent": trace} if execution.fresh else {"link": trace}
            with telemetry.span(f"run {name}", **where, run=execution.run, workflow=name):
                return await drive(execution, self._saver)
        finally:
            if execution.outcome is None:  # the database failed, or the lease is lost
                self._dropped[execution.run] = execution.lease
            self._keeper.remove(execution)
            if execution.parent is not None:
                execution.parent.children.discard(execution)

    # From outside

    async def answer(self, question: str, value: Any, *, principal: Principal, channel: Channel) -> Question:
        """Close an open question, once. See `questions.answer`; whoever executes the run goes on with it."""
        closed, line = await questions.answer(self.db, question, value, principal=principal, channel=channel)
        self.bus.publish(closed.run, [line])
        return closed

    async def cancel(self, record: RunRecord, *, principal: Principal) -> bool:
        """Ask for the end of a run. True: it has ended; False: its process has been asked to end it.

        Raises `RunError` for a run that is over, `RunNotFound` for somebody else's.
        """

        def work(tx: Transaction) -> bool:
            fresh = records.get(tx, record.id, lock=True)
            if fresh.principal.key != principal.key:
                raise RunNotFound(f"there is no run {record.id}")
            if fresh.root is not None:
                raise RunError(f"run {record.id[:8]} is part of another one", hint=f"Cancel {fresh.root[:8]}.")
            if fresh.status in TERMINAL:
                raise RunError(f"run {record.id[:8]} is already {fresh.status}", hint="There is nothing to cancel.")
            try:
                lease = self._acquire(tx, record.id)
            except RunBusy:
                tx.execute("UPDATE runs SET cancelling = 1 WHERE id = ?", (record.id,))
                audit.append(tx, actor=principal.key, action="run.cancel_asked", run=record.id, body={})
                return False
            end(tx, lease, "cancelled", error=RunCancelled("the run was cancelled"), by=principal.key,
                active=fresh.active, then=lambda _, lines: self.bus.publish(record.id, lines))  # fmt: skip
            return True

        ended = await self.db.write(work)
        if not ended and (execution := self._keeper.executions.get(record.id)) is not None:
            execution.end("cancel")  # ours: no need to wait until the keeper hears of it
        return ended

    async def abandoned(self, *, subject: str | None = None) -> list[RunRecord]:
        """What `recover` takes over: runs that say they are running while no process executes them, and those that
        wait for nothing, because whoever answered died before going on, or because their questions have expired.
        """

        def work(tx: Transaction) -> list[str]:
            rows = tx.all(
                "SELECT id, owner, lease_until FROM runs WHERE root IS NULL AND (status = 'running' "
                "OR status = 'waiting' AND NOT EXISTS (SELECT 1 FROM questions q JOIN runs r ON r.id = q.run "
                "WHERE (r.id = runs.id OR r.root = runs.id) AND q.status = 'open' "
                "AND (q.expires_at IS NULL OR q.expires_at > ?))) ORDER BY created_at",
                (tx.now,),
            )
            return [
                run
                for run, owner, until in rows
                if owner is None or until is None or until <= tx.now or self.db.alive(owner) is False
            ]

        ids = await self.db.read(work)
        found = [await self.db.read(lambda tx, id_=id_: records.get(tx, id_)) for id_ in ids]
        return [record for record in found if subject is None or record.principal.key == subject]


class _Fenced:
    """The database as savers see it: a write counts only while the execution that makes it owns its run.

    That execution, and not the one that this process may have begun since on the same run.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        lease = current.get().lease

        @functools.wraps(work)
        def fenced(tx: Transaction) -> T:
            check(tx, lease)
            return work(tx)

        return await self._db.write(fenced, flush=flush)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._db.read(work)


def _gone(owner: str) -> bool:
    return False


async def _finished(task: asyncio.Task[Any]) -> None:
    """Wait for a task to end, however often the caller is cancelled meanwhile."""
    with anyio.CancelScope(shield=True):  # a cancelled scope of anyio's would come again and again
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("a run could not be let go of: %s", error)


def _models(equipment: Equipment) -> dict[str, Any]:
    models = {name: model.name for name, model in equipment.models.items()}
    return {"models": models, "language_model": equipment.language_model}


def _check_prices(budget: Budget, equipment: Equipment) -> None:
    if budget.usd is None:
        return
    for model in equipment.models.values():
        if model.price is None:
            raise ConfigError(
                f"the price of {model.name} is not known, and the run has a money budget",
                hint=f'Set [prices."{model.name}"] in retinue.toml, or give a budget in tokens instead of usd.',
            )
