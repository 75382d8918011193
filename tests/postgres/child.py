"""Pays on Postgres and never comes back from it: ``child.py URL LOG`` prints the run's id first."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from retinue.agents.agent import Agent
from retinue.agents.models.function import Answer, FunctionCall, FunctionModel
from retinue.database.postgres import PostgresDatabase
from tests.support.desk import Desk
from tests.support.flows import one, tool


def say(call: FunctionCall) -> Answer:
    return call.results[0].text if call.results else call.use("pay", to=call.task)


async def main(url: str, log: Path) -> None:
    def note(to: str) -> None:
        log.write_text(f"{to}\n", encoding="utf-8")

    async def pay(to: str) -> str:
        """Pay somebody."""
        note(to)
        await asyncio.Event().wait()
        return ""

    flow = one(Agent("clerk", prompt="Pay.", tools=[tool(pay, "unsafe")]), task="ann")
    desk = Desk(await PostgresDatabase.open(url))
    execution = await desk.start(flow, FunctionModel(say), settings={"approve": ["*"]})
    print(execution.run, flush=True)
    await desk.runs.execute(execution)


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
