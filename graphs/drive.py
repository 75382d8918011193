"""One execution from its lease to its end: LangGraph is invoked until the run waits for people or is over.

Resuming is an invocation with no input: it re-enters just the tasks still open, and those read their answers from the
database. An interrupt of a user's own node is a question too, and is resumed with its answer.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError, is_invalid_resume
from langgraph.types import Command, Interrupt

from retinue import audit
from retinue.database.base import Transaction
from retinue.errors import (
    BudgetExceeded,
    DatabaseError,
    ErrorBody,
    LeaseLost,
    NodeFailed,
    PolicyDenied,
    RetinueError,
    RunCancelled,
    RunError,
)

from ..agents.scope import Ask, Note
from . import questions, records
from .checkpoints import Checkpoints
from .events import Line
from .execution import Execution
from .journal import append_events
from .lease import Lease, lost
from .nodes import QUESTIONS
from .records import TERMINAL, Status
from .workflow import Compiled

log = logging.getLogger("retinue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an execution ended."""

    run: str
    status: Status
    output: Any = None
    error: RetinueError | None = None


async def drive(execution: Execution, saver: Callable[..., Checkpoints]) -> Outcome:
    """Run until the next question or the end, and let go of the lease. See `Runs.execute`."""
    timer = None
    if execution.deadline is not None:
        left = max(0.0, execution.deadline - execution.began)
        timer = asyncio.get_running_loop().call_later(left, execution.end, "time")
    try:
        return await _until_pause_or_end(execution, saver)
    except (LeaseLost, DatabaseError):
        raise
    except asyncio.CancelledError:
        return await _broken_off(execution)
    except BaseExceptionGroup as group:
        return await _failed(execution, _first(group))
    except Exception as error:
        return await _failed(execution, error)
    finally:
        if timer is not None:
            timer.cancel()


async def _until_pause_or_end(execution: Execution, saver: Callable[..., Checkpoints]) -> Outcome:
    graph = execution.workflow.compile(saver)
    step = None if execution.fresh else await _last_step(execution)
    config: RunnableConfig = {
        "configurable": {"thread_id": execution.run},
        "max_concurrency": execution.workflow.max_concurrency,
        # LangGraph counts anew at every resume; the limit is on the run.
        "recursion_limit": max(1, execution.workflow.max_steps - (step or 0)),
    }
    command = await _first_command(execution, graph, config, begun=step is not None)
    while True:
        try:
            # v1: v2 validates the output schema at every superstep, so a required field fails before it can be filled.
            state: Any = await graph.ainvoke(command, config, durability="sync")  # pyright: ignore[reportUnknownMemberType]
        except Exception as error:
            if not is_invalid_resume(error) or not isinstance(command, Command):
                raise
            await _ask_again(execution, cast("dict[str, Any]", command.resume), str(error))
            command = None
            continue
        interrupts: Sequence[Interrupt] = state.get("__interrupt__", ()) if isinstance(state, dict) else ()
        if not interrupts:
            output = execution.workflow.write_output(state)
            return await _close(execution, "done", output=output)
        if await _pause(execution, interrupts):
            return Outcome(run=execution.run, status="waiting")
        answers = await _answers(execution, [i.id for i in interrupts])
        command = Command(resume=answers) if answers else None


async def _last_step(execution: Execution) -> int | None:
    """The superstep of the last checkpoint; None before the first."""
    row = await execution.db.read(
        lambda tx: tx.one(
            "SELECT metadata FROM checkpoints WHERE thread = ? AND ns = '' ORDER BY seq DESC LIMIT 1", (execution.run,)
        )
    )
    return None if row is None else int(orjson.loads(row[0])["step"])


async def _first_command(execution: Execution, graph: Compiled, config: RunnableConfig, *, begun: bool) -> Any:
    if not begun:
        if execution.input is not None:
            return execution.input
        return (await execution.db.read(lambda tx: records.get(tx, execution.run))).input
    asked = await execution.db.read(lambda tx: questions.of_run(tx, execution.run))
    if not any(q.interrupt_id is not None and q.status == "answered" for q in asked):
        return None
    snapshot = await graph.aget_state(config)
    answers = await _answers(execution, [i.id for i in snapshot.interrupts])
    return Command(resume=answers) if answers else None


