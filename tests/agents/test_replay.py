"""However often and wherever the process dies, the agent ends the same, and no finished call is made again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.member import Done
from retinue.agents.models.function import Answer, FunctionCall, ToolUse
from retinue.agents.tools.base import ToolResult
from retinue.errors import OutputInvalid, RetinueError
from tests.support.flows import Sayer, tool
from tests.support.scope import Bench, Died, Rows

pytestmark = pytest.mark.anyio


class Finding(BaseModel):
    quote: str


CALLS = st.sampled_from(["look", "note", "send", "pay", "big", "fails", "missing", "wrong", "denied"])
SCRIPT = st.lists(st.lists(CALLS, min_size=1, max_size=4), max_size=4)
ENDS = st.sampled_from(["text", "valid", "repaired", "invalid"])
DEATHS = st.lists(st.integers(min_value=0, max_value=40).map(lambda n: n / 2), max_size=6)


class World:
    """Tools with their own logs, and a model that follows a script whatever happened before."""

    def __init__(self, script: list[list[str]], end: str) -> None:
        self.script = script
        self.end = end
        self.models: Counter[int] = Counter()
        self.tools: Counter[str] = Counter()
        self.model = Sayer(self.say)

        def look(q: str) -> str:
            """Look."""
            self.tools[f"look {q}"] += 1
            return f"found {q}"

        def note(q: str, idempotency_key: str) -> str:
            """Note."""
            self.tools[f"note {q} {idempotency_key}"] += 1
            return f"noted {q}"

        async def send(q: str) -> str:
            """Send; asks."""
            self.tools[f"send {q}"] += 1
            await asyncio.sleep(0)
            return f"sent {q}"

        async def pay(q: str) -> str:
            """Pay; does not ask."""
            self.tools[f"pay {q}"] += 1
            return f"paid {q}"

        def big(q: str) -> ToolResult:
            """Say much."""
            self.tools[f"big {q}"] += 1
            return ToolResult(content=[{"type": "text", "text": q * 300}], structured={"q": 1.5})

        def fails(q: str) -> str:
            """Fail."""
            self.tools[f"fails {q}"] += 1
            raise ValueError(q)

        def denied(q: str) -> str:
            """Never."""
            raise AssertionError

        self.agent = Agent(
            "scout",
            prompt="Look.",
            output=None if end == "text" else Finding,
            max_result=100,
            tools=[
                tool([look, big, fails], "read_only"),
                tool(note, "keyed", name="notes"),
                tool([send, pay], "unsafe", name="outbox", allow=["pay"]),
                tool(denied, "unsafe", name="never", deny=["*"]),
            ],
        )

    def say(self, call: FunctionCall) -> Answer:
        turn = call.turn
        self.models[turn] += 1
        if turn < len(self.script):
            return [
                ToolUse("look" if name == "wrong" else name, {"wrong": 1} if name == "wrong" else {"q": f"{turn}.{i}"})
                for i, name in enumerate(self.script[turn])
            ]
        last = turn == len(self.script)
        if self.end == "text":
            return "the end"
        if self.end == "invalid" or (self.end == "repaired" and last):
            return "not JSON"
        return Finding(quote=" | ".join(result.text for result in call.results))


def person(rows: Rows, world: World) -> None:
    """Answers what is open: approves all but the second call of a reply, and knows what happened."""
    for key, ask in rows.asks.items():
        if key in rows.answers:
            continue
        if ask.kind == "approval":
            rows.answer({"decision": "reject" if key.endswith(".1") else "approve"}, key)
        else:
            q = ask.body["arguments"]["q"]
            name = ask.body["tool"]
            happened = world.tools[f"{name} {q}"] > 0
            said = {"result": f"{'sent' if name == 'send' else 'paid'} {q}"} if happened else {}
            rows.answer({"happened": happened, **said}, key)


Known = tuple[dict[str, str], Counter[int], Counter[str]]
"""Facts, model calls and tool calls at a death."""


async def play(world: World, deaths: list[float]) -> tuple[Rows, Any, list[Known]]:
    """Work until the agent is done, dying where told; returns the rows, its end, and what was known at each death."""
    bench = Bench(world.agent, world.model)
    left = list(deaths)
    known: list[Known] = []
    for _ in range(200):
        # Deaths behind us are skipped; each other one is died once.
        die_at = next((d for d in left if d >= bench.rows.commits), None)
        try:
            outcome = await bench.work(die_at=die_at)
        except Died:
            assert die_at is not None
            left.remove(die_at)
            known.append((dict(bench.rows.facts), world.models.copy(), world.tools.copy()))
            continue
        except RetinueError as error:
            return bench.rows, (type(error), str(error)), known
        if isinstance(outcome, Done):
            return bench.rows, outcome, known
        person(bench.rows, world)
    raise AssertionError("it does not end")


def facts(rows: Rows) -> dict[str, Any]:
    """All but intents, of which a doubt makes more."""
    return {key: orjson.loads(body) for key, body in rows.facts.items() if not key.startswith("intent")}


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(script=SCRIPT, end=ENDS, deaths=DEATHS)
async def test_replay_ends_the_same_and_repeats_no_finished_call(
    script: list[list[str]], end: str, deaths: list[float]
) -> None:
    plain, killed = World(script, end), World(script, end)
    whole, expected, _ = await play(plain, [])
    rows, outcome, known = await play(killed, sorted(deaths))
    assert outcome == expected
    assert facts(rows) == facts(whole)
    assert rows.artifacts == whole.artifacts
    assert set(killed.tools) == set(plain.tools)
    if end == "invalid":
        assert outcome[0] is OutputInvalid
    for name, times in killed.tools.items():
        if name.startswith(("send", "pay")):
            assert times == 1, f"{name} was done {times} times"
    for at_death, models, tools in known:
        for turn, times in models.items():
            if f"reply:{turn}" in at_death:
                assert killed.models[turn] == times
        for key in at_death:
            if key.startswith("result:"):
                q = key.removeprefix("result:")
                done = [name for name in tools if f" {q}" in name]
                assert all(killed.tools[name] == tools[name] for name in done)
    # Each death repeats at most the one model call in flight.
    assert sum(killed.models.values()) - sum(plain.models.values()) <= len(known)


@hypothesis_settings(max_examples=40)
@given(script=SCRIPT, end=ENDS)
async def test_running_a_finished_agent_again_commits_nothing(script: list[list[str]], end: str) -> None:
    world = World(script, end)
    rows, outcome, _ = await play(world, [])
    before = dict(rows.facts), rows.commits, world.models.copy(), world.tools.copy()
    bench = Bench(world.agent, world.model, rows)
    try:
        again: Any = await bench.work()
    except RetinueError as error:
        again = (type(error), str(error))
    assert again == outcome
    assert (dict(rows.facts), rows.commits, world.models, world.tools) == before
