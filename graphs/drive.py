"""One execution from its lease to its end: LangGraph is invoked until the run waits for people or is over.

Resuming is an invocation with no input: it re-enters just the tasks still open, and those read their answers from the
database. An interrupt of a user's own node is a question too, and is resumed with its answer.
"""

from __future__ import annotations

import asyncio
import logging
import sysconfig
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError, is_invalid_resume
from langgraph.types import Command, Interrupt
from pydantic import ValidationError

from retinue import audit
from retinue.database.base import Transaction
from retinue.errors import (
    BudgetExceeded,
    DatabaseError,
    LeaseLost,
    NodeFailed,
    PolicyDenied,
    RetinueError,
    RunCancelled,
    RunError,
    Timeout,
)

from ..agents.scope import Ask, Note
from . import questions, records
from .checkpoints import Checkpoints
from .events import Line, dump
from .execution import Execution
from .journal import append_events
from .lease import Lease, check, lost
from .nodes import QUESTIONS
from .questions import Question
from .records import TERMINAL, Status
from .workflow import Compiled

log = logging.getLogger("retinue")

_LIBRARIES = tuple({"<", *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))})
"""Where files begin that are not the user's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an execution ended."""

    run: str
    status: Status
    output: Any = None
    error: RetinueError | None = None
    questions: tuple[str, ...] = ()
    """What a waiting run waits for, questions of the runs that its members made among them."""


async def drive(execution: Execution, saver: Callable[..., Checkpoints]) -> Outcome:
    """Run until the next question or the end, and let go of the lease. See `Runs.execute`.

    Runs in a task of its own, which only `Execution.end` cancels, and only while the graph is at work.
    """
    timer = None
    deadline = execution.account.deadline
    if deadline is not None:
        left = max(0.0, deadline - time.monotonic())
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
        execution.task = None
        if timer is not None:
            timer.cancel()


async def _until_pause_or_end(execution: Execution, saver: Callable[..., Checkpoints]) -> Outcome:
    graph = execution.workflow.compile(saver)
    step = None if execution.fresh else await _last_step(execution)
    most = execution.workflow.max_steps
    config: RunnableConfig = {
        "configurable": {"thread_id": execution.run},
        "max_concurrency": execution.workflow.max_concurrency,
        # LangGraph counts anew at every resume, from the superstep after the last; the limit is on the run.
        "recursion_limit": most if step is None else max(1, most - step - 2),
    }
    if step is not None and step >= most and (await graph.aget_state(config)).next:
        raise _endless()
    command = await _first_command(execution, graph, config, begun=step is not None)
    while True:
        try:
            state = await _invoke(execution, graph, command, config)
        except ValidationError as error:
            if not is_invalid_resume(error) or not isinstance(command, Command):
                raise
            given = cast("dict[str, Any]", command.resume)
            command = await _ask_again(execution, given, [i.id for i in await _pending(graph, config)], error)
            continue
        values = cast("dict[str, Any]", state) if isinstance(state, dict) else {}
        interrupts: Sequence[Interrupt] = values.get("__interrupt__", ())
        if not interrupts:
            output = execution.workflow.write_output(state)
            return await _close(execution, "done", output=output)
        if await _pause(execution, interrupts):
            assert execution.outcome is not None
            return execution.outcome
        answers = await _answers(execution, [i.id for i in interrupts])
        command = Command(resume=answers) if answers else None


async def _invoke(execution: Execution, graph: Compiled, command: Any, config: RunnableConfig) -> Any:
    """Run the graph until it stops by itself, or is broken off."""
    if execution.ending is None:
        execution.task = asyncio.current_task()
        try:
            # v1: v2 validates the output schema at every superstep, so a required field fails before it can be filled.
            state: Any = await graph.ainvoke(command, config, durability="sync")  # pyright: ignore[reportUnknownMemberType]
        finally:
            execution.task = None
        if execution.ending is None:
            return state
    # Asked for before there was a task to cancel, or swallowed by a node.
    raise asyncio.CancelledError


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
    answers = await _answers(execution, [i.id for i in await _pending(graph, config)])
    return Command(resume=answers) if answers else None


async def _pending(graph: Compiled, config: RunnableConfig) -> Sequence[Interrupt]:
    """The interrupts that wait for an answer."""
    return (await graph.aget_state(config)).interrupts


# Pausing


