"""Cancel ends a run, stop leaves it resumable, and neither leaves anything half done."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from operator import add
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.models.function import FunctionCall, ToolUse
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import DatabaseFull, RunError, Timeout
from retinue.graphs import journal
from retinue.graphs.nodes import step
from retinue.graphs.workflow import Workflow
from tests.support.desk import APPROVE, Desk, opened
from tests.support.flows import Sayer, fan, one, tool
from tests.support.people import ME

pytestmark = pytest.mark.anyio


class Slow:
    """A tool that waits until it is told to go on, and remembers how its calls ended."""

    def __init__(self, effect: Any = "unsafe", **options: Any) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended: list[str] = []
        toolset = tool(self.work, effect, allow=["work"], **options)
        self.agent = Agent("worker", prompt="Work.", tools=[toolset])

    async def work(self, what: str) -> str:
        """Work."""
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("done")
        return f"{what} is done"

    def model(self) -> Sayer:
        return Sayer(lambda call: call.results[-1].text if call.turn else ToolUse("work", {"what": call.task}))


async def cancelled(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_stopped_run_says_so_and_can_be_resumed(on_disk: Desk) -> None:
    slow = Slow("idempotent")
    flow, model = one(slow.agent), slow.model()
    execution = await on_disk.start(flow, model)
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await slow.begun.wait()
    running.cancel()
    await cancelled(running)
    assert slow.ended == ["cancelled"]
    record = await on_disk.record(execution.run)
    assert (record.status, record.owner) == ("stopped", None)
    assert (await on_disk.events(execution.run))[-1]["type"] == "run.stopped"
    slow.go_on.set()
    outcome = await on_disk.resume(execution.run, flow, model)
    assert outcome.output["text"] == "the task is done"
    assert len(model.requests) == 2


async def test_a_stop_lets_a_tool_that_nobody_could_repeat_finish(on_disk: Desk) -> None:
    slow = Slow("unsafe")
    flow, model = one(slow.agent), slow.model()
    execution = await on_disk.start(flow, model)
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await slow.begun.wait()
    running.cancel()
    slow.go_on.set()
    await cancelled(running)
    assert slow.ended == ["done"]
    assert "result:0.0" in (await on_disk.facts(execution.run))["work@1"]
    outcome = await on_disk.resume(execution.run, flow, model)
    assert outcome.status == "done"
    assert slow.ended == ["done"]


async def test_a_stop_does_not_wait_for_ever_and_leaves_the_call_in_doubt(
    on_disk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FINISH_SECONDS", 0.05)
    slow = Slow("unsafe")
    flow, model = one(slow.agent), slow.model()
    execution = await on_disk.start(flow, model)
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await slow.begun.wait()
    running.cancel()
    await cancelled(running)
    assert slow.ended == ["cancelled"]
    assert (await on_disk.resume(execution.run, flow, model)).status == "waiting"
    (question,) = await on_disk.inbox()
    assert question.kind == "in_doubt"


async def test_stop_inside_a_cancelled_scope_of_anyio_is_whole(on_disk: Desk) -> None:
    """Such a scope cancels again at every step, also the writes that let go of the run."""
    slow = Slow("unsafe")
    flow, model = one(slow.agent), slow.model()
    execution = await on_disk.start(flow, model)
    async with anyio.create_task_group() as group:
        group.start_soon(on_disk.runs.execute, execution)
        await slow.begun.wait()
        group.cancel_scope.cancel()
        slow.go_on.set()
    assert slow.ended == ["done"]
    assert (await on_disk.record(execution.run)).status == "stopped"
    assert (await on_disk.resume(execution.run, flow, model)).status == "done"


async def test_being_stopped_many_times_is_being_stopped(on_disk: Desk) -> None:
    slow = Slow("unsafe")
    execution = await on_disk.start(one(slow.agent), slow.model())
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await slow.begun.wait()
    for _ in range(5):
        running.cancel()
        await asyncio.sleep(0)
    slow.go_on.set()
    await cancelled(running)
    assert (await on_disk.record(execution.run)).status == "stopped"
    assert slow.ended == ["done"]


async def test_a_stop_before_the_first_step_is_a_stop(on_disk: Desk) -> None:
    slow = Slow()
    execution = await on_disk.start(one(slow.agent), slow.model())
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await asyncio.sleep(0)
    running.cancel()
    await cancelled(running)
    assert (await on_disk.record(execution.run)).status == "stopped"
    assert not slow.begun.is_set()


@pytest.mark.parametrize("effect", ["read_only", "unsafe"])
async def test_a_cancel_ends_the_run_and_reaches_the_tool(on_disk: Desk, effect: str) -> None:
    slow = Slow(effect)
    flow, model = one(slow.agent), slow.model()
    execution = await on_disk.start(flow, model)
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await slow.begun.wait()
    with anyio.fail_after(5):
        assert await on_disk.runs.cancel(await on_disk.record(execution.run), principal=ME) is False
        outcome = await running
    assert outcome.status == "cancelled"
    assert slow.ended == ["cancelled"]
    with pytest.raises(RunError, match="is cancelled"):
        await on_disk.take(execution.run, flow, model)
    with pytest.raises(RunError, match="already cancelled"):
        await on_disk.runs.cancel(await on_disk.record(execution.run), principal=ME)


async def test_a_cancel_reaches_the_model(desk: Desk) -> None:
    reached = asyncio.Event()

    async def pause(call: FunctionCall) -> None:
        reached.set()
        await asyncio.Event().wait()

    model = Sayer(lambda call: "x", pause=pause)
    execution = await desk.start(one(Agent("scout", prompt="Look.")), model)
    running = asyncio.create_task(desk.runs.execute(execution))
    await reached.wait()
    await desk.runs.cancel(await desk.record(execution.run), principal=ME)
    assert (await running).status == "cancelled"
    assert model.now == 0


async def test_a_cancel_between_start_and_execution_is_not_lost(desk: Desk) -> None:
    slow = Slow()
    execution = await desk.start(one(slow.agent), slow.model())
    await desk.runs.cancel(await desk.record(execution.run), principal=ME)
    assert (await desk.runs.execute(execution)).status == "cancelled"
    assert not slow.begun.is_set()


async def test_a_cancel_that_a_node_swallows_ends_the_run_all_the_same(desk: Desk) -> None:
    reached = asyncio.Event()

    class State(BaseModel):
        text: str = ""

    async def stubborn(state: State) -> dict[str, Any]:
        reached.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {"text": "went on"}

    graph = StateGraph(State)
    graph.add_node(stubborn)
    graph.add_edge(START, "stubborn")
    execution = await desk.start(Workflow("stubborn", graph))
    running = asyncio.create_task(desk.runs.execute(execution))
    await reached.wait()
    await desk.runs.cancel(await desk.record(execution.run), principal=ME)
    assert (await running).status == "cancelled"


async def test_a_run_that_waits_is_cancelled_at_once(desk: Desk) -> None:
    slow = Slow()
    agent = Agent("worker", prompt="Work.", tools=[tool(slow.work, "unsafe")])
    outcome = await desk.run(one(agent), slow.model())
    assert outcome.status == "waiting"
    assert await desk.runs.cancel(await desk.record(outcome.run), principal=ME) is True
    assert (await desk.events(outcome.run))[-1]["type"] == "run.cancelled"


async def test_a_cancel_asked_for_while_the_run_is_about_to_wait_is_not_lost(desk: Desk) -> None:
    slow = Slow()
    agent = Agent("worker", prompt="Work.", tools=[tool(slow.work, "unsafe")])
    execution = await desk.start(one(agent), slow.model())
    await desk.change("UPDATE runs SET cancelling = 1")  # by another process; nobody here has looked yet
    outcome = await desk.runs.execute(execution)
    assert outcome.status == "cancelled"
    assert await desk.inbox() == []


async def test_a_cancel_asked_of_a_process_that_died_is_heard_at_the_next_resume(tmp_path: Path) -> None:
    slow = Slow()
    async with opened(tmp_path / "runs.db") as first, opened(tmp_path / "runs.db") as second:
        execution = await first.start(one(slow.agent), slow.model())
        assert await second.runs.cancel(await second.record(execution.run), principal=ME) is False
    async with opened(tmp_path / "runs.db") as third:
        assert (await third.resume(execution.run, one(slow.agent), slow.model())).status == "cancelled"
        assert not slow.begun.is_set()


async def ticks(number: int = 1) -> None:
    """Let everything that can go on do so."""
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


class Fails:
    """A branch that fails once its sibling's tool has begun."""

    def __init__(self, slow: Slow) -> None:
        self.slow = slow
        self.failed = asyncio.Event()

    def flow(self) -> Workflow:
        class State(BaseModel):
            found: Annotated[list[str], add] = []

        async def broken(state: Any) -> dict[str, Any]:
            await self.slow.begun.wait()
            self.failed.set()
            raise ValueError("the sibling failed")

        graph = StateGraph(State)
        graph.add_node("work", step(self.slow.agent, task="it", into="found"))
        graph.add_node("broken", broken)
        graph.add_edge(START, "work")
        graph.add_edge(START, "broken")
        return Workflow("fails", graph)


