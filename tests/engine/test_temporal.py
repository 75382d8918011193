"""Runs that workers execute: a real Temporal server, a real Postgres, real processes."""

from __future__ import annotations

import asyncio
import signal

import anyio
import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from retinue.errors import RunExists, Unreachable
from retinue.graphs import records
from retinue.graphs.engine.base import Ticket
from retinue.graphs.engine.queue import due, enqueue
from retinue.graphs.engine.temporal import worker
from retinue.graphs.engine.temporal.address import Address
from retinue.graphs.engine.temporal.engine import TemporalEngine
from retinue.graphs.engine.temporal.flow import STATUS, TENANT, WORKFLOW
from tests.support.errands import SECRET
from tests.support.terminal import PATIENCE

from .conftest import Crew

pytestmark = pytest.mark.anyio


def engine_of(crew: Crew) -> TemporalEngine:
    assert isinstance(crew.host.engine, TemporalEngine)
    return crew.host.engine


async def handle(crew: Crew, run: str) -> WorkflowHandle[object, object]:
    return (await engine_of(crew).client()).get_workflow_handle(run)


async def closed(crew: Crew, run: str) -> WorkflowExecutionStatus:
    """Wait until Temporal has nothing more to do for the run."""
    with anyio.fail_after(PATIENCE):
        while (status := (await (await handle(crew, run)).describe()).status) == WorkflowExecutionStatus.RUNNING:  # noqa: ASYNC110  other processes bring it about
            await anyio.sleep(0.02)
    assert status is not None
    return status


async def test_a_run_is_executed_by_a_worker_waits_for_a_person_and_ends(crew: Crew) -> None:
    await crew.worker()
    run = (await crew.start("quick")).id
    waiting = await crew.status(run, "waiting")
    assert waiting.owner is None
    await crew.answer(run)
    done = await crew.status(run, "done")
    assert done.output["sent"] == "sent"
    assert (len(crew.effects("note")), len(crew.effects("send"))) == (1, 1)
    assert await closed(crew, run) == WorkflowExecutionStatus.COMPLETED
    assert [line["type"] for line in await crew.events(run) if line["type"].startswith("run.")] == [
        "run.started", "run.resumed", "run.waiting", "run.resumed", "run.done",
    ]  # fmt: skip


async def test_only_ids_and_labels_travel_through_temporal(crew: Crew) -> None:
    await crew.worker()
    run = (await crew.start("quick", "a-person-called-ann")).id
    await crew.status(run, "waiting")
    await crew.answer(run)
    await crew.status(run, "done")
    await closed(crew, run)
    history = await (await handle(crew, run)).fetch_history()
    said = b"".join(event.SerializeToString() for event in history.events)
    assert run.encode() in said
    for word in ("a-person-called-ann", SECRET, "noted", "approve", "idempotency", "Do it", "send"):
        assert word.encode() not in said, word
    assert len(said) < 12_000


async def test_the_labels_of_a_run_are_shown_by_temporal(crew: Crew) -> None:
    await crew.worker()
    record = await crew.start("plain")
    await crew.status(record.id, "done")
    await closed(crew, record.id)
    found = await (await handle(crew, record.id)).describe()
    labels = found.typed_search_attributes
    assert (labels[WORKFLOW], labels[TENANT], labels[STATUS]) == ("plain", Ticket.of(record).tenant, "done")
    assert found.raw_description.workflow_execution_info.priority.fairness_key == Ticket.of(record).tenant


async def test_another_worker_goes_on_when_one_is_killed_and_nothing_is_done_twice(crew: Crew) -> None:
    first = await crew.worker()
    run = (await crew.start("errand")).id
    assert await crew.held() == first
    second = await crew.worker()
    crew.end(first, signal.SIGKILL)
    assert await crew.held(other_than=first) == second
    crew.go()
    await crew.status(run, "waiting")
    await crew.answer(run)
    await crew.status(run, "done")
    assert (len(crew.effects("note")), len(crew.effects("send"))) == (1, 1)
    assert [line["epoch"] for line in await crew.events(run, "run.resumed")] == [1, 2, 3]


async def test_a_worker_that_was_frozen_finds_its_run_taken_and_changes_nothing(crew: Crew) -> None:
    first = await crew.worker()
    run = (await crew.start("errand")).id
    assert await crew.held() == first
    second = await crew.worker()
    crew.tell(first, signal.SIGSTOP)
    assert await crew.held(other_than=first) == second
    crew.tell(first, signal.SIGCONT)  # both hold on now, and one of them owns the run
    crew.go()
    await crew.status(run, "waiting")
    await crew.answer(run)
    await crew.status(run, "done")
    assert crew.end(first, signal.SIGTERM) == 0  # it has let go, or this would not end
    assert (len(crew.effects("note")), len(crew.effects("send"))) == (1, 1)
    assert len(await crew.events(run, "tool.finished")) == 3


async def test_a_worker_that_is_asked_to_end_hands_its_runs_over(crew: Crew) -> None:
    first = await crew.worker("--grace", "0")
    run = (await crew.start("errand")).id
    await crew.held()
    second = await crew.worker()
    assert crew.end(first, signal.SIGTERM) == 0
    assert await crew.held(other_than=first) == second
    crew.go()
    await crew.status(run, "waiting")
    assert len(crew.effects("note")) == 1
    assert not await crew.events(run, "run.stopped")


