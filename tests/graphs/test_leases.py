"""One writer a run: whoever does not hold the lease changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from langgraph.graph import START, StateGraph

from retinue.agents.agent import Agent
from retinue.database.migrations import numbered
from retinue.errors import LeaseLost, RunBusy, RunError, RunNotFound
from retinue.graphs import lease, records
from retinue.graphs.nodes import step
from retinue.graphs.workflow import Workflow
from tests.support import desk as desks
from tests.support.desk import Desk, opened
from tests.support.flows import Sayer, State, one
from tests.support.people import ME

pytestmark = pytest.mark.anyio

SCOUT = Agent("scout", prompt="Look.")


class Clock:
    """Database time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """Holds a model up until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, call: Any) -> None:
        self.reached.set()
        await self.open.wait()


def held() -> tuple[Sayer, Gate]:
    gate = Gate()
    return Sayer(lambda call: "found", pause=gate), gate


async def digest(desk: Desk) -> dict[str, str]:
    """A digest of every table."""
    found: dict[str, str] = {}
    for table in re.findall(r"CREATE TABLE (\w+)", "".join(script for _, script in numbered("sqlite"))):
        rows = await desk.rows(f"SELECT * FROM {table}")
        found[table] = hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()
    return found


async def test_a_run_that_is_executed_cannot_be_resumed_by_another(tmp_path: Path) -> None:
    model, gate = held()
    flow = one(SCOUT)
    async with opened(tmp_path / "runs.db") as first, opened(tmp_path / "runs.db") as second:
        execution = await first.start(flow, model)
        running = asyncio.create_task(first.runs.execute(execution))
        await gate.reached.wait()
        before = await digest(second)
        with pytest.raises(RunBusy):
            await second.take(execution.run, flow, model)
        assert await second.runs.abandoned() == []
        assert await digest(second) == before
        gate.open.set()
        assert (await running).status == "done"
        with pytest.raises(RunError, match="is done"):
            await second.take(execution.run, flow, model)


async def test_of_many_that_resume_at_once_one_gets_the_run(tmp_path: Path) -> None:
    flow = one(SCOUT)
    async with opened(tmp_path / "runs.db") as first:
        execution = await first.start(flow)
    results: list[str] = []

    async with anyio.create_task_group() as group:

        async def try_it() -> None:
            async with opened(tmp_path / "runs.db") as desk:
                try:
                    await desk.take(execution.run, flow)
                    results.append("mine")
                    await all_tried.wait()
                except RunBusy:
                    results.append("busy")
                if len(results) == 8:
                    all_tried.set()

        all_tried = anyio.Event()
        for _ in range(8):
            group.start_soon(try_it)
        with anyio.fail_after(20):
            while len(results) < 8:
                await anyio.lowlevel.checkpoint()
            all_tried.set()
    assert sorted(results) == ["busy"] * 7 + ["mine"]


async def test_a_process_that_ended_loses_its_runs_at_once(tmp_path: Path) -> None:
    flow = one(SCOUT)
    async with opened(tmp_path / "runs.db") as first:
        execution = await first.start(flow)
    async with opened(tmp_path / "runs.db") as second:
        (record,) = await second.runs.abandoned()
        assert record.lease_until is not None
        assert record.lease_until > record.updated_at + 20
        assert (await second.resume(execution.run, flow, Sayer(lambda call: "x"))).status == "done"


async def test_an_owner_whose_lease_lapsed_writes_nothing_more(tmp_path: Path) -> None:
    clock = Clock()
    flow = one(SCOUT)
    async with opened(tmp_path / "runs.db", clock=clock) as desk:
        model, gate = held()
        execution = await desk.start(flow, model)
        running = asyncio.create_task(desk.runs.execute(execution))
        await gate.reached.wait()
        clock.now += lease.LEASE_SECONDS + 1
        before = await digest(desk)
        gate.open.set()
        with pytest.raises(LeaseLost):
            await running
        assert await digest(desk) == before
        assert (await desk.resume(execution.run, flow, Sayer(lambda call: "again"))).output["text"] == "again"


async def test_an_owner_whose_run_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    clock = Clock()
    flow = one(SCOUT)
    async with opened(tmp_path / "runs.db", clock=clock) as first, opened(tmp_path / "runs.db", clock=clock) as second:
        model, gate = held()
        execution = await first.start(flow, model)
        running = asyncio.create_task(first.runs.execute(execution))
        await gate.reached.wait()
        clock.now += lease.LEASE_SECONDS + 1
        taken = await second.take(execution.run, flow, Sayer(lambda call: "second"))
        before = await digest(second)
        gate.open.set()
        with pytest.raises(LeaseLost):
            await running
        assert await digest(second) == before
        assert (await second.runs.execute(taken)).output["text"] == "second"


async def test_an_execution_outrun_by_its_own_process_cannot_even_write_a_checkpoint(tmp_path: Path) -> None:
    """The process owns the run again, but this execution does not: a node of the user's own is still at work in it."""
    clock = Clock()
    gates = [Gate(), Gate()]
    texts = iter(["old", "new"])

    async def work(state: State) -> dict[str, Any]:
        gate, text = gates.pop(0), next(texts)
        await gate(None)
        return {"text": text}

    graph = StateGraph(State)
    graph.add_node(work)
    graph.add_edge(START, "work")
    flow = Workflow("own", graph)
    first, second = gates
    async with opened(tmp_path / "runs.db", clock=clock) as desk:
        execution = await desk.start(flow)
        old = asyncio.create_task(desk.runs.execute(execution))
        await first.reached.wait()
        clock.now += lease.LEASE_SECONDS + 1
        first.open.set()  # it ends just as it is outrun
        taken = await desk.take(execution.run, flow)
        before = await digest(desk)
        with pytest.raises(LeaseLost):
            await old
        assert await digest(desk) == before
        new = asyncio.create_task(desk.runs.execute(taken))
        await second.reached.wait()
        second.open.set()
        assert (await new).output["text"] == "new"


