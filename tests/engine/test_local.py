"""The local engine: background processes, and runs whose process is gone."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from retinue.config import load_settings
from retinue.errors import ConfigError
from retinue.graphs import records
from retinue.graphs.records import RunRecord
from retinue.host import Host, open_host
from retinue.system import pid_of
from tests.support.terminal import PATIENCE, ROOT, Done, Warm

from .conftest import configure

pytestmark = pytest.mark.anyio


@pytest.fixture
async def host(anyio_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Host]:
    """A host in a folder with a configuration of its own."""
    configure(tmp_path, 'database = "runs.db"')
    monkeypatch.chdir(tmp_path)
    paths = [str(ROOT), os.environ["PYTHONPATH"]]  # where a background process finds the workflows
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    async with open_host(load_settings(cwd=tmp_path)) as opened:
        yield opened


async def until(host: Host, run: str, holds: Callable[[RunRecord], bool]) -> RunRecord:
    with anyio.fail_after(PATIENCE):
        while not holds(record := await records.find(host.db, run)):  # noqa: ASYNC110  other processes bring it about
            await anyio.sleep(0.02)
    return record


async def there(path: Path, beginning: str) -> Path:
    """Wait for a file that another process makes."""
    with anyio.fail_after(PATIENCE):
        while not (found := [each for each in os.listdir(path) if each.startswith(beginning)]):  # noqa: ASYNC110  other processes bring it about
            await anyio.sleep(0.02)
    return path / found[0]


def retinue(warm: Warm, *args: str) -> Done:
    return warm.run(Path.cwd(), *args)


# Background processes


async def test_a_detached_run_goes_on_in_a_process_of_its_own_and_asks_in_the_inbox(host: Host, warm: Warm) -> None:
    begun = retinue(warm, "run", "quick", "--set", "who=ann", "--detach")
    assert begun.code == 0
    run = begun.out.strip()
    followed = retinue(warm, "runs", "events", run, "--follow", "--json")
    assert followed.lines[-1]["type"] == "run.waiting"
    assert [question["run"] for question in retinue(warm, "inbox", "--json").document["questions"]] == [run]
    assert retinue(warm, "answer", run, "--approve", "--json").lines[-1]["type"] == "run.done"
    assert (host.settings.state / "background" / f"{run}.log").stat().st_mode & 0o777 == 0o600


async def test_a_detached_run_outlives_the_session_that_started_it_and_is_reached_by_cancel(
    host: Host, warm: Warm, tmp_path: Path
) -> None:
    run = retinue(warm, "run", "errand", "--set", "who=ann", "--detach", "--json").document["run"]
    pid = int((await there(tmp_path, "holding-ann-")).name.rpartition("-")[2])
    record = await records.find(host.db, run)
    assert record.owner is not None
    assert pid_of(record.owner) == pid
    assert os.getsid(pid) == pid
    assert retinue(warm, "cancel", run).code == 0
    await until(host, run, lambda record: record.status == "cancelled")


async def test_what_keeps_a_run_from_being_executed_is_told_before_it_is_left_alone(host: Host, warm: Warm) -> None:
    refused = retinue(warm, "run", "quick", "--set", "who=ann", "--budget", "usd=x", "--detach")
    assert refused.code == 2
    refused = retinue(warm, "run", "nowhere", "--detach")
    assert refused.code == 2
    assert await records.recent(host.db) == []


async def test_a_run_that_its_background_process_cannot_execute_is_stopped_and_says_why(
    host: Host, warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"].removeprefix(f"{ROOT}{os.pathsep}"))
    run = retinue(warm, "run", "quick", "--set", "who=ann", "--detach").out.strip()
    stopped = await until(host, run, lambda record: record.status == "stopped")
    assert stopped.error is not None
    assert stopped.error["code"] == "workflow_not_found"
    assert "there is no module 'tests'" in stopped.error["message"]


async def test_a_run_that_is_let_go_of_stays_running_and_goes_on_elsewhere(host: Host, tmp_path: Path) -> None:
    execution = await host.start(host.workflow("errand"), {"who": "ann"})
    async with anyio.create_task_group() as group:
        group.start_soon(host.execute, execution)
        await there(tmp_path, "holding-ann-")
        execution.end("release")
    record = await records.find(host.db, execution.run)
    assert (record.status, record.owner, record.lease_until) == ("running", None, None)
    (tmp_path / "go").touch()
    outcome = await host.execute(await host.resume(record))
    assert outcome.status == "waiting"
    assert len((tmp_path / "effects.log").read_text().splitlines()) == 1


# Runs whose process is gone


async def abandon(host: Host, flow: str, who: str) -> str:
    """A run whose process is gone."""
    execution = await host.start(host.workflow(flow), {"who": who})
    execution.end("release")
    await host.runs.execute(execution)
    return execution.run


async def while_at_work(host: Host, tmp_path: Path, holds: Callable[[], Awaitable[bool]]) -> None:
    """Execute a run until a condition holds."""
    host.take_over.seconds, host.take_over.settled = 0.01, 0.0
    execution = await host.start(host.workflow("errand"), {"who": "busy"})
    async with anyio.create_task_group() as group:
        group.start_soon(host.execute, execution)
        await there(tmp_path, "holding-busy-")
        with anyio.fail_after(PATIENCE):
            while not await holds():  # noqa: ASYNC110  other processes bring it about
                await anyio.sleep(0.01)
        (tmp_path / "go").touch()


async def test_a_process_that_executes_a_run_goes_on_with_abandoned_ones(host: Host, tmp_path: Path) -> None:
    lost = [await abandon(host, "plain", who) for who in ("ann", "bob")]

    async def done() -> bool:
        return all([(await records.find(host.db, run)).status == "done" for run in lost])

    await while_at_work(host, tmp_path, done)


async def test_a_run_that_was_taken_over_is_let_go_of_with_the_last_own_one(host: Host, tmp_path: Path) -> None:
    lost = await abandon(host, "errand", "ann")

    host.take_over.seconds, host.take_over.settled = 0.01, 0.0
    execution = await host.start(host.workflow("errand"), {"who": "busy"})
    async with anyio.create_task_group() as group:
        group.start_soon(host.execute, execution)
        await there(tmp_path, "holding-ann-")
        execution.end("stop")
    record = await records.find(host.db, lost)
    assert (record.status, record.owner) == ("running", None)


async def test_runs_that_cannot_or_should_not_be_taken_over_are_left_alone(host: Host, tmp_path: Path) -> None:
    elsewhere = await abandon(host, "plain", "ann")
    fruitless = await abandon(host, "plain", "bob")
    somebody = await abandon(host, "plain", "carl")
    fine = await abandon(host, "plain", "dora")
    await host.db.write(
        lambda tx: tx.execute('UPDATE runs SET settings = \'{"target": "x"}\' WHERE id = ?', (elsewhere,))
    )
    await host.db.write(lambda tx: tx.execute("UPDATE runs SET subject = 'x' WHERE id = ?", (somebody,)))
    await host.db.write(
        lambda tx: tx.execute(
            "UPDATE runs SET principal = replace(principal, 'user:', 'other:') WHERE id = ?", (somebody,)
        )
    )
    for _ in range(3):  # three processes took it and ended at once
        execution = await host.resume(await records.find(host.db, fruitless))
        execution.end("release")
        await host.runs.execute(execution)

    async def done() -> bool:
        return (await records.find(host.db, fine)).status == "done"

    await while_at_work(host, tmp_path, done)
    for run in (elsewhere, fruitless, somebody):
        assert (await records.find(host.db, run)).status == "running"


async def test_temporal_takes_a_database_that_machines_can_share(tmp_path: Path) -> None:
    configure(tmp_path, 'engine = "temporal://127.0.0.1:7233/default"')
    with pytest.raises(ConfigError, match="share a Postgres database"):
        async with open_host(load_settings(cwd=tmp_path)):
            pass
