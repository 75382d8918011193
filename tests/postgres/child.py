"""What other processes do with runs on Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

from retinue.agents.agent import Agent
from retinue.agents.models.function import Answer, FunctionCall, FunctionModel
from retinue.database import postgres_watch
from retinue.errors import RetinueError
from retinue.graphs import questions
from retinue.graphs.workflow import Workflow
from tests.support.desk import APPROVE, opened
from tests.support.flows import one, tool
from tests.support.forked import Talk, told
from tests.support.people import ME

postgres_watch.YOUNG = 0.0  # the server of a test has only just been started


def say(call: FunctionCall) -> Answer:
    return call.results[0].text if call.results else call.use("pay", to=call.task)


async def pay(to: str) -> str:
    """Pay somebody."""
    return f"paid {to}"


def paying(task: str = "ann") -> Workflow:
    return one(Agent("clerk", prompt="Pay.", tools=[tool(pay, "unsafe")]), task=task)


MODEL = FunctionModel(say)


async def code_of(work: Any) -> str:
    try:
        await work
    except RetinueError as error:
        return error.code
    return "done"


async def answer(talk: Talk, url: str, question: str, times: int) -> None:
    """Answer one question many times at once."""
    async with opened(url) as desk:
        found = await desk.db.read(lambda tx: questions.by_id(tx, [question]))
        talk.send("ready")
        await told(talk)
        talk.send(await asyncio.gather(*(code_of(desk.answer(found[0], APPROVE)) for _ in range(times))))


async def start(talk: Talk, url: str, run: str) -> None:
    """Start a run of this id and execute it."""
    async with opened(url) as desk:
        flow = paying()
        equipment = await desk.equip(flow, MODEL)
        talk.send("ready")
        await told(talk)
        try:
            execution = await desk.runs.start(flow, {}, principal=ME, equipment=equipment, run=run)
        except RetinueError as error:
            talk.send(error.code)
            return
        talk.send((await desk.runs.execute(execution)).status)


async def work(talk: Talk, url: str, count: int) -> None:
    """Execute runs that ask for nobody, one after the other."""
    async with opened(url) as desk:
        flow = paying()
        talk.send("ready")
        await told(talk)
        outcomes = [await code_of(desk.run(flow, MODEL, settings={"approve": ["*"]})) for _ in range(count)]
        talk.send(outcomes)