# Pausing


async def _pause(execution: Execution, interrupts: Sequence[Interrupt]) -> bool:
    """Wait for people, unless an answer came in the meantime. Looking and letting go are one transaction."""

    def work(tx: Transaction) -> bool:
        known = {q.interrupt_id: q for q in questions.of_run(tx, execution.run) if q.interrupt_id is not None}
        pending: list[str] = []
        notes: list[Note] = []
        for interrupt in interrupts:
            if (ours := _ours(interrupt)) is not None:
                pending += ours
                continue
            question = known.get(interrupt.id)
            if question is None or question.status == "withdrawn":
                id_, note = _insert(tx, execution.run, interrupt, again=question is not None)
                notes.append(note)
            else:
                id_ = question.id
            pending.append(id_)
        for id_ in questions.expire(tx, execution.run):
            notes.append(_expired(id_))
        found = [q for q in questions.of_run(tx, execution.run) if q.id in pending]
        waits = all(q.status == "open" for q in found)
        if waits:
            body = {"questions": [{"id": q.id, "kind": q.kind, "title": q.title} for q in found]}
            lines = end(tx, execution.lease, "waiting", notes=notes, body=body, active=execution.active)
        else:
            lines = _tell(tx, execution.lease, notes)
        tx.after_commit(lambda: execution.bus.publish(execution.run, lines))
        return waits

    return await execution.db.write(work)


def _ours(interrupt: Interrupt) -> list[str] | None:
    value = interrupt.value
    return value[QUESTIONS] if isinstance(value, dict) and QUESTIONS in value else None


def _insert(tx: Transaction, run: str, interrupt: Interrupt, *, again: bool) -> tuple[str, Note]:
    """A question for an interrupt that a user's own node raised."""
    value = interrupt.value
    title = value if isinstance(value, str) else "The workflow asks"
    schema = interrupt.response_schema if isinstance(interrupt.response_schema, dict) else {}
    kind = "choice" if "enum" in schema else "text"
    key = f"interrupt:{interrupt.id}{f'/{tx.now}' if again else ''}"
    ask = Ask(key=key, kind=kind, title=title[:200], body={"value": value}, schema=schema)
    id_ = questions.insert(tx, run, "", ask, interrupt=interrupt.id)
    return id_, Note(type="question.asked", body={"question": id_, "kind": kind, "title": ask.title, "path": ""})


def _expired(id_: str) -> Note:
    return Note(type="question.expired", body={"question": id_, "kind": "", "by": "", "channel": ""})


async def _answers(execution: Execution, interrupts: Sequence[str]) -> dict[str, Any]:
    """Answers to interrupts of users' own nodes, by interrupt id."""
    asked = await execution.db.read(lambda tx: questions.of_run(tx, execution.run))
    return {
        q.interrupt_id: q.answer
        for q in asked
        if q.interrupt_id is not None and q.interrupt_id in interrupts and q.status == "answered"
    }


async def _ask_again(execution: Execution, given: dict[str, Any], problem: str) -> None:
    """An answer that fits its JSON Schema and not the node's own type: withdraw it; the node asks again."""
    log.info("answers refused by the node that asked: %s", problem)

    def work(tx: Transaction) -> None:
        for interrupt in given:
            tx.execute(
                "UPDATE questions SET status = 'withdrawn' WHERE run = ? AND interrupt_id = ? AND status = 'answered'",
                (execution.run, interrupt),
            )

    await execution.db.write(work)


# Ending


async def _broken_off(execution: Execution) -> Outcome:
    """The task was cancelled: by us, for a reason, or by its operator, who may resume the run."""
    task = asyncio.current_task()
    if execution.ending is not None and task is not None:
        task.uncancel()
    match execution.ending:
        case "lost":
            raise lost(execution.lease)
        case "cancel":
            return await _close(execution, "cancelled", error=RunCancelled("the run was cancelled"))
        case "time":
            error = BudgetExceeded("the run's seconds are spent", limit="seconds")
            return await _close(execution, "refused", error=error)
        case "stop" | None:
            error = RunError("the run was stopped", hint=f"`retinue resume {execution.run[:8]}` goes on with it.")
            await _close(execution, "stopped", error=error)
            raise asyncio.CancelledError


