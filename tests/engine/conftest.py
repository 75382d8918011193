"""A Postgres and a Temporal server for the session; a folder, a database, a queue and workers for each test."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from retinue.config import load_settings
from retinue.graphs import questions, records
from retinue.graphs.events import Line
from retinue.graphs.follow import all_events
from retinue.graphs.records import RunRecord
from retinue.host import Host, open_host
from tests.support import postgres, temporal
from tests.support.terminal import PATIENCE, Done, Warm

HEARTBEAT = 2.0
"""Seconds: short, so that a takeover is."""
FLOWS = ("errand", "quick", "plain")
_queues = count(1)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    started = Warm()
    yield started
    started.close()


@pytest.fixture(scope="session")
def database() -> Generator[postgres.Server]:
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def server() -> Generator[temporal.Server]:
    with temporal.running() as started:
        yield started


def configure(folder: Path, *lines: str) -> None:
    flows = "\n".join(f'{name} = "tests.support.errands:{name}"' for name in FLOWS)
    text = "\n".join([*lines, 'state = "state"', "[workflows]", flows, ""])
    (folder / "retinue.toml").write_text(text, encoding="utf-8")


class Crew:
    """Workers in one folder, and somebody who starts runs, looks and answers."""

    def __init__(self, warm: Warm, folder: Path, settings: list[str]) -> None:
        self._settings = settings
        self.warm = warm
        self.folder = folder
        self.host: Host
        self._workers: dict[int, bool] = {}

    def configure(self, **temporal: object) -> None:
        """Write the configuration of the processes that are started from now on."""
        more = [f"{name} = {json.dumps(value)}" for name, value in temporal.items()]
        configure(self.folder, *self._settings[:-1], self._settings[-1].replace(" }", f", {', '.join(more)} }}"))

    # Workers

    async def worker(self, *args: str) -> int:
        """Start one; returns its process id once it polls."""
        out = self.folder / f".worker-{len(self._workers)}"
        streams = {"stdin": os.devnull, "stdout": str(out), "stderr": f"{out}.err"}
        pid = self.warm.start(["worker", "--json", *args], self.folder, **streams)
        self._workers[pid] = True
        with anyio.fail_after(PATIENCE):
            while not (out.exists() and out.read_text()):  # noqa: ASYNC110  other processes bring it about
                await anyio.sleep(0.02)
        assert "worker" in json.loads(out.read_text())
        return pid

    def tell(self, pid: int, number: signal.Signals) -> None:
        os.kill(pid, number)

    def end(self, pid: int, number: signal.Signals = signal.SIGKILL) -> int:
        if self._workers.pop(pid):
            os.kill(pid, number)
        return self.warm.wait(pid)

    def close(self) -> None:
        for pid in list(self._workers):
            self.end(pid)

    # Commands

    def retinue(self, *args: str) -> Done:
        return self.warm.run(self.folder, *args)

    def begin(self, *args: str) -> int:
        """Start a command; its process id."""
        return self.warm.start(args, self.folder, stdin=os.devnull, stdout=os.devnull, stderr=os.devnull)

    # Runs

    async def start(self, flow: str, who: str = "ann", **options: Any) -> RunRecord:
        return await self.host.submit(self.host.workflow(flow), {"who": who}, **options)

    async def until(self, run: str, holds: Callable[[RunRecord], bool]) -> RunRecord:
        """Wait until the run's row is as it should be."""
        with anyio.fail_after(PATIENCE):
            while not holds(record := await records.find(self.host.db, run)):  # noqa: ASYNC110  other processes bring it about
                await anyio.sleep(0.02)
        return record

    async def happens(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE):
            while not holds():  # noqa: ASYNC110  other processes bring it about
                await anyio.sleep(0.02)

    async def status(self, run: str, *wanted: str) -> RunRecord:
        return await self.until(run, lambda record: record.status in wanted)

    async def held(self, who: str = "ann", *, other_than: int = 0) -> int:
        """Wait until a worker is in the middle of the run; its process id."""
        with anyio.fail_after(PATIENCE):
            while True:
                pids = [int(path.name.rpartition("-")[2]) for path in self.folder.glob(f"holding-{who}-*")]
                for pid in pids:
                    if pid != other_than:
                        return pid
                await anyio.sleep(0.02)

    def go(self) -> None:
        (self.folder / "go").touch()

    async def answer(self, run: str, *, tell: bool = True) -> None:
        (question,) = await questions.inbox(self.host.db, run=run)
        value = {"decision": "approve"}
        await self.host.runs.answer(question.id, value, principal=self.host.principal, channel="command")
        if tell:
            await self.host.wake(await self.host.find(run))

    async def events(self, run: str, *types: str) -> list[Line]:
        found = [line async for line in all_events(self.host.db, run)]
        assert [line["seq"] for line in found] == list(range(1, len(found) + 1))
        return [line for line in found if not types or line["type"] in types]

    def effects(self, what: str, who: str = "ann") -> list[str]:
        """The effects that there were, by their keys."""
        log = self.folder / "effects.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(f"{what} {who}")]


@pytest.fixture
async def crew(
    anyio_backend: str,
    warm: Warm,
    database: postgres.Server,
    server: temporal.Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[Crew]:
    settings = [
        f'database = "{database.new_schema()}"',
        f'engine = "temporal://{server.target}/default"',
        f'temporal = {{ queue = "queue-{next(_queues)}", heartbeat = {HEARTBEAT} }}',
    ]
    configure(tmp_path, *settings)
    monkeypatch.chdir(tmp_path)
    made = Crew(warm, tmp_path, settings)
    try:
        async with open_host(load_settings(cwd=tmp_path)) as host:
            made.host = host
            yield made
    finally:
        made.close()
