"""One stream of events: in order, without gaps, across processes, whoever follows it or goes away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from retinue.agents.agent import Agent
from retinue.agents.models.base import Reply
from retinue.agents.models.function import FunctionCall, ToolUse
from retinue.graphs import events, follow
from retinue.graphs.events import Line
from tests.support.desk import Desk, opened
from tests.support.flows import Sayer, fan, one, tool

pytestmark = pytest.mark.anyio

RUN = "0" * 32


def clerk(sent: list[str]) -> Agent:
    async def send(to: str) -> str:
        """Send it."""
        sent.append(to)
        return "sent"

    return Agent("clerk", prompt="Send.", tools=[tool(send, "unsafe")])


def sends() -> Sayer:
    return Sayer(lambda call: call.results[-1].text if call.turn else ToolUse("send", {"to": call.task}))


async def test_numbers_are_gapless_from_one_through_every_process_that_took_part(tmp_path: Path) -> None:
    sent: list[str] = []
    flow = fan(clerk(sent), ["a", "b", "c"])
    async with opened(tmp_path / "runs.db") as first:
        run = (await first.run(flow, sends())).run
    status = "waiting"
    while status == "waiting":
        async with opened(tmp_path / "runs.db") as person:
            await person.answer((await person.inbox())[0])
        async with opened(tmp_path / "runs.db") as other:
            status = (await other.resume(run, flow, sends())).status
    async with opened(tmp_path / "runs.db") as last:
        lines = await last.events(run)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert (lines[0]["type"], lines[-1]["type"]) == ("run.started", "run.done")
    assert [line["epoch"] for line in lines if line["type"] == "run.resumed"] == [2, 3, 4]


async def test_a_follower_gets_the_whole_stream_of_an_execution(desk: Desk) -> None:
    execution = await desk.start(one(clerk([])), sends())
    with desk.runs.bus.listen(execution.run) as queue:
        running = asyncio.create_task(desk.runs.execute(execution))
        with anyio.fail_after(10):
            told = [line async for line in follow.follow(desk.db, queue, execution.run)]
        await running
    assert told == await desk.events(execution.run)
    assert told[-1]["type"] == "run.waiting"


async def test_a_follower_of_a_resume_gets_what_happened_before_it_too(desk: Desk) -> None:
    flow = one(clerk([]))
    run = (await desk.run(flow, sends())).run
    await desk.answer_all(run)
    execution = await desk.take(run, flow, sends())
    with desk.runs.bus.listen(run) as queue:
        await desk.runs.execute(execution)
        told = [line async for line in follow.follow(desk.db, queue, run)]
    assert told == await desk.events(run)
    with desk.runs.bus.listen(run) as queue:
        desk.runs.bus.publish(run, told[-1:])
        assert [line["seq"] async for line in follow.follow(desk.db, queue, run, after=7)] == [
            line["seq"] for line in told[7:]
        ]


async def test_an_answer_by_another_process_is_not_missing_in_a_followers_stream(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    go_on = asyncio.Event()

    async def pause(call: FunctionCall) -> None:
        if call.task == "slow":
            await go_on.wait()

    def say(call: FunctionCall) -> Any:
        if call.task == "slow" or call.turn:
            return "done"
        return ToolUse("send", {"to": call.task})

    async with opened(path) as desk, opened(path) as person:
        execution = await desk.start(fan(clerk([]), ["slow", "asks"]), Sayer(say, pause=pause))
        with desk.runs.bus.listen(execution.run) as queue:
            running = asyncio.create_task(desk.runs.execute(execution))
            with anyio.fail_after(10):
                while not (found := await person.inbox()):
                    await anyio.lowlevel.checkpoint()
                await person.answer(found[0])
                go_on.set()
                told = [line async for line in follow.follow(desk.db, queue, execution.run)]
            await running
        assert told == await desk.events(execution.run)
        assert "question.answered" in [line["type"] for line in told]


async def test_text_as_it_comes_says_after_which_event_and_is_not_kept(desk: Desk) -> None:
    class Talks(Sayer):
        async def complete(self, request: Any, *, on_text: Any = None, on_restart: Any = None, **options: Any) -> Reply:
            assert on_text is not None
            on_text("he")
            on_restart()
            on_text("hello")
            return await super().complete(request)

    execution = await desk.start(one(Agent("scout", prompt="Look.")), Talks(lambda call: "hello"))
    with desk.runs.bus.listen(execution.run) as queue:
        await desk.runs.execute(execution)
        told = [line async for line in follow.follow(desk.db, queue, execution.run)]
    passing = [line for line in told if "seq" not in line]
    assert [(line["type"], line.get("text")) for line in passing] == [
        ("text.delta", "he"),
        ("text.restart", None),
        ("text.delta", "hello"),
    ]
    called = next(line["seq"] for line in told if line["type"] == "model.called")
    assert {line["after"] for line in passing} == {called}
    for line in told:
        assert events.parse(line).model_extra == {}
    assert [line for line in told if "seq" in line] == await desk.events(execution.run)


async def test_nobody_is_told_text_that_nobody_follows(desk: Desk) -> None:
    seen: list[Any] = []

    class Listens(Sayer):
        async def complete(self, request: Any, *, on_text: Any = None, **options: Any) -> Reply:
            seen.append(on_text)
            return await super().complete(request)

    await desk.run(one(Agent("scout", prompt="Look.")), Listens(lambda call: "x"))
    assert seen == [None]


async def test_a_follower_that_goes_away_leaves_the_run_alone(desk: Desk) -> None:
    execution = await desk.start(fan(clerk([]), ["a", "b"]), sends())
    running = asyncio.create_task(desk.runs.execute(execution))
    with desk.runs.bus.listen(execution.run) as queue:
        stream = follow.follow(desk.db, queue, execution.run)
        async for _ in stream:
            break
        await stream.aclose()
    assert (await running).status == "waiting"
    assert not desk.runs.bus.followed(execution.run)


async def test_a_follower_that_does_not_keep_up_misses_nothing_that_is_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "BACKLOG", 3)
    execution = await desk.start(fan(clerk([]), ["a", "b"]), sends())
    with desk.runs.bus.listen(execution.run) as queue:
        await desk.runs.execute(execution)
        assert queue.qsize() <= 4
        with anyio.fail_after(10):
            told = [line async for line in follow.follow(desk.db, queue, execution.run)]
    assert told == await desk.events(execution.run)


async def test_two_followers_each_have_their_own(desk: Desk) -> None:
    execution = await desk.start(one(clerk([])), sends())
    bus = desk.runs.bus
    with bus.listen(execution.run) as one_queue:
        with bus.listen(execution.run) as other:
            await desk.runs.execute(execution)
            first = [line async for line in follow.follow(desk.db, one_queue, execution.run)]
            second = [line async for line in follow.follow(desk.db, other, execution.run)]
        assert bus.followed(execution.run)
    assert first == second


async def test_many_events_are_read_by_the_page(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = (await desk.run(fan(clerk([]), ["a", "b", "c"]), sends())).run
    whole = await desk.events(run)
    assert [line async for line in follow.all_events(desk.db, run, after=5)] == whole[5:]
    assert await follow.read_events(desk.db, run, after=2, limit=3) == whole[2:5]


@hypothesis_settings(max_examples=60)
@given(
    stored=st.integers(min_value=1, max_value=12),
    dropped=st.sets(st.integers(min_value=1, max_value=11)),
    start=st.integers(min_value=0, max_value=12),
    passing=st.lists(st.integers(min_value=0, max_value=12), max_size=4),
)
async def test_whatever_the_bus_drops_the_stream_is_gapless(
    stored: int, dropped: set[int], start: int, passing: list[int]
) -> None:
    """Lines arrive with any of them missing but the last; numbers before the start are not told again."""
    async with opened() as desk:
        lines: list[Line] = []
        for seq in range(1, stored + 1):
            kind = "run.done" if seq == stored else "thing"
            await desk.change("INSERT INTO events VALUES (?, ?, 0, ?, '{}')", RUN, seq, kind)
        lines = [line async for line in follow.all_events(desk.db, RUN)]
        queue: asyncio.Queue[Line] = asyncio.Queue()
        for line in lines:
            for _ in range(passing.count(line["seq"])):
                queue.put_nowait({"type": "text.delta", "run": RUN, "ts": line["ts"]})
            if line["seq"] not in dropped or line["seq"] == stored:
                queue.put_nowait(line)
        start = min(start, stored - 1)
        with anyio.fail_after(10):
            told = [line async for line in follow.follow(desk.db, queue, RUN, after=start)]
        assert [line["seq"] for line in told if "seq" in line] == list(range(start + 1, stored + 1))
        latest = start
        for line in told:
            latest = line.get("seq", latest)
            assert line.get("after", latest) == latest


def test_times_are_rfc_3339_in_utc() -> None:
    assert events.timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert events.timestamp(1_795_205_239.5017) == "2026-11-20T20:07:19.501Z"
