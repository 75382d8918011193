"""A budget is the run's, whoever in it spends: refused before the call, whatever the interleaving."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from langgraph.graph import START, StateGraph

from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.loop import FLOOR
from retinue.agents.models.base import Price, Usage
from retinue.agents.models.function import FunctionCall, ToolUse
from retinue.errors import ConfigError
from retinue.graphs.nodes import each
from retinue.graphs.workflow import Workflow
from tests.support.desk import opened
from tests.support.flows import Sayer, State, fan, one, tool

pytestmark = pytest.mark.anyio

PRICE = Price(input=3.0, output=15.0)


def scout(**options: Any) -> Agent:
    return Agent("scout", prompt="Look.", max_tokens=1000, **options)


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("seed", range(4))
async def test_three_turns_for_five_parallel_agents_are_three_calls(tmp_path: Path, where: str, seed: int) -> None:
    chance = random.Random(seed)

    async def pause(call: FunctionCall) -> None:
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)

    model = Sayer(lambda call: "x", pause=pause)
    path = ":memory:" if where == "memory" else tmp_path / "runs.db"
    with anyio.fail_after(20):
        async with opened(path) as desk:
            outcome = await desk.run(fan(scout(), list("abcde")), model, budget=Budget(turns=3))
            assert outcome.status == "refused"
            assert outcome.error is not None
            assert outcome.error.code == "budget_exceeded"
            assert len(model.requests) == 3
            assert (await desk.record(outcome.run)).turns == 3


@pytest.mark.parametrize("where", ["memory", "file"])
async def test_a_call_waits_for_the_room_that_others_may_give_back(tmp_path: Path, where: str) -> None:
    """Each reserves a thousand tokens and uses ten: one after the other they all fit."""
    model = Sayer(lambda call: "x", usage=Usage(input=5, output=5))
    path = ":memory:" if where == "memory" else tmp_path / "runs.db"
    with anyio.fail_after(20):
        async with opened(path) as desk:
            outcome = await desk.run(fan(scout(), list("abcdefgh")), model, budget=Budget(tokens=1600))
            assert outcome.status == "done"
            record = await desk.record(outcome.run)
            assert (record.tokens, record.turns) == (80, 8)


async def test_a_call_that_cannot_fit_is_refused_before_it_is_made() -> None:
    model = Sayer(lambda call: "x")
    async with opened() as desk:
        outcome = await desk.run(one(scout()), model, budget=Budget(tokens=100))
        assert outcome.status == "refused"
        assert outcome.error is not None
        assert outcome.error.details["limit"] == "tokens"
        assert model.requests == []
        assert (await desk.record(outcome.run)).tokens == 0


async def test_max_tokens_shrinks_to_what_is_left_down_to_a_floor() -> None:
    usage = Usage(input=50, output=500)
    model = Sayer(lambda call: "x" if call.turn > 5 else ToolUse("look", {"q": "x"}), usage=usage)

    def look(q: str) -> str:
        """Look."""
        return "y"

    agent = scout(tools=[tool(look, "read_only")])
    async with opened() as desk:
        outcome = await desk.run(one(agent), model, budget=Budget(tokens=4000))
        assert outcome.status == "refused"
        asked = [request.max_tokens for request in model.requests]
        assert asked[0] == 1000
        assert asked == sorted(asked, reverse=True)
        assert FLOOR <= asked[-1] < 1000
        record = await desk.record(outcome.run)
        assert record.tokens == sum(50 + min(500, limit) for limit in asked) <= 4000


async def test_money_is_counted_and_refused_before_it_is_spent() -> None:
    usage = Usage(input=100, output=900)
    model = Sayer(lambda call: ToolUse("look", {"q": "x"}), usage=usage, price=PRICE)

    def look(q: str) -> str:
        """Look."""
        return "y"

    async with opened() as desk:
        outcome = await desk.run(one(scout(tools=[tool(look, "read_only")])), model, budget=Budget(usd=0.05))
        assert outcome.status == "refused"
        assert outcome.error is not None
        assert outcome.error.details["limit"] == "usd"
        record = await desk.record(outcome.run)
        assert len(model.requests) > 2
        assert 0 < record.cost <= 50_000
        assert (await desk.events(outcome.run))[-1]["spent"]["usd"] == record.cost / 1_000_000


async def test_an_unknown_price_with_a_money_budget_is_refused_at_the_start() -> None:
    async with opened() as desk:
        with pytest.raises(ConfigError, match="price of sayer is not known"):
            await desk.run(one(scout()), Sayer(lambda call: "x", price=None), budget=Budget(usd=1))
        assert await desk.rows("SELECT * FROM runs") == []


async def test_an_unknown_price_without_one_is_no_matter() -> None:
    async with opened() as desk:
        model = Sayer(lambda call: "x", price=None)
        assert (await desk.run(one(scout()), model, budget=Budget(tokens=9000))).status == "done"


async def test_a_long_prompt_is_reserved_at_its_own_price() -> None:
    price = Price(input=1, output=1, long_over=100, long=Price(input=1000, output=1000))
    model = Sayer(lambda call: "x", price=price)
    async with opened() as desk:
        task = "x" * 500
        outcome = await desk.run(one(scout(), task=task), model, budget=Budget(usd=0.5))
        assert outcome.status == "refused"
        assert (await desk.run(one(scout(), task="x"), model, budget=Budget(usd=0.5))).status == "done"


async def test_a_call_that_a_crash_broke_off_counts_as_spent(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def pause(call: FunctionCall) -> None:
        reached.set()
        await asyncio.Event().wait()

    flow = one(scout())
    budget = Budget(turns=2, tokens=5000)
    async with opened(tmp_path / "runs.db") as first:
        execution = await first.start(flow, Sayer(lambda call: "x", pause=pause), budget=budget)
        running = asyncio.create_task(first.runs.execute(execution))
        await reached.wait()
        reserved = (await first.record(execution.run)).tokens
        assert reserved > 1000
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    async with opened(tmp_path / "runs.db") as second:
        usage = Usage(input=10, output=10)
        assert (await second.resume(execution.run, flow, Sayer(lambda call: "x", usage=usage))).status == "done"
        record = await second.record(execution.run)
        assert (record.turns, record.tokens) == (2, reserved + 20)


async def test_a_model_that_fails_gives_nothing_back_and_holds_nobody_up() -> None:
    from langgraph.types import RetryPolicy

    from retinue.errors import Unreachable

    def say(call: FunctionCall) -> str:
        if len(model.requests) == 1:
            raise Unreachable("not there")
        return "x"

    model = Sayer(say)
    flow = one(scout())
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=Unreachable)
    flow.graph.nodes["work"].retry_policy = policy
    async with opened() as desk:
        outcome = await desk.run(flow, model, budget=Budget(turns=2))
        assert outcome.status == "done"
        assert (await desk.record(outcome.run)).turns == 2
        outcome = await desk.run(flow, model, budget=Budget(turns=0))
        assert outcome.status == "refused"


async def test_functions_cost_turns_and_nothing_else() -> None:
    model = Sayer(lambda call: "x", language_model=False)
    async with opened() as desk:
        outcome = await desk.run(fan(scout(), list("abc")), model, budget=Budget(tokens=1, usd=0))
        assert outcome.status == "done"
        record = await desk.record(outcome.run)
        assert (record.tokens, record.cost, record.turns) == (0, 0, 3)


async def test_a_fan_out_of_five_hundred_is_bounded_and_finishes() -> None:
    async def pause(call: FunctionCall) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    model = Sayer(lambda call: call.task, pause=pause)
    items = [str(n) for n in range(500)]
    with anyio.fail_after(60):
        async with opened() as desk:
            outcome = await desk.run(fan(scout(), items, max_concurrency=7), model)
    assert outcome.output["found"] == items
    assert model.peak == 7


async def test_what_a_node_of_a_bounded_fan_out_wrote_is_kept_while_others_wait_for_their_turn(tmp_path: Path) -> None:
    """A crash near the end of five hundred must not have the first ones done again."""
    kept = "SELECT count(*) FROM checkpoint_writes WHERE channel = 'found'"

    async def begin(state: State) -> dict[str, Any]:
        return {}

    async def work(item: str) -> dict[str, Any]:
        with anyio.fail_after(20):  # all that went before, but for those that run beside it
            while (await desk.rows(kept))[0][0] < int(item) - 3:
                await anyio.lowlevel.checkpoint()
        return {"found": [item]}

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    graph.add_node("begin", begin)
    graph.add_node("work", cast(Any, work))
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", each(lambda s: [str(n) for n in range(60)], "work"), ["work"])
    async with opened(tmp_path / "runs.db") as desk:
        outcome = await desk.run(Workflow("wide", graph, max_concurrency=4))
    assert outcome.output["found"] == [str(n) for n in range(60)]


@pytest.mark.parametrize("name", ["usd", "tokens", "seconds", "turns"])
def test_a_budget_below_zero_is_no_budget(name: str) -> None:
    with pytest.raises(ConfigError, match=f"budget.{name}"):
        Budget(**{name: -1})
    with pytest.raises(ConfigError, match=f"budget.{name}"):
        Budget(**{name: cast(Any, float("nan"))})