async def _pause(execution: Execution, interrupts: Sequence[Interrupt]) -> bool:
    """Wait for people, unless an answer came in the meantime. Looking and letting go are one transaction."""

    def work(tx: Transaction) -> bool:
        check(tx, execution.lease)  # from here on, whoever answers waits
        asked = questions.of_run(tx, execution.run)
        pending: list[str] = []
        notes: list[Note] = []
        for interrupt in interrupts:
            if (ours := _ours(interrupt)) is not None:
                pending += ours
                continue
            known = [q for q in asked if q.interrupt_id == interrupt.id]
            id_ = next((q.id for q in known if q.status != "withdrawn"), None)
            if id_ is None:
                id_, note = _insert(tx, execution.run, interrupt, known)
                notes.append(note)
            pending.append(id_)
        notes += expire(tx, execution.run)
        found = questions.by_id(tx, pending)  # those of runs that its members made are among them
        waits = all(q.status == "open" for q in found)
        if waits:
            body = {"questions": [{"id": q.id, "kind": q.kind, "title": q.title} for q in found]}
            end(tx, execution.lease, "waiting", notes=notes, body=body, by=execution.principal.key,
                active=execution.active, then=partial(_let_go, execution), pending=pending)  # fmt: skip
        else:
            lines = _tell(tx, execution.lease, notes)
            tx.after_commit(lambda: execution.bus.publish(execution.run, lines))
        return waits

    return await execution.db.write(work)


def _ours(interrupt: Interrupt) -> list[str] | None:
    value = cast("dict[str, Any]", interrupt.value) if isinstance(interrupt.value, dict) else {}
    return value.get(QUESTIONS)


def _insert(tx: Transaction, run: str, interrupt: Interrupt, before: Sequence[Question]) -> tuple[str, Note]:
    """A question for an interrupt that a user's own node raised; ``before`` are those withdrawn for a bad answer."""
    value = _plain(interrupt.value)
    title = value if isinstance(value, str) else "The workflow asks"
    schema = interrupt.response_schema if isinstance(interrupt.response_schema, dict) else {}
    if not questions.usable(schema):
        log.warning("the response_schema of an interrupt is not valid JSON Schema; any answer is taken")
        schema = {}
    kind = "choice" if "enum" in schema else "text"
    key = f"interrupt:{interrupt.id}{f'/{len(before)}' if before else ''}"
    body = {"value": value}
    if problem := next((q.body["problem"] for q in reversed(before) if "problem" in q.body), None):
        body["problem"] = problem
    ask = Ask(key=key, kind=kind, title=title[:200], body=body, schema=schema)
    id_ = questions.insert(tx, run, "", ask, interrupt=interrupt.id)
    return id_, Note(type="question.asked", body={"question": id_, "kind": kind, "title": ask.title, "path": ""})


def _plain(value: Any) -> Any:
    """What a node shows, in JSON form; what has none is shown as text."""
    try:
        return orjson.loads(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))
    except (TypeError, ValueError):
        return str(value).encode(errors="replace").decode()


def expire(tx: Transaction, run: str) -> list[Note]:
    """Close the questions of a run whose time is over, and say so."""
    return [
        Note(type="question.expired", body={"question": id_, "kind": kind, "by": "", "channel": ""})
        for id_, kind in questions.expire(tx, run)
    ]


async def _answers(execution: Execution, interrupts: Sequence[str]) -> dict[str, Any]:
    """Answers to interrupts of users' own nodes, by interrupt id."""
    asked = await execution.db.read(lambda tx: questions.of_run(tx, execution.run))
    return {
        q.interrupt_id: q.answer
        for q in asked
        if q.interrupt_id is not None and q.interrupt_id in interrupts and q.status == "answered"
    }


async def _ask_again(
    execution: Execution, given: dict[str, Any], pending: Sequence[str], error: ValidationError
) -> Command[Any] | None:
    """An answer fits its JSON Schema and not the node's own type: withdraw it, and the node asks again.

    The error does not say whose answer it was, and LangGraph saved the work of the others: of several answers that
    are still pending, only one is given next.
    """
    refused = [interrupt for interrupt in given if interrupt in pending]
    if len(given) > 1 and refused:
        return Command(resume={refused[0]: given[refused[0]]})
    first = error.errors(include_url=False, include_input=False)[0]
    problem = f"{'/'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"

    def work(tx: Transaction) -> None:
        check(tx, execution.lease)
        for question in questions.of_run(tx, execution.run):
            if question.interrupt_id in refused and question.status == "answered":
                questions.withdraw(tx, question, problem=problem)

    await execution.db.write(work)
    return None


# Ending


async def _broken_off(execution: Execution) -> Outcome:
    """The task was cancelled: by us, for a reason, or by its operator, who may resume the run."""
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
            return await _close(execution, "stopped", error=error)


async def _failed(execution: Execution, error: BaseException) -> Outcome:
    if isinstance(error, (LeaseLost, DatabaseError)):
        raise error
    known = _typed(error)
    deadline = execution.account.deadline
    if isinstance(known, Timeout) and deadline is not None and time.monotonic() > deadline - 0.1:
        execution.end("time")  # a call was given until then, and noticed it before the run's own timer did
    if execution.ending is not None:
        return await _broken_off(execution)
    status: Status = "refused" if isinstance(known, (BudgetExceeded, PolicyDenied)) else "failed"
    return await _close(execution, status, error=known)