async def test_a_failing_branch_lets_the_tool_beside_it_finish_and_record(on_disk: Desk) -> None:
    slow = Slow("unsafe")
    fails = Fails(slow)
    execution = await on_disk.start(fails.flow(), slow.model())
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await fails.failed.wait()
    await ticks(100)
    assert not running.done()
    slow.go_on.set()
    outcome = await running
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "the sibling failed" in outcome.error.message
    assert slow.ended == ["done"]
    assert "result:0.0" in (await on_disk.facts(execution.run))["work@1"]


async def test_a_cancel_while_a_failed_run_waits_for_a_tool_does_not_wait_on(on_disk: Desk) -> None:
    slow = Slow("unsafe")
    fails = Fails(slow)
    execution = await on_disk.start(fails.flow(), slow.model())
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await fails.failed.wait()
    await ticks(100)
    with anyio.fail_after(5):
        await on_disk.runs.cancel(await on_disk.record(execution.run), principal=ME)
        outcome = await running
    assert outcome.status == "cancelled"
    with anyio.fail_after(5):
        while not slow.ended:
            await ticks()
    assert slow.ended == ["cancelled"]


@pytest.mark.parametrize("effect", ["read_only", "unsafe"])
async def test_the_seconds_of_a_budget_end_a_tool_that_hangs(on_disk: Desk, effect: str) -> None:
    slow = Slow(effect)
    with anyio.fail_after(10):
        outcome = await on_disk.run(one(slow.agent), slow.model(), budget=Budget(seconds=0.3))
    assert outcome.status == "refused"
    assert outcome.error is not None
    assert outcome.error.code == "budget_exceeded"
    assert slow.ended == ["cancelled"]


