"""Results that are too long to show are kept whole, and can be read on in."""

from __future__ import annotations

import pytest

from retinue.agents.agent import Agent
from retinue.agents.models.function import Answer, FunctionCall, FunctionModel
from tests.support.desk import opened
from tests.support.flows import one, tool

pytestmark = pytest.mark.anyio

LONG = "".join(f"{number:05d};" for number in range(1000))


def fetch() -> str:
    """Fetch something long."""
    return LONG


def named(text: str) -> str:
    return text.rsplit("artifact ", 1)[1][:12]


async def test_an_agent_reads_on_in_a_result_that_was_cut() -> None:
    seen: list[str] = []

    def say(call: FunctionCall) -> Answer:
        seen.append(", ".join(call.tools))
        match len(call.results):
            case 0:
                return call.use("fetch")
            case 1:
                return call.use("read_artifact", artifact=named(call.results[0].text), start=5000)
            case 2:
                return call.use("read_artifact", artifact="0" * 12, start=0)
            case _:
                return "|".join(result.text[:12] for result in call.results)

    agent = Agent("reader", prompt="r", tools=[tool(fetch, "read_only")], max_result=600)
    async with opened() as desk:
        outcome = await desk.run(one(agent), FunctionModel(say))
        assert outcome.output["text"] == f"{LONG[:12]}|{LONG[5000:5012]}|There is no "
    assert seen == ["fetch", "fetch, read_artifact", "fetch, read_artifact", "fetch, read_artifact"]


async def test_nobody_is_offered_to_read_on_where_nothing_was_cut() -> None:
    def say(call: FunctionCall) -> Answer:
        assert "read_artifact" not in call.tools
        return "done" if call.results else call.use("fetch")

    agent = Agent("reader", prompt="r", tools=[tool(fetch, "read_only")])
    async with opened() as desk:
        assert (await desk.run(one(agent), FunctionModel(say))).status == "done"


async def test_an_artifact_of_another_run_cannot_be_read() -> None:
    names: list[str] = []

    def say(call: FunctionCall) -> Answer:
        if not call.results:
            return call.use("fetch")
        if len(call.results) == 1:
            names.append(named(call.results[0].text))
            return "done" if len(names) == 1 else call.use("read_artifact", artifact=names[0], start=0)
        return call.results[1].text

    different = iter([LONG, LONG[::-1]])

    def fetch_another() -> str:
        """Fetch something long that differs each time."""
        return next(different)

    fetch_another.__name__ = "fetch"
    agent = Agent("reader", prompt="r", tools=[tool(fetch_another, "read_only")], max_result=600)
    async with opened() as desk:
        await desk.run(one(agent), FunctionModel(say))
        outcome = await desk.run(one(agent), FunctionModel(say))
        assert outcome.output["text"] == "There is no such artifact in this run."