async def test_cancelling_reaches_the_worker_at_once(crew: Crew) -> None:
    await crew.worker()
    run = (await crew.start("errand")).id
    await crew.held()
    assert await crew.host.cancel(await crew.host.find(run)) is False
    await crew.status(run, "cancelled")
    await closed(crew, run)


async def test_a_waiting_run_is_cancelled_without_a_worker(crew: Crew) -> None:
    process = await crew.worker()
    run = (await crew.start("quick")).id
    await crew.status(run, "waiting")
    crew.end(process)
    assert await crew.host.cancel(await crew.host.find(run)) is True
    assert (await crew.host.find(run)).status == "cancelled"
    await crew.worker()
    await closed(crew, run)


async def test_a_run_that_is_cancelled_in_temporals_own_interface_is_cancelled(crew: Crew) -> None:
    await crew.worker()
    run = (await crew.start("quick")).id
    await crew.status(run, "waiting")
    await (await handle(crew, run)).cancel()
    await crew.status(run, "cancelled")
    assert await closed(crew, run) == WorkflowExecutionStatus.CANCELED


async def test_twenty_starts_of_one_id_are_one_run(crew: Crew) -> None:
    await crew.worker()
    id_ = "5ca1ab1e" * 4
    started = await asyncio.gather(*(crew.start("plain", run=id_) for _ in range(20)), return_exceptions=True)
    assert sorted(type(found).__name__ for found in started) == ["RunExists"] * 19 + ["RunRecord"]
    ticket = Ticket.of(await crew.host.find(id_))
    await asyncio.gather(*(crew.host.engine.start(ticket) for _ in range(20)))
    await crew.status(id_, "done")
    await asyncio.gather(*(crew.host.engine.wake(ticket) for _ in range(3)))
    await closed(crew, id_)
    assert len(crew.effects("note")) == 1
    assert len(await crew.events(id_, "run.resumed")) == 1
    with pytest.raises(RunExists):
        await crew.start("plain", run=id_)


async def test_a_run_that_waits_needs_no_worker(crew: Crew) -> None:
    first = await crew.worker()
    run = (await crew.start("quick")).id
    await crew.status(run, "waiting")
    crew.end(first)
    await crew.answer(run)
    assert (await crew.host.find(run)).status == "waiting"
    await crew.worker()
    await crew.status(run, "done")
    assert len(crew.effects("send")) == 1


async def test_a_run_that_waits_holds_no_slot(crew: Crew) -> None:
    await crew.worker("--slots", "1")
    waits = (await crew.start("quick", "ann")).id
    await crew.status(waits, "waiting")
    held = (await crew.start("errand", "bob")).id
    await crew.held("bob")
    queued = (await crew.start("plain", "carl")).id
    assert (await crew.host.find(queued)).owner is None
    crew.go()
    await crew.status(queued, "done")
    await crew.status(held, "waiting")


async def test_a_signal_and_a_start_that_got_lost_are_made_up_for(crew: Crew) -> None:
    crew.configure(sweep=0.2)
    await crew.worker()
    run = (await crew.start("quick")).id
    await crew.status(run, "waiting")
    await closed_segments(crew, run)
    await crew.answer(run, tell=False)
    await crew.status(run, "done")
    flow = crew.host.workflow("plain")
    untold = await enqueue(
        crew.host.db, flow, {"who": "bob"}, principal=crew.host.principal, settings={"target": "plain"},
        budget=crew.host.budget(flow, None),
    )  # fmt: skip
    await crew.status(untold.id, "done")
    assert await due(crew.host.db) == []


async def closed_segments(crew: Crew, run: str) -> None:
    """Wait until the run's workflow waits, too."""
    with anyio.fail_after(PATIENCE):
        while (await (await handle(crew, run)).describe()).raw_description.pending_activities:  # noqa: ASYNC110  other processes bring it about
            await anyio.sleep(0.02)


async def test_a_run_that_no_worker_can_execute_is_stopped_and_says_why(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "MISFITS", 2)
    flow = crew.host.workflow("plain")
    made = await enqueue(
        crew.host.db, flow, {"who": "ann"}, principal=crew.host.principal, settings={"target": "nowhere"},
        budget=crew.host.budget(flow, None),
    )  # fmt: skip
    await crew.host.engine.start(Ticket.of(made))
    leaving = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            worker.work(
                crew.host.runs, crew.host.take, engine_of(crew), slots=2, grace=1, leaving=leaving, sweep=9.0
            )
        )  # fmt: skip
        stopped = await crew.status(made.id, "stopped")
        assert await closed(crew, made.id) == WorkflowExecutionStatus.COMPLETED
        leaving.set()
    assert stopped.error is not None
    assert stopped.error["code"] == "workflow_not_found"


async def test_a_server_that_is_not_there_is_told_before_a_run_is_made(crew: Crew) -> None:
    crew.host.engine = TemporalEngine(Address(target="127.0.0.1:9"))
    with pytest.raises(Unreachable, match="cannot be reached"):
        await crew.start("plain")
    assert await records.recent(crew.host.db) == []
