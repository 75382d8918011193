"""Agents that ask agents, and agents that hand over: on their own paths, in one inbox, under one budget."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.models.base import Model, Reply
from retinue.agents.models.function import Answer, FunctionCall
from retinue.agents.models.selection import choose
from retinue.errors import ConfigError
from retinue.graphs.workflow import Workflow
from tests.support.desk import Desk, opened
from tests.support.flows import one, tool

pytestmark = pytest.mark.anyio

Say = Callable[[FunctionCall], Answer]


class Payments:
    """A tool that nobody could repeat, and its own log."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def pay(self, to: str) -> str:
        """Pay somebody."""
        self.made.append(to)
        return f"paid {to}"


def biller(payments: Payments) -> Agent:
    def say(call: FunctionCall) -> Answer:
        return call.results[0].text if call.results else call.use("pay", to=call.task)

    return Agent("biller", prompt="Pay.", function=say, tools=[tool(payments.pay, "unsafe")])


def asks(name: str, member: Agent, *tasks: str) -> Agent:
    """Asks the member for each task at once, and joins the answers."""

    def say(call: FunctionCall) -> Answer:
        if not call.results:
            return [call.use(member.name, task=task) for task in tasks]
        return " & ".join(("! " if r.is_error else "") + r.text for r in call.results)

    return Agent(name, prompt="Ask.", function=say, delegates=[member])


def functions(flow: Workflow) -> dict[str, Model]:
    return {agent.name: choose("function", function=agent.function, env={}, agent=agent.name) for agent in flow.agents}


def saying(name: str, say: Say) -> Agent:
    return Agent(name, prompt="Say.", function=say)


async def run(desk: Desk, flow: Workflow, **options: Budget) -> str:
    outcome = await desk.run(flow, functions(flow), value={"question": "pay all"}, **options)
    return outcome.run


async def test_questions_of_nested_delegates_are_in_the_inbox_at_once_each_with_its_path() -> None:
    payments = Payments()
    flow = one(asks("front", asks("desk", biller(payments), "ann", "bob"), "pay both"))
    async with opened() as desk:
        id_ = await run(desk, flow)
        found = await desk.inbox(id_)
        assert [q.path for q in found] == ["work@1/0.0~desk/0.0~biller", "work@1/0.0~desk/0.1~biller"]
        assert payments.made == []
        await desk.answer_all(id_)
        outcome = await desk.resume(id_, flow, functions(flow))
        assert outcome.output["text"] == "paid ann & paid bob"
        assert sorted(payments.made) == ["ann", "bob"]


async def test_a_delegate_whose_question_is_answered_goes_on_while_its_sibling_waits() -> None:
    payments = Payments()
    flow = one(asks("desk", biller(payments), "ann", "bob"))
    async with opened() as desk:
        id_ = await run(desk, flow)
        first, second = await desk.inbox(id_)
        await desk.answer(second)
        assert (await desk.resume(id_, flow, functions(flow))).status == "waiting"
        assert payments.made == ["bob"]
        await desk.answer(first)
        assert (await desk.resume(id_, flow, functions(flow))).output["text"] == "paid ann & paid bob"
        assert payments.made == ["bob", "ann"]


async def test_what_a_delegate_did_is_not_done_again_when_the_run_is_resumed() -> None:
    payments = Payments()
    counted: list[str] = []

    def say(call: FunctionCall) -> Answer:
        counted.append(f"{call.task} {call.turn}")
        return call.results[0].text if call.results else call.use("pay", to=call.task)

    worker = Agent("worker", prompt="Pay.", function=say, tools=[tool(payments.pay, "unsafe")])
    flow = one(asks("desk", worker, "ann", "bob"))
    async with opened() as desk:
        id_ = await run(desk, flow)
        for question in await desk.inbox(id_):
            await desk.answer(question)
            await desk.resume(id_, flow, functions(flow))
        assert sorted(counted) == ["ann 0", "ann 1", "bob 0", "bob 1"]
        assert sorted(payments.made) == ["ann", "bob"]


