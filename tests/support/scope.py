"""A scope in memory: rows that outlive the loop, and a process that can die at any commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from retinue.agents.agent import Agent
from retinue.agents.budget import Spend
from retinue.agents.equipment import Equipment
from retinue.agents.loop import Loop
from retinue.agents.member import Done, Waiting
from retinue.agents.models.base import Model
from retinue.agents.scope import Answer, Ask, Commit, Left, Note
from retinue.agents.tools.base import Tool

from .people import NOBODY

T = TypeVar("T")


class Died(BaseException):
    """The process is gone, as far as the loop can tell."""


class Rows:
    """What is committed: survives each `MemoryScope`."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.asks: dict[str, Ask] = {}
        self.answers: dict[str, Answer] = {}
        self.notes: list[Note] = []
        self.audit: list[tuple[str, Mapping[str, Any]]] = []
        self.artifacts: dict[str, bytes] = {}
        self.spent = Spend()
        self.commits = 0

    def answer(self, value: Any, key: str | None = None) -> None:
        """Answer the question of this key, or all that are open."""
        for name, ask in self.asks.items():
            if name not in self.answers and key in (None, name):
                self.answers[name] = Answer(status="answered", value=value, by="me", about=str(ask.body.get("hash")))


class MemoryScope:
    """`Scope` of one execution. ``die_at`` is the commit around which it dies: n before, n + 0.5 after the n-th."""

    run = "r"
    path = "work@1"
    depth = 0
    max_depth = 8
    followed = False
    deadline = None

    def __init__(
        self,
        rows: Rows,
        equipment: Equipment,
        *,
        die_at: float | None = None,
        left: Left = Left(),  # noqa: B008  frozen
        preapproved: str | None = None,
    ) -> None:
        self.rows = rows
        self._equipment = equipment
        self._die_at = die_at
        self._dead = False
        self._left = left
        self._preapproved = preapproved
        self._facts = {key: orjson.loads(body) for key, body in rows.facts.items()}
        self.answers = dict(rows.answers)
        self.open_questions = {key: f"q:{key}" for key in rows.asks if key not in rows.answers}
        self.told: list[Note] = []
        self.forfeited = 0

    @property
    def facts(self) -> Mapping[str, Any]:
        return self._facts

    async def child(self, name: str) -> MemoryScope:
        raise AssertionError("no member is asked here")

    async def commit(self, commit: Commit, *, flush: bool = False) -> None:
        rows = self.rows
        if self._dead or self._die_at == rows.commits:
            self._dead = True
            raise Died
        for key, value in commit.facts.items():
            assert key not in rows.facts, f"{key} is inserted twice"
            rows.facts[key] = orjson.dumps(value).decode()
        for ask in commit.asks:
            assert ask.key not in rows.asks, f"{ask.key} is asked twice"
            rows.asks[ask.key] = ask
        rows.notes += commit.notes
        rows.audit += commit.audit
        rows.artifacts |= commit.artifacts
        if commit.settle is not None:
            reserved, spent = commit.settle
            self._spend(spent - reserved)
        rows.commits += 1
        if self._die_at == rows.commits - 0.5:
            self._dead = True
            raise Died
        self._facts.update({key: orjson.loads(rows.facts[key]) for key in commit.facts})
        self.open_questions.update({ask.key: f"q:{ask.key}" for ask in commit.asks})
        await asyncio.sleep(0)

    def _spend(self, change: Spend) -> None:
        now = self.rows.spent
        self.rows.spent = Spend(
            tokens=now.tokens + change.tokens,
            micro_usd=now.micro_usd + change.micro_usd,
            turns=now.turns + change.turns,
        )

    async def reserve(self, fit: Callable[[Left], Spend], commit: Commit) -> Spend:
        reserved = fit(self._left)
        await self.commit(commit)
        self._spend(reserved)
        return reserved

    def forfeit(self) -> None:
        self.forfeited += 1

    def tell(self, note: Note) -> None:
        self.told.append(note)

    def finish_in_flight(self, work: Awaitable[T]) -> Awaitable[T]:
        return work

    def preapproved(self, server: str, tool: str) -> str | None:
        return self._preapproved

    def model(self, agent: Any) -> Model:
        return self._equipment.models[agent.name]

    def tools(self, agent: Any) -> Sequence[Tool]:
        return self._equipment.tools[agent.name]

    async def artifact(self, sha256: str) -> bytes | None:
        return self.rows.artifacts.get(sha256)


class Bench:
    """One agent, worked again and again over the same rows."""

    def __init__(self, agent: Agent, model: Model, rows: Rows | None = None) -> None:
        self.agent = agent
        self.model = model
        self.rows = rows or Rows()

    async def work(self, task: str = "the task", **options: Any) -> Done | Waiting:
        equipment = await Equipment.open([self.agent], NOBODY, lambda _: self.model)
        self.scope = MemoryScope(self.rows, equipment, **options)
        return await Loop(self.agent, self.scope).run(task)

    async def done(self, task: str = "the task", **options: Any) -> Any:
        outcome = await self.work(task, **options)
        assert isinstance(outcome, Done), outcome
        return outcome.value
