"""The journal: facts inside one node, keyed by path, each committed with its events, questions and spending.

A path is ``node[send]@superstep``; rows under it are inserted and never replaced. One statement both fences the
transaction and takes the events' numbers, so nothing that a commit holds can be true without the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from retinue import audit
from retinue.database.base import Transaction
from retinue.errors import BudgetExceeded, ConfigError

from ..agents.budget import MAX_DEPTH, Spend
from ..agents.models.base import Model
from ..agents.policy import matches
from ..agents.scope import Answer, Commit, Left, Note
from ..agents.tools.base import Tool
from . import questions
from .events import Line, dump, timestamp
from .execution import Account, Execution
from .lease import lost

T = TypeVar("T")

FINISH_SECONDS = 30.0
"""How long a failing or stopping step waits for calls in flight that nobody could repeat."""


def append_events(tx: Transaction, run: str, last: int, notes: Sequence[Note], *, path: str = "") -> list[Line]:
    """Insert the events that end at number ``last`` (already taken from the run's row) and return their lines."""
    first = last - len(notes) + 1
    lines: list[Line] = []
    rows: list[tuple[Any, ...]] = []
    for seq, note in enumerate(notes, start=first):
        body = {"path": path, **note.body} if path else dict(note.body)
        rows.append((run, seq, tx.now, note.type, dump(body, f"the event {note.type}").decode()))
        lines.append({"type": note.type, "run": run, "seq": seq, "ts": timestamp(tx.now), **body})
    tx.executemany("INSERT INTO events (run, seq, ts, type, body) VALUES (?, ?, ?, ?, ?)", rows)
    tx.changed(run)
    return lines


def advance(tx: Transaction, execution: Execution, events: int, spend: Spend = Spend()) -> int:  # noqa: B008
    """The fence, the events' numbers and the spending in one statement; returns the last number taken.

    A run that another one made spends from that one's budget, under its lease too.
    """
    lease, account = execution.lease, execution.account.lease
    if account.run != lease.run:
        changed = tx.execute(
            "UPDATE runs SET tokens = tokens + ?, cost = cost + ?, turns = turns + ? "
            "WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ?",
            (spend.tokens, spend.micro_usd, spend.turns, account.run, account.owner, account.epoch, tx.now),
        )
        if not changed:
            raise lost(account)
    row = tx.one(
        "UPDATE runs SET seq = seq + ?, tokens = tokens + ?, cost = cost + ?, turns = turns + ?, updated_at = ? "
        "WHERE id = ? AND owner = ? AND epoch = ? AND lease_until > ? RETURNING seq",
        (
            events, spend.tokens, spend.micro_usd, spend.turns, tx.now,
            lease.run, lease.owner, lease.epoch, tx.now,
        ),
    )  # fmt: skip
    if row is None:
        raise lost(lease)
    return row[0]


class Path:
    """The `Scope` of one member at work: its path's facts, and the one way to add to them."""

    def __init__(self, execution: Execution, path: str, *, depth: int = 0) -> None:
        self._execution = execution
        self._path = path
        self._depth = depth
        self._facts: dict[str, Any] = {}
        self._answers: dict[str, Answer] = {}
        self._open: dict[str, str] = {}

    async def load(self) -> None:
        """Read what earlier executions committed, and the answers that came since."""
        run, path = self._execution.run, self._path

        def work(tx: Transaction) -> tuple[list[Any], list[Any]]:
            facts = tx.all("SELECT key, body FROM journal WHERE run = ? AND path = ?", (run, path))
            return facts, questions.of_path(tx, run, path)

        facts, asked = await self._execution.db.read(work)
        self._facts = {key: orjson.loads(body) for key, body in facts}
        self._open = {question.key: question.id for question in asked if question.status == "open"}
        self._answers = {
            q.key: Answer(
                status="answered" if q.status == "answered" else "expired",
                value=q.answer,
                by=q.answered_by or "",
                about=str(q.body.get("hash", "")),
            )
            for q in asked
            if q.status != "open"
        }

    @classmethod
    async def enter(cls, execution: Execution, name: str, *, depth: int = 0) -> Path:
        """The path of this name, with what earlier executions, and earlier entries of this one, left on it."""
        path = execution.paths.get(name)
        if path is None:
            path = cls(execution, name, depth=depth)
            # Nothing is there to read when the run is new and this is the first entry.
            if not execution.fresh or name in execution.paths:
                await path.load()
            execution.paths[name] = path
        elif path.open_questions:
            await path.load()  # entered again in the same execution: answers may have come
        return path

    def leave(self) -> None:
        """The member here is done: what it and those it asked hold in memory is not needed any more."""
        paths = self._execution.paths
        for name in [name for name in paths if name.startswith(self._path + "/")]:
            del paths[name]
        paths[self._path] = None

    async def child(self, name: str) -> Path:
        return await Path.enter(self._execution, f"{self._path}/{name}", depth=self._depth + 1)

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def max_depth(self) -> int:
        limit = self._execution.account.budget.depth
        return MAX_DEPTH if limit is None else limit

    @property
    def execution(self) -> Execution:
        return self._execution

    @property
    def run(self) -> str:
        return self._execution.run

    @property
    def path(self) -> str:
        return self._path

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    @property
    def answers(self) -> Mapping[str, Answer]:
        return self._answers

    @property
    def open_questions(self) -> Mapping[str, str]:
        return self._open

    @property
    def deadline(self) -> float | None:
        return self._execution.account.deadline

    @property
    def followed(self) -> bool:
        return self._execution.bus.followed(self._execution.run)

    def model(self, agent: Any) -> Model:
        models = self._execution.equipment.models
        if agent.name not in models:
            raise ConfigError(
                f"{agent.name} is at work, but no step of {self._execution.workflow.name}",
                hint="Add what step() returns to the graph as a node itself, not inside another function.",
            )
        return self._execution.equipment.model_at(self._execution.run, self._path, agent.name)

    def tools(self, agent: Any) -> Sequence[Tool]:
        return self._execution.equipment.tools[agent.name]

    def tell(self, note: Note) -> None:
        execution = self._execution
        line = {"type": note.type, "run": execution.run, "ts": timestamp(time.time()), "path": self._path, **note.body}
        execution.bus.publish(execution.run, [line])

    def preapproved(self, server: str, tool: str) -> str | None:
        return next((rule for rule in self._execution.preapproved if matches(rule, server, tool)), None)

    async def artifact(self, sha256: str) -> bytes | None:
        run = self._execution.run
        row = await self._execution.db.read(
            lambda tx: tx.one(
                "SELECT body FROM artifacts WHERE run = ? AND id >= ? AND id < ? LIMIT 1", (run, sha256, sha256 + "g")
            )
        )
        return None if row is None else bytes(row[0])

    async def commit(self, commit: Commit, *, flush: bool = False) -> None:
        if commit.settle is None:
            await self._write(commit, lambda _: Spend(), flush=flush)
            return
        spend = commit.settle[1] - commit.settle[0]
        try:
            await self._write(commit, lambda _: spend, flush=flush)
        finally:
            self._execution.account.came_back()

    async def reserve(self, fit: Callable[[Left], Spend], commit: Commit) -> Spend:
        account = self._execution.account
        while True:
            settled = account.settled
            reservation = _Reservation(account)
            try:
                return await self._write(commit, lambda tx: fit(self._left(tx)), then=reservation.begin)
            except BudgetExceeded:
                # What was settled since this look may have made room, and what is in flight may yet.
                if not account.in_flight and not settled.is_set():
                    raise
            except BaseException:
                reservation.abandon()
                raise
            await settled.wait()

    def forfeit(self) -> None:
        self._execution.account.came_back()

    def _left(self, tx: Transaction) -> Left:
        account = self._execution.account
        budget = account.budget
        if account.deadline is not None and time.monotonic() >= account.deadline:
            raise BudgetExceeded("the run's seconds are spent", limit="seconds")
        if budget.tokens is None and budget.micro_usd is None and budget.turns is None:
            return Left()
        row = tx.one("SELECT tokens, cost, turns FROM runs WHERE id = ?", (account.lease.run,), lock=True)
        assert row is not None
        return Left(
            tokens=None if budget.tokens is None else budget.tokens - row[0],
            micro_usd=None if budget.micro_usd is None else budget.micro_usd - row[1],
            turns=None if budget.turns is None else budget.turns - row[2],
        )

    async def _write(
        self,
        commit: Commit,
        spend: Callable[[Transaction], Spend],
        *,
        flush: bool = False,
        then: Callable[[], None] | None = None,
    ) -> Spend:
        execution, path = self._execution, self._path
        run = execution.run
        facts = [(key, dump(value, f"{path} {key}").decode()) for key, value in commit.facts.items()]
        asked: dict[str, str] = {}

        def work(tx: Transaction) -> Spend:
            spent = spend(tx)
            notes = list(commit.notes)
            for ask in commit.asks:
                asked[ask.key] = questions.insert(tx, run, path, ask, expires_in=execution.workflow.answer_within)
                body = {"question": asked[ask.key], "kind": ask.kind, "title": ask.title}
                notes.append(Note(type="question.asked", body=body))
            last = advance(tx, execution, len(notes), spent)
            if facts:
                tx.executemany(
                    "INSERT INTO journal (run, path, key, body, ts) VALUES (?, ?, ?, ?, ?)",
                    [(run, path, key, body, tx.now) for key, body in facts],
                )
            if commit.artifacts:
                tx.executemany(
                    "INSERT INTO artifacts (run, id, media_type, body) VALUES (?, ?, 'text/plain; charset=utf-8', ?) "
                    "ON CONFLICT DO NOTHING",
                    [(run, sha256, data) for sha256, data in commit.artifacts.items()],
                )
            for action, body in commit.audit:
                audit.append(tx, actor=execution.principal.key, action=action, run=run, body={"path": path, **body})
            lines = append_events(tx, run, last, notes, path=path) if notes else []
            tx.after_commit(lambda: committed(lines))
            return spent

        def committed(lines: list[Line]) -> None:
            # Also when the caller was cancelled meanwhile: a retry of the node in this process must know of it. What a
            # restart would read back is what this execution goes on with.
            self._facts.update((key, orjson.loads(body)) for key, body in facts)
            self._open.update(asked)
            if then is not None:
                then()
            execution.bus.publish(run, lines)

        return await execution.db.write(work, flush=flush)

    async def finish_in_flight(self, work: Awaitable[T]) -> T:
        """See `Scope.finish_in_flight`. A run that is cancelled, lost or out of time is not waited for."""
        task = asyncio.ensure_future(work)
        broken: asyncio.Future[Any] | None = None
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            broken = asyncio.ensure_future(self._execution.broken.wait())
            until = time.monotonic() + FINISH_SECONDS
            while not task.done() and not broken.done() and (left := until - time.monotonic()) > 0:
                # LangGraph cancels a branch beside a failed one twice.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task, broken], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            for pending in (task, broken):
                if pending is not None and not pending.done():
                    pending.cancel()
                    await asyncio.gather(pending, return_exceptions=True)


class _Reservation:
    """Counts one reservation as in flight from its commit on, unless its caller has gone by then."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._begun = self._gone = False

    def begin(self) -> None:
        if not self._gone:
            self._begun = True
            self._account.in_flight += 1

    def abandon(self) -> None:
        self._gone = True
        if self._begun:
            self._account.came_back()
