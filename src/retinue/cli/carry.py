"""Carrying a run out in this process: shown while it goes on, its questions asked where a person is there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from retinue.errors import RetinueError, RunBusy
from retinue.graphs import questions
from retinue.graphs.drive import Outcome
from retinue.graphs.events import Line, timestamp
from retinue.graphs.execution import Execution
from retinue.graphs.follow import all_events
from retinue.graphs.questions import Channel, Question
from retinue.graphs.records import TERMINAL, RunRecord
from retinue.host import Host

from .ask import Asker, Ending
from .display import how_to_answer, show_output, show_question, suggestion
from .errors import INTERRUPTED, exit_code_of, tell
from .group import App
from .loop import Signals
from .progress import Progress, Spending
from .reading import short_id
from .terminal import Terminal
from .views import View, indexing_text, view_for

WAITING = 10
POLL = 0.2
"""Seconds between looks at a run that another process carries on."""
GRACE = 2.0
"""Seconds that another process has to begin with what was answered there."""


class Carrier:
    """Carries runs out for one command."""

    def __init__(self, app: App, host: Host, signals: Signals, *, workflow: str = "") -> None:
        self._app = app
        self._host = host
        self._signals = signals
        self._progress = Progress(workflow=workflow)
        self._view: View = view_for(app, self._progress, workflow=workflow)
        self._terminal = Terminal(signals)
        self.after = 0
        """The number of the last event that was shown, or is not to be."""
        self._later: set[str] = set()
        host.on_progress = lambda told: self._view.preparing(indexing_text(told))

    async def carry(self, execution: Execution) -> int:
        """Execute until the run is over, or waits for somebody who is not here. Returns the exit code."""
        run = execution.run
        try:
            while True:
                outcome = await self._execute(execution)
                if outcome.status == "stopped":
                    return self._stopped(await short_id(self._host.db, run))
                if outcome.status != "waiting":
                    return await self.ended(await self._host.find(run))
                going_on = await self.ask(await self._host.find(run))
                if isinstance(going_on, int):
                    return going_on
                execution = going_on
        except RetinueError as error:
            return self.failed(run, error)

    def failed(self, run: str, error: RetinueError) -> int:
        """Tell of an error that is no event of the run; its exit code."""
        if not self._app.out.json:
            raise error
        line = {"type": "error", "run": run, "ts": timestamp(time.time()), "error": error.body()}
        self._app.out.line(line)
        return error.exit_code

    async def ask(self, record: RunRecord, asked: Sequence[Question] | None = None) -> Execution | int:
        """Have a run's questions answered, by default all; the execution that goes on, or the exit code for now."""
        if asked is None:
            asked = await questions.inbox(self._host.db, run=record.id)
        if not self._app.out.interactive:
            await self.waiting(record, asked)
            return WAITING
        asker = Asker(self._app, self._terminal, self._submit, self._closed)
        endings: set[Ending] = set()
        try:
            for question in asked:
                if question.id not in self._later:
                    endings.add(ending := await asker.ask(question))
                    if ending == "later":
                        self._later.add(question.id)
        except asyncio.CancelledError:  # Ctrl-C at a question: nothing goes on that could be stopped
            if not self._signals.stopping:
                raise
            _uncancel()
        if "answered" not in endings and "elsewhere" in endings:
            await self._give_way(record.id)
        if endings - {"later"}:
            return await self.resumed(record)
        await self.waiting(record, asked, shown=True)
        return WAITING

    async def resumed(self, record: RunRecord) -> Execution | int:
        """Take the run's lease again; or the exit code, where somebody else has carried it on or does."""
        self._progress.go_on()
        while True:
            fresh = await self._host.find(record.id)
            if fresh.status in TERMINAL:
                return await self.ended(fresh)
            with contextlib.suppress(RunBusy):
                return await self._host.resume(fresh)
            if not self._app.out.interactive:
                return await self._left_to_others(record.id)
            after = await self._watch(fresh)
            if after.status == "waiting":
                return await self.ask(after)
            if after.status == "stopped":
                return self._stopped(await short_id(self._host.db, record.id))

    async def _give_way(self, run: str) -> None:
        """Whoever answered is about to go on with the run; they come first."""
        for _ in range(int(GRACE / POLL)):
            if (await self._host.find(run)).status != "waiting":
                return
            await asyncio.sleep(POLL)

    async def _left_to_others(self, run: str) -> int:
        if self._app.out.json:
            async for line in all_events(self._host.db, run, after=self.after):
                self._show(line)
        short = await short_id(self._host.db, run)
        follow = suggestion(self._app, "runs", "events", short, "--follow")
        self._app.out.note(f"Another process goes on with run {short}: `{follow}` shows it.")
        return 0

    async def _watch(self, record: RunRecord) -> RunRecord:
        """Show what another process does with the run, until it lets go of it or is gone."""
        db = self._host.db
        self._view.begin(record)
        try:
            while record.status == "running" and (record.owner is None or db.alive(record.owner) is not False):
                async for line in all_events(db, record.id, after=self.after):
                    self._show(line)
                await asyncio.sleep(POLL)
                record = await self._host.find(record.id)
            async for line in all_events(db, record.id, after=self.after):
                self._show(line)
        finally:
            self._view.end()
        return record

    async def waiting(self, record: RunRecord, asked: Sequence[Question], *, shown: bool = False) -> None:
        """Say what the run waits for and how to answer."""
        out = self._app.out
        if out.json:
            return
        short = await short_id(self._host.db, record.id)
        for question in asked:
            if not shown:
                show_question(self._app, question, width=self._terminal.width if out.rich else None)
            command = how_to_answer(self._app, short, question, alone=len(asked) == 1)
            out.print(f"Run {short} waits. Answer with: {command}")

    async def ended(self, record: RunRecord) -> int:
        """Show how a run ended; its exit code."""
        if record.status == "done":
            if not self._app.out.json:
                workflow = self._host.workflow(record.settings.get("target") or record.workflow)
                if self._app.out.live:
                    self._app.out.note()  # between the live view and what came of it
                show_output(self._app, record.output, workflow.summary)
            return 0
        if record.error is not None and not self._app.out.json:
            tell(self._app, record.error)
        return exit_code_of(record.error) if record.status == "failed" else 1

    def _stopped(self, short: str) -> int:
        command = suggestion(self._app, "resume", short)
        self._app.out.note(f"Run {short} was stopped. Go on with: {command}")
        return INTERRUPTED

    # Executing

    async def _execute(self, execution: Execution) -> Outcome:
        """Execute, and show what there is to show. A view that fails stops the run; it can be resumed."""
        work: asyncio.Task[Outcome] | None = None
        try:
            record = await self._host.find(execution.run)
            self._progress.spent = Spending(tokens=record.tokens, usd=record.cost / 1_000_000, turns=record.turns)
            self._view.begin(record)
            async for line in all_events(self._host.db, execution.run, after=self.after):
                self._show(line)
            async with self._host.following(execution, after=self.after) as lines:
                work = asyncio.create_task(self._host.execute(execution))
                return await self._both(execution, work, asyncio.create_task(self._read(lines)))
        except BaseException as error:
            # Not begun, or not waited for: the run is let go of, so that it can be resumed.
            execution.end("stop")
            outcome = await (work or asyncio.create_task(self._host.execute(execution)))
            if isinstance(error, asyncio.CancelledError) and self._signals.stopping:
                _uncancel()
                return outcome
            raise
        finally:
            self._view.end()

    async def _both(self, execution: Execution, work: asyncio.Task[Outcome], reader: asyncio.Task[None]) -> Outcome:
        """Wait for the execution and for its last line."""

        def stop() -> None:
            self._view.stopping()
            execution.end("stop")

        with self._signals.stops(stop), self._signals.restores(self._view.restore):
            await asyncio.wait([work, reader], return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and reader.exception() is not None:
                reader.result()
            await asyncio.wait([work])
        if work.exception() is not None:  # it ended without a last line
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        else:
            await reader
        return work.result()

    async def _read(self, lines: AsyncIterator[Line]) -> None:
        async for line in lines:
            self._show(line)

    def _show(self, line: Line) -> None:
        self.after = line.get("seq", self.after)
        self._progress.feed(line)
        self._view.line(line)

    # Answering

    async def _submit(self, question: Question, value: Any) -> None:
        await self.answer(question, value, channel="terminal")

    async def answer(self, question: Question, value: Any, *, channel: Channel) -> None:
        await self._host.runs.answer(question.id, value, principal=self._host.principal, channel=channel)

    async def _closed(self, question: Question) -> None:
        db = self._host.db
        async with contextlib.aclosing(db.changes(question.run)) as changes:
            async for _ in changes:
                row = await db.read(lambda tx: tx.one("SELECT status FROM questions WHERE id = ?", (question.id,)))
                if row is None or row[0] != "open":
                    return


def _uncancel() -> None:
    """The signal that cancelled this command was heard: what follows is the orderly end."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


@contextlib.asynccontextmanager
async def opened(app: App, *, create: bool = True) -> AsyncGenerator[Host]:
    """The host for this command."""
    from retinue.host import open_host

    async with open_host(app.settings, create=create) as host:
        yield host
