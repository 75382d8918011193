"""Runs on Postgres: the promises of the core, each once on the second database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.models.function import Answer, FunctionCall, FunctionModel
from retinue.auth.replays import DatabaseReplayStore
from retinue.database import postgres_schema
from retinue.database.base import Transaction
from retinue.database.choose import open_database
from retinue.database.postgres import PostgresDatabase
from retinue.errors import AlreadyAnswered, DatabaseError, LeaseLost, RetinueError, RunBusy, SchemaTooOld
from retinue.graphs.drive import Outcome
from retinue.graphs.workflow import Workflow
from tests.support.desk import Desk
from tests.support.flows import Sayer, fan, one, tool
from tests.support.postgres import Server, running

pytestmark = pytest.mark.anyio

CHILD = Path(__file__).with_name("child.py")


class Payments:
    def __init__(self) -> None:
        self.made: list[str] = []

    def pay(self, to: str) -> str:
        """Pay somebody."""
        self.made.append(to)
        return f"paid {to}"


def say(call: FunctionCall) -> Answer:
    return call.results[0].text if call.results else call.use("pay", to=call.task)


def paying(payments: Payments) -> Workflow:
    return one(Agent("clerk", prompt="Pay.", tools=[tool(payments.pay, "unsafe")]), task="ann")


async def test_a_run_waits_is_answered_and_ends_with_gapless_events_and_a_whole_trail(desk: Desk) -> None:
    payments, model = Payments(), FunctionModel(say)
    flow = paying(payments)
    run = (await desk.run(flow, model)).run
    await desk.answer_all(run)
    outcome = await desk.resume(run, flow, model)
    assert outcome.output["text"] == "paid ann"
    assert payments.made == ["ann"]
    lines = await desk.events(run)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))


async def test_a_fan_out_runs_side_by_side_and_shares_one_budget(desk: Desk) -> None:
    sayer = Sayer(lambda call: "done")
    flow = fan(Agent("scout", prompt="s"), [str(number) for number in range(12)])
    outcome = await desk.run(flow, sayer)
    assert outcome.output["found"] == ["done"] * 12
    few = Sayer(lambda call: "done")
    refused = await desk.run(flow, few, budget=Budget(turns=5))
    assert refused.status == "refused"
    assert len(few.requests) == 5


async def test_of_fifty_answers_by_two_processes_worth_of_desks_one_counts(desk: Desk, url: str) -> None:
    payments, model = Payments(), FunctionModel(say)
    flow = paying(payments)
    run = (await desk.run(flow, model)).run
    (question,) = await desk.inbox(run)
    other = Desk(await PostgresDatabase.open(url))
    try:
        answers = [(desk, other)[number % 2].answer(question) for number in range(50)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
    finally:
        await other.close()
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AlreadyAnswered) for outcome in outcomes) == 49


async def test_twenty_starts_of_one_id_make_one_run(desk: Desk) -> None:
    flow, model = paying(Payments()), FunctionModel(say)
    equipment = await desk.equip(flow, model)
    principal = (await desk.record((await desk.run(flow, model)).run)).principal

    async def start() -> bool:
        try:
            await desk.runs.start(flow, {}, principal=principal, equipment=equipment, run="ab" * 16)
        except RetinueError:
            return False
        return True

    assert sum(await asyncio.gather(*(start() for _ in range(20)))) == 1
    assert len(await desk.rows("SELECT id FROM runs WHERE id = ?", "ab" * 16)) == 1


async def test_of_two_that_resume_one_run_one_works_and_the_other_is_told_that_it_is_busy(desk: Desk, url: str) -> None:
    flow, model = paying(Payments()), FunctionModel(say)
    run = (await desk.run(flow, model)).run
    await desk.answer_all(run)
    other = Desk(await PostgresDatabase.open(url))
    try:
        execution = await desk.take(run, flow, model)
        with pytest.raises(RunBusy):
            await other.take(run, flow, model)
        assert (await desk.runs.execute(execution)).status == "done"
    finally:
        await other.close()


async def test_an_owner_whose_lease_was_taken_changes_nothing_more(desk: Desk, url: str) -> None:
    payments, model = Payments(), FunctionModel(say)
    flow = paying(payments)
    execution = await desk.start(flow, model)
    await desk.change("UPDATE runs SET lease_until = 0 WHERE id = ?", execution.run)
    other = Desk(await PostgresDatabase.open(url))
    try:
        assert (await other.resume(execution.run, flow, model)).status == "waiting"
        before = await desk.rows("SELECT seq, epoch, status FROM runs WHERE id = ?", execution.run)
        with pytest.raises(LeaseLost):
            await desk.runs.execute(execution)
        assert await desk.rows("SELECT seq, epoch, status FROM runs WHERE id = ?", execution.run) == before
    finally:
        await other.close()


def killed_while_paying(url: str, log: Path) -> str:
    """A process that is killed in the middle of a call; its run."""
    child = subprocess.Popen([sys.executable, CHILD, url, log], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        run = child.stdout.readline().strip()
        deadline = time.monotonic() + 20
        while not log.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    return run


async def taken_over(url: str, run: str) -> Outcome:
    """What becomes of it in another process, once the server has heard of the killed one's end."""
    desk = Desk(await PostgresDatabase.open(url))
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(RunBusy):
                return await desk.resume(run, paying(Payments()), FunctionModel(say))
            assert time.monotonic() < deadline
    finally:
        await desk.close()