async def test_a_hand_over_makes_the_members_output_ones_own() -> None:
    class Bill(BaseModel):
        to: str

    desk_agent = Agent("desk", prompt="d", output=Bill, function=lambda call: Bill(to=call.task))
    front = Agent(
        "front", prompt="f", output=Bill, handoffs=[desk_agent],
        function=lambda call: call.use("hand_over_to_desk", task="ann"),
    )  # fmt: skip
    flow = one(front)
    async with opened() as desk:
        outcome = await desk.run(flow, functions(flow), value={"question": "x"})
        facts = await desk.facts(outcome.run)
        assert facts["work@1"]["output"] == facts["work@1/0.0~desk"]["output"] == {"value": '{"to":"ann"}'}


async def test_a_hand_over_that_waits_goes_on_where_it_was() -> None:
    payments = Payments()
    front = Agent(
        "front", prompt="f", handoffs=[biller(payments)],
        function=lambda call: call.use("hand_over_to_biller", task="ann"),
    )  # fmt: skip
    flow = one(front)
    async with opened() as desk:
        id_ = await run(desk, flow)
        await desk.answer_all(id_)
        assert (await desk.resume(id_, flow, functions(flow))).output["text"] == "paid ann"
        assert payments.made == ["ann"]


async def test_a_hand_over_beside_other_calls_is_refused_and_the_agent_goes_on() -> None:
    other = saying("other", lambda call: "done by other")

    def say(call: FunctionCall) -> Answer:
        if not call.results:
            return [call.use("hand_over_to_other", task="a"), call.use("other", task="b")]
        return " | ".join(result.text for result in call.results)

    flow = one(Agent("front", prompt="f", function=say, delegates=[other], handoffs=[other]))
    async with opened() as desk:
        outcome = await desk.run(flow, functions(flow), value={"question": "x"})
        assert outcome.output["text"] == "Hand over alone: call nothing else beside it. | done by other"


async def test_one_cannot_hand_over_to_a_member_with_another_output() -> None:
    class Bill(BaseModel):
        to: str

    other = Agent("other", prompt="o", output=Bill, function=lambda call: Bill(to="x"))
    flow = one(Agent("front", prompt="f", function=lambda call: "x", handoffs=[other]))
    async with opened() as desk:
        with pytest.raises(ConfigError, match="cannot hand over to other"):
            await desk.run(flow, functions(flow))


async def test_two_agents_of_one_name_are_refused_also_deep_inside() -> None:
    inner = saying("same", lambda call: "x")
    flow = one(asks("same", inner, "x"))
    with pytest.raises(ConfigError, match="two agents named 'same'"):
        _ = flow.agents


async def test_a_delegate_that_fails_is_an_error_result_and_the_asker_may_go_on() -> None:
    def refuses(call: FunctionCall) -> Answer:
        return Reply(content=[], stop_reason="refusal", model="m")

    flow = one(asks("desk", saying("shy", refuses), "x"))
    async with opened() as desk:
        outcome = await desk.run(flow, functions(flow), value={"question": "x"})
        assert outcome.status == "done"
        assert outcome.output["text"].startswith("! shy failed: ")


@pytest.mark.parametrize(("depth", "status"), [(1, "refused"), (2, "done"), (None, "done")])
async def test_members_ask_members_only_as_deep_as_the_budget_says(depth: int | None, status: str) -> None:
    flow = one(asks("a", asks("b", saying("c", lambda call: "deep"), "x"), "x"))
    async with opened() as desk:
        outcome = await desk.run(flow, functions(flow), value={"question": "x"}, budget=Budget(depth=depth))
        assert outcome.status == status
        if status == "refused":
            assert outcome.error is not None
            assert outcome.error.code == "budget_exceeded"
            assert outcome.error.details["limit"] == "depth"


async def test_delegates_share_the_runs_turns() -> None:
    calls: list[str] = []

    def say(call: FunctionCall) -> Answer:
        calls.append(call.task)
        return "done"

    flow = one(asks("desk", saying("worker", say), "a", "b", "c"))
    async with opened() as desk:
        outcome = await desk.run(flow, functions(flow), value={"question": "x"}, budget=Budget(turns=3))
        assert outcome.status == "refused"
        assert len(calls) == 2, "one turn went to the asker"
        (row,) = await desk.rows("SELECT turns FROM runs WHERE id = ?", outcome.run)
        assert row == (3,)


async def test_the_fingerprint_knows_the_delegates() -> None:
    inner = saying("inner", lambda call: "x")
    flow = one(asks("desk", inner, "x"))
    assert flow.shape["prompts"].keys() == {"desk", "inner"}