async def _failed(execution: Execution, error: BaseException) -> Outcome:
    if isinstance(error, (LeaseLost, DatabaseError)):
        raise error
    known = _typed(error)
    status: Status = "refused" if isinstance(known, (BudgetExceeded, PolicyDenied)) else "failed"
    return await _close(execution, status, error=known)


def _typed(error: BaseException) -> RetinueError:
    if isinstance(error, RetinueError):
        return error
    if isinstance(error, GraphRecursionError):
        return RunError(
            "the run passed its limit of supersteps", hint="Raise the workflow's max_steps, or end its loop."
        )
    log.debug("a node failed", exc_info=error)
    frame = next((f for f in reversed(traceback.extract_tb(error.__traceback__))), None)
    where = f" ({frame.filename}:{frame.lineno})" if frame else ""
    return NodeFailed(f"{type(error).__name__}: {error}{where}"[:1000])


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error inside a group; what tells of the run itself goes before what happened in it."""
    errors: list[BaseException] = []
    for error in group.exceptions:
        errors.append(
            _first(cast("BaseExceptionGroup[BaseException]", error)) if isinstance(error, BaseExceptionGroup) else error
        )
    return min(errors, key=lambda e: 0 if isinstance(e, (LeaseLost, DatabaseError)) else 1)


async def _close(
    execution: Execution, status: Status, *, output: Any = None, error: RetinueError | None = None
) -> Outcome:
    body = {"output": output} if error is None else {"error": error.body()}

    def work(tx: Transaction) -> None:
        lines = end(
            tx, execution.lease, status,
            body=body, output=output, error=None if error is None else error.body(),
            active=execution.active, by=execution.principal.key,
        )  # fmt: skip
        tx.after_commit(lambda: execution.bus.publish(execution.run, lines))

    await execution.db.write(work)
    return Outcome(run=execution.run, status=status, output=output, error=error)


def end(
    tx: Transaction,
    lease: Lease,
    status: Status,
    *,
    active: float,
    notes: Sequence[Note] = (),
    body: dict[str, Any] | None = None,
    output: Any = None,
    error: ErrorBody | None = None,
    by: str = "",
) -> list[Line]:
    """Let go of the lease with this status and the event of it, if the lease still holds."""
    if body is None:
        error = RunCancelled("the run was cancelled").body()
        body = {"error": error}
    row = tx.one(
        "UPDATE runs SET status = ?, output = ?, error = ?, active = ?, owner = NULL, lease_until = NULL, cancelling = 0, "
        "seq = seq + ?, updated_at = ? WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ? "
        "RETURNING seq, tokens, cost, turns",
        (
            status, None if output is None else orjson.dumps(output).decode(),
            None if error is None else orjson.dumps(error).decode(), active, len(notes) + 1, tx.now,
            lease.run, lease.owner, lease.epoch, tx.now,
        ),
    )  # fmt: skip
    if row is None:
        raise lost(lease)
    seq, tokens, cost, turns = row
    last = Note(type=f"run.{status}", body={**body, "spent": records.spent(tokens, cost, turns, active)})
    if status in TERMINAL:
        questions.withdraw(tx, lease.run)
        record = {"status": status, "output": audit.digest(output), "code": None if error is None else error["code"]}
        audit.append(tx, actor=by, action="run.ended", run=lease.run, body=record)
    return append_events(tx, lease.run, seq, [*notes, last])


def _tell(tx: Transaction, lease: Lease, notes: Sequence[Note]) -> list[Line]:
    row = tx.one(
        "UPDATE runs SET seq = seq + ? WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ? RETURNING seq",
        (len(notes), lease.run, lease.owner, lease.epoch, tx.now),
    )
    if row is None:
        raise lost(lease)
    return append_events(tx, lease.run, row[0], notes)
