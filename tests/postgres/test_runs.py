"""Runs on Postgres, executed and answered by several processes, through losses of the network and the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from retinue.agents.agent import Agent
from retinue.auth.replays import DatabaseReplayStore
from retinue.database import postgres_watch
from retinue.database.postgres import PostgresDatabase
from retinue.errors import DatabaseUnreachable
from retinue.graphs.follow import watch
from tests.support.desk import Desk, opened
from tests.support.flows import Sayer, fan, one
from tests.support.forked import Child, children
from tests.support.postgres import Server
from tests.support.proxy import proxied

from . import child as there

pytestmark = pytest.mark.anyio

Children = Callable[..., Child]


@pytest.fixture
def child() -> Iterator[Children]:
    with children() as start:
        yield start


@pytest.fixture(autouse=True)
def _old_server(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]  # by being autouse
    monkeypatch.setattr(postgres_watch, "YOUNG", 0.0)


async def at_once(started: list[Child]) -> list[Any]:
    """Let all of them begin when all are ready; what each says of it."""
    for one_ in started:
        assert await asyncio.to_thread(one_.hear) == "ready"
    for one_ in started:
        one_.tell()
    return [await asyncio.to_thread(one_.hear) for one_ in started]


async def test_of_fifty_answers_from_two_processes_one_counts(desk: Desk, postgres_url: str, child: Children) -> None:
    flow = there.paying()
    run = (await desk.run(flow, there.MODEL)).run
    (question,) = await desk.inbox(run)
    said = await at_once([child(there.answer, postgres_url, question.id, 25) for _ in range(2)])
    codes = sorted(code for codes in said for code in codes)
    assert codes == ["already_answered"] * 49 + ["done"]
    assert (await desk.resume(run, flow, there.MODEL)).output["text"] == "paid ann"
    assert len(await desk.events(run, "question.answered")) == 1


async def test_twenty_processes_that_start_one_run_make_one_run(desk: Desk, postgres_url: str, child: Children) -> None:
    run = "ab" * 16
    said = await at_once([child(there.start, postgres_url, run) for _ in range(20)])
    assert sorted(said) == ["run_exists"] * 19 + ["waiting"]
    assert [record["type"] for record in await desk.events(run, "run.started")] == ["run.started"]
    await desk.answer_all(run)
    assert (await desk.resume(run, there.paying(), there.MODEL)).status == "done"


async def test_processes_that_execute_beside_each_other_keep_one_whole_trail(
    desk: Desk, postgres_url: str, child: Children
) -> None:
    said = await at_once([child(there.work, postgres_url, 8) for _ in range(4)])
    assert said == [["done"] * 8] * 4
    rows = await desk.rows("SELECT status, count(*) FROM runs GROUP BY status")
    assert rows == [("done", 32)]


async def test_a_run_is_watched_from_another_process_until_it_waits(
    desk: Desk, postgres_url: str, child: Children
) -> None:
    run = "cd" * 16
    other = child(there.start, postgres_url, run)
    assert await asyncio.to_thread(other.hear) == "ready"
    other.tell()
    with anyio.fail_after(20):
        while not await desk.rows("SELECT 1 FROM runs WHERE id = ?", run):  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(0.005)
        lines = [line async for line in watch(desk.db, run)]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["type"] == "run.waiting"
    assert [line async for line in watch(desk.db, run, after=len(lines) - 1)] == lines[-1:]
    assert [line async for line in watch(desk.db, "no such run")] == []


async def test_a_replayed_proof_is_refused_across_processes(database: PostgresDatabase, postgres_url: str) -> None:
    other = await PostgresDatabase.open(postgres_url)
    stores = [DatabaseReplayStore(database), DatabaseReplayStore(other)]
    expires = (await database.read(lambda tx: tx.now)) + 60
    first = await asyncio.gather(*(stores[number % 2].first_time("jti", expires) for number in range(20)))
    assert sum(first) == 1
    await other.close()


# Losses in the middle of runs


def slow(words: str = "found") -> Sayer:
    async def pause(call: Any) -> None:
        await asyncio.sleep(0.01)

    return Sayer(lambda call: words, pause=pause)


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_runs_go_on_over_a_restart_of_the_server(
    desk: Desk, postgres: Server, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    monkeypatch.setattr(postgres_watch, "YOUNG", 30.0)
    scout, model = Agent("scout", prompt="Look."), slow()
    runs = [asyncio.ensure_future(desk.run(fan(scout, [str(n) for n in range(20)]), model)) for _ in range(10)]
    while len(model.requests) < 50:  # noqa: ASYNC110  in the middle
        await asyncio.sleep(0.005)
    await asyncio.to_thread(postgres.stop, how)
    assert not any(run.done() for run in runs)
    await asyncio.to_thread(postgres.start)
    assert await desk.runs.abandoned() == []  # nobody takes them for lost
    with anyio.fail_after(30):
        outcomes = await asyncio.gather(*runs)
    assert [outcome.status for outcome in outcomes] == ["done"] * 10
    assert len(model.requests) == 200  # each model was asked once
    for outcome in outcomes:
        assert outcome.output["found"] == ["found"] * 20


async def test_runs_go_on_over_a_network_that_breaks_again_and_again(
    desk: Desk, postgres: Server, postgres_url: str
) -> None:
    with proxied(postgres.port) as proxy:
        async with opened(postgres_url.replace(f":{postgres.port}/", f":{proxy.port}/")) as far:
            model = slow()
            runs = [
                asyncio.ensure_future(far.run(fan(Agent("scout", prompt="Look."), list("abcdefgh")), model))
                for _ in range(6)
            ]
            with anyio.fail_after(40):
                while not all(run.done() for run in runs):
                    await asyncio.sleep(0.05)
                    proxy.cut()
            assert [run.result().status for run in runs] == ["done"] * 6
            assert len(model.requests) == 48


async def test_a_run_whose_server_stays_away_is_recovered_as_it_was(
    desk: Desk, postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue.database.postgres.PATIENCE", 0.2)
    flow = one(Agent("scout", prompt="Look."))
    with proxied(postgres.port) as proxy:
        other = Desk(await PostgresDatabase.open(postgres_url.replace(f":{postgres.port}/", f":{proxy.port}/")))

        async def leave(call: Any) -> None:
            proxy.open = False
            proxy.cut()

        execution = await other.start(flow, Sayer(lambda call: "lost", pause=leave))
        with pytest.raises(DatabaseUnreachable):
            await other.runs.execute(execution)
        await other.close()
    with anyio.fail_after(10):
        while not (abandoned := await desk.runs.abandoned()):  # noqa: ASYNC110  the server hears of it
            await asyncio.sleep(0.005)
    assert [record.id for record in abandoned] == [execution.run]
    assert (await desk.resume(execution.run, flow, Sayer(lambda call: "again"))).output["text"] == "again"