def _typed(error: BaseException) -> RetinueError:
    if isinstance(error, RetinueError):
        return error
    if isinstance(error, GraphRecursionError):
        return _endless()
    log.debug("a node failed", exc_info=error)
    frames = traceback.extract_tb(error.__traceback__)
    # The user's own line, not the one of a library that it called.
    frame = next((f for f in reversed(frames) if not f.filename.startswith(_LIBRARIES)), frames[-1] if frames else None)
    where = f" ({frame.filename}:{frame.lineno})" if frame else ""
    return NodeFailed(f"{type(error).__name__}: {error}{where}"[:1000])


def _endless() -> RunError:
    return RunError("the run passed its limit of supersteps", hint="Raise the workflow's max_steps, or end its loop.")


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
    def work(tx: Transaction) -> None:
        end(tx, execution.lease, status, output=output, error=error, by=execution.principal.key,
            active=execution.active, then=partial(_let_go, execution))  # fmt: skip

    await execution.db.write(work)
    assert execution.outcome is not None
    return execution.outcome


def _let_go(execution: Execution, outcome: Outcome, lines: Sequence[Line]) -> None:
    execution.outcome = outcome
    execution.bus.publish(execution.run, lines)


def end(
    tx: Transaction,
    lease: Lease,
    status: Status,
    *,
    active: float,
    by: str,
    then: Callable[[Outcome, list[Line]], None],
    notes: Sequence[Note] = (),
    body: Mapping[str, Any] | None = None,
    output: Any = None,
    error: RetinueError | None = None,
    pending: Sequence[str] = (),
) -> None:
    """Let go of the lease with this status and the event of it, if the lease still holds.

    A run that would wait or stop while somebody has asked to cancel it is cancelled. ``then`` is called after the
    commit.
    """
    if status not in TERMINAL and _cancelling(tx, lease.run):
        status, error, body = "cancelled", RunCancelled("the run was cancelled"), None
    problem = None if error is None else error.body()
    if body is None:
        body = {"output": output} if problem is None else {"error": problem}
    row = tx.one(
        "UPDATE runs SET status = ?, output = ?, error = ?, active = ?, owner = NULL, lease_until = NULL, "
        "cancelling = 0, seq = seq + ?, updated_at = ? WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ? "
        "RETURNING seq, tokens, cost, turns",
        (
            status, None if output is None else dump(output, "the output").decode(),
            None if problem is None else dump(problem, "the error").decode(), active, len(notes) + 1, tx.now,
            lease.run, lease.owner, lease.epoch, tx.now,
        ),
    )  # fmt: skip
    if row is None:
        raise lost(lease)
    seq, tokens, cost, turns = row
    last = Note(type=f"run.{status}", body={**body, "spent": records.spent(tokens, cost, turns, active)})
    if status in TERMINAL:
        questions.withdraw_open(tx, lease.run)
        _end_members(tx, lease.run, by=by)
        record = {"status": status, "output": audit.digest(output), "code": problem and problem["code"]}
        audit.append(tx, actor=by, action="run.ended", run=lease.run, body=record)
    lines = append_events(tx, lease.run, seq, [*notes, last])
    outcome = Outcome(run=lease.run, status=status, output=output, error=error, questions=tuple(pending))
    tx.after_commit(lambda: then(outcome, lines))


def _end_members(tx: Transaction, run: str, *, by: str) -> None:
    """Cancel the runs that members of this one made and that are not over: nobody goes on with them."""
    error = RunCancelled("the run that made this one is over").body()
    ended: list[str] = []
    for (member,) in tx.all("SELECT id FROM runs WHERE root = ? ORDER BY id", (run,)):
        row = tx.one(
            "UPDATE runs SET status = 'cancelled', error = ?, owner = NULL, lease_until = NULL, epoch = epoch + 1, "
            "seq = seq + 1, updated_at = ? WHERE id = ? AND status NOT IN ('done', 'failed', 'refused', 'cancelled') "
            "RETURNING seq, tokens, cost, turns, active",
            (dump(error, "the error").decode(), tx.now, member),
        )
        if row is None:
            continue
        questions.withdraw_open(tx, member)
        body = {"error": error, "spent": records.spent(*row[1:])}
        append_events(tx, member, row[0], [Note(type="run.cancelled", body=body)])
        ended.append(member)
    for member in ended:  # the trail's lock comes after all rows
        audit.append(tx, actor=by, action="run.ended", run=member, body={"status": "cancelled", "code": error["code"]})


def _cancelling(tx: Transaction, run: str) -> bool:
    row = tx.one("SELECT cancelling FROM runs WHERE id = ?", (run,), lock=True)
    return row is not None and bool(row[0])


def _tell(tx: Transaction, lease: Lease, notes: Sequence[Note]) -> list[Line]:
    row = tx.one(
        "UPDATE runs SET seq = seq + ? WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ? RETURNING seq",
        (len(notes), lease.run, lease.owner, lease.epoch, tx.now),
    )
    if row is None:
        raise lost(lease)
    return append_events(tx, lease.run, row[0], notes)
