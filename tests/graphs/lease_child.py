"""A process with a run whose model waits for a line on stdin: ``lease_child DATABASE start|RUN LEASE_SECONDS``.

Says ``thinking`` when the model was asked, and in the end the run's status or the error's code.
"""

from __future__ import annotations

import asyncio
import sys

from retinue.agents.agent import Agent
from retinue.agents.models.function import FunctionCall
from retinue.database.choose import is_postgres
from retinue.errors import RetinueError
from tests.support.desk import opened
from tests.support.flows import Sayer, one


async def main(path: str, run: str, lease_seconds: str) -> None:
    if is_postgres(path):
        from retinue.database import postgres_watch

        postgres_watch.YOUNG = 0.0  # the server of a test has only just been started

    async def pause(call: FunctionCall) -> None:
        print("thinking", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

    flow = one(Agent("scout", prompt="Look."))
    model = Sayer(lambda call: "found", pause=pause)
    async with opened(path, lease_seconds=float(lease_seconds)) as desk:
        try:
            execution = await (desk.start(flow, model) if run == "start" else desk.take(run, flow, model))
            said = (await desk.runs.execute(execution)).status
        except RetinueError as error:
            said = error.code
        print(said, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
