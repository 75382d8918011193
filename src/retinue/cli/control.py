"""``retinue resume``, ``cancel`` and ``recover``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from retinue.errors import RetinueError, RunError

from . import complete, loop
from .group import App, Command, app, json_option

if TYPE_CHECKING:
    from retinue.graphs.records import RunRecord
    from retinue.host import Host

    from .carry import Carrier


@click.command("resume", cls=Command)
@click.argument("run", shell_complete=complete.run)
@click.option("--left", is_flag=True, hidden=True, help="The run was left to this process by the one that made it.")
@json_option("Print the events as JSON lines.")
def resume_command(run: str, left: bool) -> int:
    """Go on with RUN, which was stopped, waits, or lost its process.

    What was finished is not done again. Open questions are asked on a terminal.
    """
    here = app()

    async def main(signals: loop.Signals) -> int:
        from .carry import Carrier, opened

        record = await _found(here, run)
        async with opened(here, create=False) as host:
            carrier = Carrier(here, host, signals, workflow=record.workflow)
            carrier.after = record.seq
            if record.status == "waiting" and here.out.interactive:
                going_on = await carrier.ask(record)
                return going_on if isinstance(going_on, int) else await carrier.carry(going_on)
            try:
                return await _go_on(host, carrier, record)
            except RetinueError as error:
                if left:  # nobody would hear of it
                    from retinue.graphs.engine.queue import give_up

                    await give_up(host.db, record, error)
                raise

    return loop.run(main)


async def _go_on(host: Host, carrier: Carrier, record: RunRecord) -> int:
    try:
        if host.engine.elsewhere:
            return await _woken(host, carrier, record)
        execution = await host.resume(record)
    except RetinueError as error:
        return carrier.failed(record.id, error)
    return await carrier.carry(execution)


async def _woken(host: Host, carrier: Carrier, record: RunRecord) -> int:
    """Have workers go on with a run; one that has nothing to go on with says what it waits for."""
    from retinue.graphs import questions
    from retinue.graphs.engine.queue import is_due
    from retinue.graphs.records import TERMINAL

    from .carry import WAITING

    if record.status in TERMINAL:
        raise RunError(f"run {record.id[:6]} is {record.status}", hint="Start a new one with `retinue run`.")
    if not await host.db.read(lambda tx: is_due(tx, record)):
        await carrier.waiting(record, await questions.inbox(host.db, run=record.id))
        return WAITING
    await host.wake(record)
    return await carrier.follow(record)


async def _found(here: App, run: str) -> RunRecord:
    from .reading import find_whole, reading

    async with reading(here) as db:
        return await find_whole(db, run)


@click.command("cancel", cls=Command)
@click.argument("run", shell_complete=complete.run)
@json_option()
def cancel_command(run: str) -> int:
    """End RUN for good. Its open questions are withdrawn; what it has done stays done."""
    here = app()
    return asyncio.run(_cancel(here, run))


async def _cancel(here: App, run: str) -> int:
    from .carry import opened
    from .reading import short_id

    record = await _found(here, run)
    async with opened(here, create=False) as host:
        ended = await host.cancel(record)
        short = await short_id(host.db, record.id)
    if here.json:
        here.out.document({"run": record.id, "status": "cancelled" if ended else "cancelling"})
    elif ended:
        here.out.print(f"Run {short} is cancelled.")
    else:
        here.out.print(f"Run {short} is being executed; its process was asked to end it.")
    return 0


@click.command("recover", cls=Command)
@click.argument("run", required=False, shell_complete=complete.run)
@json_option("Print the events as JSON lines.")
def recover_command(run: str | None) -> int:
    """Take over runs whose process is gone (all of them, or RUN) and go on with them here, one after the other."""
    here = app()

    async def main(signals: loop.Signals) -> int:
        from .carry import WAITING, Carrier, opened
        from .reading import reading

        async with reading(here) as db:
            there_is_one = db is not None
        if run is None and not there_is_one:
            return _nothing(here)
        wanted = None if run is None else await _found(here, run)
        async with opened(here, create=False) as host:
            found = await host.runs.abandoned(subject=host.principal.key)
            if wanted is not None:
                found = [record for record in found if record.id == wanted.id]
            if not found:
                return _nothing(here) if wanted is None else _not_abandoned(here, wanted)
            codes: list[int] = []
            for record in found:
                carrier = Carrier(here, host, signals, workflow=record.workflow)
                carrier.after = record.seq
                try:
                    codes.append(await _go_on(host, carrier, record))
                except RetinueError as error:  # the others are still to be helped
                    from .errors import report

                    codes.append(report(here, error.body(), error.exit_code))
                if signals.stopping:
                    break
        bad = [code for code in codes if code not in (0, WAITING)]
        return bad[0] if bad else max(codes)

    return loop.run(main)


def _nothing(here: App) -> int:
    if not here.json:
        here.out.print("There is nothing to recover.")
    return 0


def _not_abandoned(here: App, record: RunRecord) -> int:
    hints = {
        "running": "Its process is alive.",
        "waiting": "It waits for an answer: `retinue inbox`.",
        "stopped": f"`retinue resume {record.id[:6]}` goes on with it.",
    }
    hint = hints.get(record.status, "It is over.")
    raise RunError(f"run {record.id[:6]} was not abandoned: it is {record.status}", hint=hint)
