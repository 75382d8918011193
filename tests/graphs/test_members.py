"""A workflow as a member of another: a run of its own, under the parent's lease and budget."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from operator import add
from typing import Annotated, Any

import anyio
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.models.base import Model, Price, Usage
from retinue.agents.models.function import Answer, FunctionCall
from retinue.agents.models.selection import choose
from retinue.errors import RunError
from retinue.graphs import records
from retinue.graphs.nodes import each, step
from retinue.graphs.workflow import Workflow
from tests.support.desk import opened
from tests.support.flows import Sayer, one, tool

pytestmark = pytest.mark.anyio


class Ask(BaseModel):
    to: str


class Paid(BaseModel):
    receipt: str


class Payment(BaseModel):
    to: str
    receipt: str = ""


class Payments:
    def __init__(self) -> None:
        self.made: list[str] = []

    def pay(self, to: str) -> str:
        """Pay somebody."""
        self.made.append(to)
        return f"paid {to}"


def paying(payments: Payments) -> Workflow:
    """Pays one person, after an approval."""

    def say(call: FunctionCall) -> Answer:
        return call.results[0].text if call.results else call.use("pay", to=call.task)

    clerk = Agent("clerk", prompt="Pay.", function=say, tools=[tool(payments.pay, "unsafe")])
    graph = StateGraph(Payment, input_schema=Ask, output_schema=Paid)
    graph.add_node("pay", step(clerk, task=lambda s: s.to, into="receipt"))
    graph.add_edge(START, "pay")
    graph.add_edge("pay", END)
    return Workflow("paying", graph, description="Pays somebody.")


class Payroll(BaseModel):
    receipts: Annotated[list[Paid], add] = []


def payroll(member: Workflow, *people: str) -> Workflow:
    """One run of the member for each person, side by side."""

    async def begin(state: Payroll) -> dict[str, Any]:
        return {}

    graph = StateGraph(Payroll)
    graph.add_node("begin", begin)
    graph.add_node("each", step(member, task=lambda to: to, into="receipts"))
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", each(lambda s: people, "each"), ["each"])
    graph.add_edge("each", END)
    return Workflow("payroll", graph)


def functions(flow: Workflow) -> Mapping[str, Model]:
    return {agent.name: choose("function", function=agent.function, env={}, agent=agent.name) for agent in flow.agents}


async def test_members_in_parallel_are_runs_of_their_own_and_their_questions_are_in_one_inbox() -> None:
    payments = Payments()
    flow = payroll(paying(payments), "ann", "bob")
    async with opened() as desk:
        waiting = await desk.run(flow, functions(flow))
        assert waiting.status == "waiting"
        found = await desk.inbox(waiting.run)
        assert len({q.run for q in found}) == 2
        assert waiting.run not in {q.run for q in found}
        assert set(waiting.questions) == {q.id for q in found}
        (line,) = await desk.events(waiting.run, "run.waiting")
        assert {q["id"] for q in line["questions"]} == {q.id for q in found}
        await desk.answer_all(waiting.run)
        done = await desk.resume(waiting.run, flow, functions(flow))
        assert done.output == {"receipts": [{"receipt": "paid ann"}, {"receipt": "paid bob"}]}
        assert sorted(payments.made) == ["ann", "bob"]


async def test_a_member_that_is_answered_ends_while_its_sibling_waits_and_is_not_run_again() -> None:
    payments = Payments()
    flow = payroll(paying(payments), "ann", "bob", "cas")
    async with opened() as desk:
        run = (await desk.run(flow, functions(flow))).run
        for question in await desk.inbox(run):
            await desk.answer(question)
            await desk.resume(run, flow, functions(flow))
        assert (await desk.record(run)).status == "done"
        assert sorted(payments.made) == ["ann", "bob", "cas"]
        statuses = await desk.rows("SELECT status, epoch FROM runs WHERE root = ? ORDER BY epoch", run)
        assert {status for status, _ in statuses} == {"done"}


async def test_a_workflow_can_be_a_delegate_and_is_called_by_its_own_input_schema() -> None:
    payments = Payments()
    member = paying(payments)

    def say(call: FunctionCall) -> Answer:
        if not call.results:
            assert call.tools["paying"]["input_schema"]["required"] == ["to"]
            return [call.use("paying", to="ann"), call.use("paying", to="bob")]
        return " and ".join(result.data["receipt"] for result in call.results)

    flow = one(Agent("boss", prompt="b", function=say, delegates=[member]))
    async with opened() as desk:
        run = (await desk.run(flow, functions(flow), value={"question": "x"})).run
        await desk.answer_all(run)
        outcome = await desk.resume(run, flow, functions(flow))
        assert outcome.output["text"] == "paid ann and paid bob"


async def test_an_interrupt_of_a_members_own_node_is_answered_through_the_parent() -> None:
    async def ask(state: Payment) -> dict[str, Any]:
        return {"receipt": interrupt("which one?", response_schema={"type": "string"})}

    graph = StateGraph(Payment, input_schema=Ask, output_schema=Paid)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    flow = payroll(Workflow("asking", graph), "ann")
    async with opened() as desk:
        run = (await desk.run(flow)).run
        (question,) = await desk.inbox(run)
        await desk.answer(question, "this one")
        assert (await desk.resume(run, flow)).output == {"receipts": [{"receipt": "this one"}]}


async def test_members_spend_from_the_parents_budget() -> None:
    sayer = Sayer(lambda call: "done", usage=Usage(input=10, output=10), price=Price(input=1, output=1))
    worker = Agent("worker", prompt="w", max_tokens=100)
    graph = StateGraph(Payment, input_schema=Ask, output_schema=Paid)
    graph.add_node("work", step(worker, task=lambda s: s.to, into="receipt"))
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    flow = payroll(Workflow("working", graph, budget=Budget(turns=100)), "a", "b", "c", "d", "e")
    async with opened() as desk:
        outcome = await desk.run(flow, {"worker": sayer}, budget=Budget(turns=3))
        assert outcome.status == "refused"
        assert len(sayer.requests) == 3
        (spent,) = await desk.rows("SELECT turns FROM runs WHERE id = ?", outcome.run)
        assert spent == (3,)
        parts = await desk.rows("SELECT sum(turns) FROM runs WHERE root = ?", outcome.run)
        assert parts == [(3,)], "each says what it spent of that"


async def test_a_member_that_fails_fails_the_parent_with_its_own_error() -> None:
    async def breaks(state: Payment) -> dict[str, Any]:
        raise ValueError("no such account")

    graph = StateGraph(Payment, input_schema=Ask, output_schema=Paid)
    graph.add_node("break", breaks)
    graph.add_edge(START, "break")
    flow = payroll(Workflow("breaking", graph), "ann")
    async with opened() as desk:
        outcome = await desk.run(flow)
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert outcome.error.code == "node_failed"
        assert "no such account" in outcome.error.message


async def test_cancelling_a_waiting_parent_cancels_its_members_and_withdraws_their_questions() -> None:
    flow = payroll(paying(Payments()), "ann", "bob")
    async with opened() as desk:
        run = (await desk.run(flow, functions(flow))).run
        record = await desk.record(run)
        assert await desk.runs.cancel(record, principal=record.principal)
        assert await desk.inbox() == []
        assert await desk.rows("SELECT DISTINCT status FROM runs WHERE root = ?", run) == [("cancelled",)]


async def test_stopping_a_parent_stops_its_members_and_both_can_be_resumed() -> None:
    begun = anyio.Event()
    held = [True]

    async def pause(call: FunctionCall) -> None:
        if held[0]:
            begun.set()
            await asyncio.Event().wait()

    sayer = Sayer(lambda call: "done", pause=pause)
    worker = Agent("worker", prompt="w")
    graph = StateGraph(Payment, input_schema=Ask, output_schema=Paid)
    graph.add_node("work", step(worker, task=lambda s: s.to, into="receipt"))
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    flow = payroll(Workflow("working", graph), "ann")
    async with opened() as desk:
        execution = await desk.start(flow, {"worker": sayer})
        task = asyncio.create_task(desk.runs.execute(execution))
        with anyio.fail_after(5):
            await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await desk.rows("SELECT status FROM runs ORDER BY created_at") == [("stopped",), ("stopped",)]
        held[0] = False
        outcome = await desk.resume(execution.run, flow, {"worker": sayer})
        assert outcome.output == {"receipts": [{"receipt": "done"}]}


async def test_a_members_run_is_resumed_and_cancelled_through_its_parent_alone() -> None:
    flow = payroll(paying(Payments()), "ann")
    async with opened() as desk:
        run = (await desk.run(flow, functions(flow))).run
        (question,) = await desk.inbox(run)
        member = await desk.record(question.run)
        assert member.root == run
        with pytest.raises(RunError, match="part of another"):
            await desk.runs.resume(member, paying(Payments()), await desk.equip(flow, functions(flow)))
        with pytest.raises(RunError, match="part of another"):
            await desk.runs.cancel(member, principal=member.principal)


async def test_runs_of_members_are_not_listed_beside_their_parent_and_are_pruned_with_it() -> None:
    flow = payroll(paying(Payments()), "ann", "bob")
    async with opened() as desk:
        run = (await desk.run(flow, functions(flow))).run
        assert [record.id for record in await records.recent(desk.db)] == [run]
        record = await desk.record(run)
        await desk.runs.cancel(record, principal=record.principal)
        assert len(await records.prune(desk.db, older_than=0)) == 3
        assert await desk.rows("SELECT id FROM runs") == []


async def test_the_fingerprint_of_a_workflow_knows_its_members() -> None:
    flow = payroll(paying(Payments()), "ann")
    assert flow.shape["members"].keys() == {"paying"}