async def test_the_run_of_a_killed_process_is_taken_over_at_once_and_its_call_is_in_doubt(
    desk: Desk, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server that has just started cannot tell the dead from those that have not come back to it yet.
    monkeypatch.setattr("retinue.database.postgres_watch.YOUNG", 0.0)
    log = tmp_path / "paid"
    run = await anyio.to_thread.run_sync(killed_while_paying, url, log)
    flow = paying(Payments())
    outcome = await anyio.to_thread.run_sync(lambda: asyncio.run(taken_over(url, run)))
    assert outcome.status == "waiting"
    (question,) = await desk.inbox(run)
    assert question.kind == "in_doubt"
    await desk.answer(question, {"happened": True, "result": "paid ann"})
    assert (await desk.resume(run, flow, FunctionModel(say))).output["text"] == "paid ann"
    assert log.read_text(encoding="utf-8") == "ann\n"


async def test_a_restarted_server_is_used_again_and_nothing_that_was_committed_is_lost() -> None:
    with running(durable=True) as server:
        desk = Desk(await PostgresDatabase.open(server.new_schema()))
        flow, model = paying(Payments()), FunctionModel(say)
        run = (await desk.run(flow, model)).run
        server.stop("immediate")
        with pytest.raises(DatabaseError):
            await desk.inbox(run)
        server.start()
        await desk.answer_all(run)
        assert (await desk.resume(run, flow, model)).status == "done"
        await desk.check()
        await desk.close()


async def test_a_cancelled_caller_leaves_no_half_of_a_write(database: PostgresDatabase) -> None:
    task = asyncio.create_task(
        database.write(lambda tx: tx.execute("INSERT INTO proofs_seen (id, expires_at) VALUES ('a', 1)"))
    )
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await database.write(lambda tx: tx.execute("INSERT INTO proofs_seen (id, expires_at) VALUES ('b', 1)"))
    assert ("b",) in await database.read(lambda tx: tx.all("SELECT id FROM proofs_seen"))


async def test_an_error_in_a_unit_of_work_rolls_it_back(database: PostgresDatabase) -> None:
    def work(tx: Transaction) -> None:
        tx.execute("INSERT INTO proofs_seen (id, expires_at) VALUES ('a', 1)")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(work)
    assert await database.read(lambda tx: tx.all("SELECT id FROM proofs_seen")) == []


async def test_a_replayed_proof_is_refused_across_connections(database: PostgresDatabase, url: str) -> None:
    other = await PostgresDatabase.open(url)
    try:
        stores = [DatabaseReplayStore(database), DatabaseReplayStore(other)]
        expires = (await database.read(lambda tx: tx.now)) + 60
        first = await asyncio.gather(*(stores[number % 2].first_time("jti", expires) for number in range(20)))
        assert sum(first) == 1
    finally:
        await other.close()


async def test_a_replica_never_migrates_and_names_the_command_that_does(server: Server) -> None:
    url = server.url("empty")
    with pytest.raises(SchemaTooOld) as caught:
        await PostgresDatabase.open(url)
    assert "retinue db upgrade" in caught.value.hint
    postgres_schema.upgrade(url)
    await (await PostgresDatabase.open(url)).close()


async def test_a_server_that_is_not_there_is_a_typed_error_without_the_password(server: Server) -> None:
    url = "postgresql://retinue:s3cr3t@127.0.0.1:1/postgres"
    with pytest.raises(DatabaseError) as caught:
        await open_database(url)
    assert "s3cr3t" not in str(caught.value) + caught.value.hint
    assert "s3cr3t" not in repr(caught.value.__cause__) + repr(caught.value.__context__)


async def test_a_change_by_another_process_is_heard(database: PostgresDatabase, url: str) -> None:
    other = Desk(await PostgresDatabase.open(url))
    try:
        flow, model = paying(Payments()), FunctionModel(say)
        run = (await other.run(flow, model)).run
        changes = database.changes(run)
        with anyio.fail_after(20):
            await anext(changes)
            await other.answer_all(run)
            await anext(changes)
        await changes.aclose()
        rows = await database.read(lambda tx: tx.all("SELECT type FROM events WHERE run = ? ORDER BY seq", (run,)))
        assert rows[-1] == ("question.answered",)
    finally:
        await other.close()