async def test_the_seconds_of_a_budget_end_a_model_that_hangs(desk: Desk) -> None:
    async def pause(call: FunctionCall) -> None:
        await asyncio.Event().wait()

    model = Sayer(lambda call: "x", pause=pause)
    with anyio.fail_after(10):
        outcome = await desk.run(one(Agent("scout", prompt="Look.")), model, budget=Budget(seconds=0.2))
    assert outcome.status == "refused"


async def test_a_model_that_gives_up_at_the_deadline_by_itself_is_the_budgets_end_too(desk: Desk) -> None:
    class Punctual(Sayer):
        async def complete(self, request: Any, *, deadline: float | None = None, **_: Any) -> Any:
            assert deadline is not None
            raise Timeout("no answer in time")

    outcome = await desk.run(
        one(Agent("scout", prompt="Look.")), Punctual(lambda call: "x"), budget=Budget(seconds=0.09)
    )
    assert outcome.status == "refused"


async def test_the_seconds_count_over_resumes_but_not_while_people_think(tmp_path: Path) -> None:
    slow = Slow()
    slow.go_on.set()
    agent = Agent("worker", prompt="Work.", tools=[tool(slow.work, "unsafe")])
    async with opened(tmp_path / "runs.db") as desk:
        outcome = await desk.run(one(agent), slow.model(), budget=Budget(seconds=100))
        await desk.change("UPDATE runs SET active = 99.99, updated_at = updated_at + 5000")
        await desk.answer_all(outcome.run, APPROVE)
        await desk.change("UPDATE runs SET active = 100.5")
        assert (await desk.resume(outcome.run, one(agent), slow.model())).status == "refused"


