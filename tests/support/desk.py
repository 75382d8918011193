"""A database, its runs, and a person who answers: what most tests of runs need."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from retinue import audit
from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.equipment import Equipment
from retinue.agents.models.base import Model
from retinue.agents.models.scripted import ScriptedModel
from retinue.auth.principal import Principal
from retinue.database.base import Database
from retinue.database.choose import open_database
from retinue.database.sqlite import SQLiteDatabase
from retinue.graphs import follow, questions, records
from retinue.graphs.drive import Outcome
from retinue.graphs.events import Line, parse
from retinue.graphs.execution import Execution
from retinue.graphs.lease import LEASE_SECONDS
from retinue.graphs.questions import Channel, Question
from retinue.graphs.records import RunRecord
from retinue.graphs.runs import Runs
from retinue.graphs.workflow import Workflow

from .people import ME, NOBODY

Models = Model | Mapping[str, Model] | None
"""One model for all agents, or one for each by its name."""

APPROVE = {"decision": "approve"}


class Desk:
    """The runs of one process. Two desks on one file are two owners, as two processes are."""

    def __init__(self, db: Database, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.db = db
        self.runs = Runs(db, lease_seconds=lease_seconds)

    async def equip(self, flow: Workflow, models: Models) -> Equipment:
        def choose(agent: Agent) -> Model:
            if isinstance(models, Mapping):
                return models[agent.name]
            return models or ScriptedModel([])

        return await Equipment.open(flow.agents, NOBODY, choose)

    async def start(
        self,
        flow: Workflow,
        models: Models = None,
        *,
        value: Any = None,
        principal: Principal = ME,
        budget: Budget | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Execution:
        equipment = await self.equip(flow, models)
        return await self.runs.start(
            flow,
            {} if value is None else value,
            principal=principal,
            equipment=equipment,
            budget=budget,
            settings=settings,
        )

    async def run(self, flow: Workflow, models: Models = None, **options: Any) -> Outcome:
        return await self.runs.execute(await self.start(flow, models, **options))

    async def take(self, run: str, flow: Workflow, models: Models = None) -> Execution:
        return await self.runs.resume(await self.record(run), flow, await self.equip(flow, models))

    async def resume(self, run: str, flow: Workflow, models: Models = None) -> Outcome:
        return await self.runs.execute(await self.take(run, flow, models))

    async def record(self, run: str) -> RunRecord:
        return await records.find(self.db, run)

    async def inbox(self, run: str | None = None) -> list[Question]:
        return await questions.inbox(self.db, run=run)

    async def answer(
        self, question: Question, value: Any = APPROVE, *, principal: Principal = ME, channel: Channel = "terminal"
    ) -> Question:
        return await self.runs.answer(question.id, value, principal=principal, channel=channel)

    async def answer_all(self, run: str, value: Any = APPROVE) -> None:
        for question in await self.inbox(run):
            await self.answer(question, value)

    async def events(self, run: str, *types: str) -> list[Line]:
        found = [line async for line in follow.all_events(self.db, run)]
        return [line for line in found if not types or line["type"] in types]

    async def facts(self, run: str) -> dict[str, dict[str, Any]]:
        """Journal path to key to fact."""
        rows = await self.rows("SELECT path, key, body FROM journal WHERE run = ?", run)
        found: dict[str, dict[str, Any]] = {}
        for path, key, body in rows:
            found.setdefault(path, {})[key] = orjson.loads(body)
        return found

    async def rows(self, sql: str, *params: Any) -> list[Any]:
        return await self.db.read(lambda tx: tx.all(sql, params))

    async def change(self, sql: str, *params: Any) -> None:
        await self.db.write(lambda tx: tx.execute(sql, params))

    async def check(self) -> None:
        """What holds of every database at every time: no event is missing or malformed, the trail is whole."""
        for run in await records.recent(self.db, limit=1000):
            lines = await self.events(run.id)
            assert [line["seq"] for line in lines] == list(range(1, run.seq + 1))
            for line in lines:
                event = parse(line)
                assert event.model_extra == {}, f"{line['type']} has fields that its type does not name"
        report = await audit.verify(self.db)
        assert report.ok, report.problem

    async def close(self) -> None:
        await self.runs.close()
        await self.db.close()


async def connect(place: str | Path, clock: Callable[[], float] | None) -> Database:
    """The database at a path or URL. Tests of another kind of database put their own function here."""
    if clock is None:
        return await open_database(str(place))
    return await SQLiteDatabase.open(place, clock=clock)


def where(path: Path) -> str:
    """What another process is told, to open the same. Replaced together with `connect`."""
    return str(path)


@asynccontextmanager
async def opened(
    path: str | Path = ":memory:", *, clock: Callable[[], float] | None = None, **options: Any
) -> AsyncGenerator[Desk]:
    desk = Desk(await connect(path, clock), **options)
    try:
        yield desk
        await desk.check()
    finally:
        await desk.close()