async def test_a_member_runs_lease_that_outlives_its_parents_is_taken_with_it(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "runs.db"
    inner = one(SCOUT)
    graph = StateGraph(State)
    graph.add_node("inner", step(inner, task="{}", into=lambda output, state: {"text": output.text}))
    graph.add_edge(START, "inner")
    outer = Workflow("outer", graph)
    async with opened(path, clock=clock) as first, opened(path, clock=clock) as second:
        model, gate = held()
        execution = await first.start(outer, model)
        clock.now += 10
        running = asyncio.create_task(first.runs.execute(execution))
        await gate.reached.wait()
        clock.now += lease.LEASE_SECONDS - 9
        outcome = await second.resume(execution.run, outer, Sayer(lambda call: "second"))
        assert outcome.output["text"] == "second"
        gate.open.set()
        with pytest.raises(LeaseLost):
            await running


async def test_a_keeper_that_finds_the_lease_gone_breaks_the_execution_off(tmp_path: Path) -> None:
    """Not at the next write, which may be far away: the model still thinks."""
    clock = Clock()
    flow = one(SCOUT)
    path = tmp_path / "runs.db"
    async with (
        opened(path, clock=clock, lease_seconds=0.3) as first,
        opened(path, clock=clock, lease_seconds=0.3) as second,
    ):
        model, gate = held()
        execution = await first.start(flow, model)
        running = asyncio.create_task(first.runs.execute(execution))
        await gate.reached.wait()
        clock.now += 1
        await second.take(execution.run, flow)
        with anyio.fail_after(20), pytest.raises(LeaseLost):
            await running
        assert model.now == 0


async def test_a_long_call_keeps_its_lease(tmp_path: Path) -> None:
    async with opened(tmp_path / "runs.db", lease_seconds=0.3) as desk:
        model, gate = held()
        execution = await desk.start(one(SCOUT), model)
        running = asyncio.create_task(desk.runs.execute(execution))
        await gate.reached.wait()
        began = (await desk.record(execution.run)).lease_until
        assert began is not None
        with anyio.fail_after(20):
            while (until := (await desk.record(execution.run)).lease_until) is None or until < began + 1:
                await anyio.lowlevel.checkpoint()
        gate.open.set()
        assert (await running).status == "done"


async def test_the_keeper_stops_when_there_is_nothing_to_keep(desk: Desk) -> None:
    await desk.run(one(SCOUT), Sayer(lambda call: "x"))
    with anyio.fail_after(5):
        while any(task.get_name() == "retinue-keeper" for task in asyncio.all_tasks()):
            await anyio.lowlevel.checkpoint()


async def test_a_clock_that_goes_back_under_a_live_run_does_not_end_it(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path / "runs.db", clock=clock, lease_seconds=0.3) as desk:
        model, gate = held()
        execution = await desk.start(one(SCOUT), model)
        running = asyncio.create_task(desk.runs.execute(execution))
        await gate.reached.wait()
        clock.now -= 5000
        with anyio.fail_after(20):
            while ((await desk.record(execution.run)).lease_until or 1e12) > clock.now + 1:
                await anyio.lowlevel.checkpoint()
        gate.open.set()
        assert (await running).status == "done"
        stamps = [line["ts"] for line in await desk.events(execution.run)]
        assert stamps != sorted(stamps)


async def test_a_lease_from_a_clock_that_has_gone_back_does_not_hold_a_run_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    flow = one(SCOUT)
    async with opened(tmp_path / "runs.db", clock=clock) as first, opened(tmp_path / "runs.db", clock=clock) as second:
        execution = await first.start(flow)
        clock.now -= 100_000
        assert (await second.resume(execution.run, flow, Sayer(lambda call: "x"))).status == "done"


async def test_there_is_no_lease_on_a_run_that_is_not_there(desk: Desk) -> None:
    with pytest.raises(RunNotFound):
        await desk.db.write(lambda tx: lease.acquire(tx, "nope", owner="me", seconds=30, alive=lambda _: None))


async def test_an_owner_of_whom_nothing_is_known_keeps_its_lease_until_it_lapses(desk: Desk) -> None:
    execution = await desk.start(one(SCOUT))
    now = execution.lease
    for at, free in ((29.0, False), (31.0, True)):

        def take(tx: Any, at: float = at) -> None:
            tx.now += at
            lease.acquire(tx, execution.run, owner="other", seconds=30, alive=lambda _: None)

        if free:
            await desk.db.write(take)
        else:
            with pytest.raises(RunBusy):
                await desk.db.write(take)
    record = await desk.record(execution.run)
    assert (record.owner, record.epoch) == ("other", now.epoch + 1)


class Other:
    """Another process with a run."""

    def __init__(self, path: Path, run: str = "start", *, lease_seconds: float = 30.0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.graphs.lease_child", desks.where(path), run, str(lease_seconds)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def said(self) -> str:
        assert self._process.stdout is not None
        return (await anyio.to_thread.run_sync(self._process.stdout.readline)).strip()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def send(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def others() -> Iterator[list[Other]]:
    started: list[Other] = []
    yield started
    for other in started:
        other.end()


async def test_of_two_processes_that_resume_one_run_one_works_and_the_other_is_told(
    tmp_path: Path, others: list[Other]
) -> None:
    path = tmp_path / "runs.db"
    async with opened(path) as desk:
        run = (await desk.start(one(SCOUT))).run
    with anyio.fail_after(60):
        others += [Other(path, run), Other(path, run)]
        first = {await other.said(): other for other in others}
        assert sorted(first) == ["run_busy", "thinking"]
        first["thinking"].go_on()
        assert await first["thinking"].said() == "done"


async def test_a_frozen_owner_wakes_up_to_a_lost_lease_and_changes_no_row(tmp_path: Path, others: list[Other]) -> None:
    path = tmp_path / "runs.db"
    flow = one(SCOUT)
    with anyio.fail_after(60):
        others.append(frozen := Other(path, lease_seconds=1.0))
        assert await frozen.said() == "thinking"
        frozen.send(signal.SIGSTOP)
        async with opened(path) as desk:
            (record,) = await records.recent(desk.db)
            while not await desk.runs.abandoned():  # it lives, so its lease must lapse
                await anyio.lowlevel.checkpoint()
            assert (await desk.resume(record.id, flow, Sayer(lambda call: "the other"))).status == "done"
            before = await digest(desk)
            frozen.send(signal.SIGCONT)
            frozen.go_on()
            assert await frozen.said() == "lease_lost"
            assert await digest(desk) == before


async def test_a_killed_owners_run_is_taken_over_before_its_lease_lapses(tmp_path: Path, others: list[Other]) -> None:
    path = tmp_path / "runs.db"
    flow = one(SCOUT)
    with anyio.fail_after(60):
        others.append(killed := Other(path, lease_seconds=3600))
        assert await killed.said() == "thinking"
        killed.end()
        async with opened(path) as desk:
            while not (abandoned := await desk.runs.abandoned()):  # a server hears of it a moment later
                await anyio.lowlevel.checkpoint()
            (record,) = abandoned
            assert (await desk.resume(record.id, flow, Sayer(lambda call: "x"))).status == "done"


async def test_a_cancel_from_another_process_reaches_the_model(tmp_path: Path, others: list[Other]) -> None:
    path = tmp_path / "runs.db"
    with anyio.fail_after(60):
        others.append(other := Other(path))
        assert await other.said() == "thinking"
        async with opened(path) as desk:
            (record,) = await records.recent(desk.db)
            assert await desk.runs.cancel(record, principal=ME) is False
            assert await other.said() == "cancelled"
            record = await desk.record(record.id)
            assert record.status == "cancelled"
            assert record.error is not None
            assert record.error["code"] == "cancelled"
            asked = await desk.rows("SELECT actor FROM audit WHERE action = 'run.cancel_asked'")
            assert asked == [(ME.key,)]