async def test_a_tool_that_runs_in_a_thread_is_let_go_of(on_disk: Desk) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(what: str) -> str:
        """Work."""
        begun.set()
        go_on.wait(20)
        return "late"

    agent = Agent("worker", prompt="Work.", tools=[tool(work, "read_only")])
    model = Sayer(lambda call: ToolUse("work", {"what": "x"}))
    execution = await on_disk.start(one(agent), model)
    running = asyncio.create_task(on_disk.runs.execute(execution))
    await asyncio.to_thread(begun.wait, 20)
    await on_disk.runs.cancel(await on_disk.record(execution.run), principal=ME)
    assert (await running).status == "cancelled"
    go_on.set()


class Filling(SQLiteDatabase):
    """A disk that is full from the n-th commit on."""

    left: int | None = None

    def _commit(self, connection: Any) -> None:
        if self.left is not None:
            if self.left <= 0:
                raise DatabaseFull("no space is left")
            self.left -= 1
        super()._commit(connection)


@pytest.mark.parametrize("commits", range(0, 16, 3))
async def test_a_full_disk_leaves_the_run_as_it_was_and_it_goes_on_when_there_is_space(
    tmp_path: Path, commits: int
) -> None:
    slow = Slow("idempotent")
    slow.go_on.set()
    flow, model = fan(slow.agent, ["a", "b"]), slow.model()
    db = await Filling.open(tmp_path / "runs.db")
    assert isinstance(db, Filling)
    desk = Desk(db)
    try:
        execution = await desk.start(flow, model)
        db.left = commits
        with pytest.raises(DatabaseFull):
            await desk.runs.execute(execution)
        db.left = None
        assert (await desk.record(execution.run)).status == "running"
        if commits % 2:  # this very process goes on with it
            assert (await desk.resume(execution.run, flow, model)).status == "done"
            return
    finally:
        await desk.close()
    async with opened(tmp_path / "runs.db") as other:
        outcome = await other.resume(execution.run, flow, model)
        assert outcome.output["found"] == ["a is done", "b is done"]
        facts = await other.facts(execution.run)
        assert sum(len([k for k in keys if k.startswith("reply")]) for keys in facts.values()) == 4


async def test_a_run_that_took_all_its_supersteps_and_could_not_be_closed_is_done_when_it_is_resumed(
    tmp_path: Path,
) -> None:
    class Unclosing(SQLiteDatabase):
        async def write(self, work: Any, *, flush: bool = False) -> Any:
            if work.__qualname__.startswith("_close"):
                raise DatabaseFull("no space is left")
            return await super().write(work, flush=flush)

    flow = one(Agent("scout", prompt="Look."), max_steps=1)
    desk = Desk(await Unclosing.open(tmp_path / "runs.db"))
    execution = await desk.start(flow, Sayer(lambda call: "x"))
    with pytest.raises(DatabaseFull):
        await desk.runs.execute(execution)
    await desk.close()
    async with opened(tmp_path / "runs.db") as other:
        assert (await other.resume(execution.run, flow, Sayer(lambda call: "never"))).output["text"] == "x"
