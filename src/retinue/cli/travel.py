"""``retinue runs checkpoints``, ``diff``, ``fork`` and ``replay``: a run looked at, gone back to, and made a test."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retinue.text import one_line

from . import complete, loop
from .group import App, Command, app, json_option
from .inputs import json_or_text, split

if TYPE_CHECKING:
    from retinue.graphs.diff import Change
    from retinue.graphs.records import RunRecord

SHOWN = 100
"""Characters of a value that a line shows; --json prints all."""


@click.command("checkpoints", cls=Command)
@click.argument("run", shell_complete=complete.run)
@json_option()
def checkpoints_command(run: str) -> None:
    """List the supersteps of RUN: what ran in each, what runs next, what was asked.

    Step -1 is the input. A step can be compared (`runs diff`) and forked (`runs fork`).
    """
    asyncio.run(_checkpoints(app(), run))


async def _checkpoints(here: App, run: str) -> None:
    from retinue.graphs.timeline import checkpoints

    from .reading import find, reading

    async with reading(here) as db:
        record = await find(db, run)
        assert db is not None
        steps = await checkpoints(db, record.id)
    if here.json:
        here.out.document({"run": record.id, "checkpoints": [step.to_json() for step in steps]})
        return
    if not steps:
        here.out.print("The run has no checkpoint yet.")
        return
    rows = [
        (
            str(step.step),
            ("edit of " if step.source == "update" else "") + _counted(step.nodes),
            step.ts[11:19],
            _counted(step.next) or "the end",
            "; ".join(f"{q.status}: {one_line(q.title, 60)}" for q in step.questions),
        )
        for step in steps
    ]
    here.out.table(rows, head=("STEP", "RAN", "TIME", "NEXT", "QUESTIONS"))


def _counted(nodes: Any) -> str:
    """``plan, scout x3``."""
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node] = counts.get(node, 0) + 1
    return ", ".join(name if n == 1 else f"{name} x{n}" for name, n in counts.items())


@click.command("diff", cls=Command)
@click.argument("run", shell_complete=complete.run)
@click.argument("a", type=click.IntRange(-1))
@click.argument("b", type=click.IntRange(-1))
@click.option("--with", "other", metavar="OTHER", help="Take step B from this run.", shell_complete=complete.run)
@json_option()
def diff_command(run: str, a: int, b: int, other: str | None) -> None:
    """Show what changed from step A of RUN to step B: fields of the state, and facts of the journal."""
    asyncio.run(_diff(app(), run, a, b, other))


async def _diff(here: App, run: str, a: int, b: int, other: str | None) -> None:
    from retinue.graphs.diff import diff

    from .reading import find, reading

    async with reading(here) as db:
        record = await find(db, run)
        assert db is not None
        second = record if other is None else await find(db, other)
        found = await diff(db, record.id, a, b, other=second.id)
    if here.json:
        sides = {"a": {"run": record.id, "step": a}, "b": {"run": second.id, "step": b}}
        here.out.document(sides | found.to_json())
        return
    if not found.state and not found.facts:
        here.out.print("Nothing changed.")
        return
    for head, changes in (("state", found.state), ("journal", found.facts)):
        if changes:
            here.out.raw(here.out.style(head, bold=True))
        for change in changes:
            _print_change(here, change)


def _print_change(here: App, change: Change) -> None:
    from retinue.graphs.diff import MISSING

    where = one_line(change.where, 120)
    if change.before is MISSING:
        here.out.raw(here.out.style(f"+ {where}: {_short(change.after)}", fg="green"))
    elif change.after is MISSING:
        here.out.raw(here.out.style(f"- {where}: {_short(change.before)}", fg="red"))
    else:
        here.out.print(f"~ {where}: {_short(change.before)} -> {_short(change.after)}")


def _short(value: Any) -> str:
    import orjson

    return one_line(orjson.dumps(value).decode(), SHOWN)


@click.command(
    "fork",
    cls=Command,
    epilog="""\b
Examples:
  retinue runs fork 7f31c2 --at 3
  retinue runs fork 7f31c2 --at 1 --set 'plan.questions=["What is a lease?"]'
""",
)
@click.argument("run", shell_complete=complete.run)
@click.option("--at", required=True, type=click.IntRange(-1), metavar="STEP", help="The last step that is shared.")
@click.option("--set", "sets", multiple=True, metavar="FIELD=VALUE", help="Set a field of the state. Repeatable.")
@json_option("Print the events as JSON lines, and nothing else.")
def fork_command(run: str, at: int, sets: tuple[str, ...]) -> int:
    """Run anew from step STEP of RUN: a new run that shares the history up to there.

    RUN is left as it is. What runs after STEP is done again, calls of tools included. `runs checkpoints` lists steps.
    """
    here = app()
    fields = [split(pair, "--set") for pair in sets]

    async def main(signals: loop.Signals) -> int:
        from retinue.graphs.edit import is_text

        from .carry import Carrier, opened

        record = await _found(here, run)
        async with opened(here, create=False) as host:
            workflow = host.workflow(record.settings.get("target") or record.workflow)
            changes: dict[str, Any] = {
                name: value if is_text(workflow, name, of_input=at == -1) else json_or_text(value)
                for name, value in fields
            }
            carrier = Carrier(here, host, signals, workflow=record.workflow)
            return await carrier.carry(await host.fork(record, at, changes=changes))

    return loop.run(main)


async def _found(here: App, run: str) -> RunRecord:
    from .reading import find, reading

    async with reading(here) as db:
        return await find(db, run)


@click.command("replay", cls=Command)
@click.argument("run", shell_complete=complete.run)
@click.option(
    "--record", "file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the recording: `retinue.testing.replay` makes it a test.",
)  # fmt: skip
@json_option()
def replay_command(run: str, file: Path | None) -> int:
    """Run RUN once more in memory, with the replies of models and tools that it has recorded.

    Nothing is called. Exit code 0 says that the same came of it; 1 says what differs.
    """
    return asyncio.run(_replay(app(), run, file))


async def _replay(here: App, run: str, file: Path | None) -> int:
    from .carry import opened

    record = await _found(here, run)
    async with opened(here, create=False) as host:
        recording, differences = await host.replay(record)
    if file is not None and not differences:
        recording.write(file)
    if here.json:
        told: dict[str, Any] = {"run": record.id, "same": not differences, "differences": differences}
        here.out.document(told | {"file": None if file is None or differences else str(file)})
        return 1 if differences else 0
    for difference in differences:
        here.out.print(difference)
    if differences:
        return 1
    here.out.print(f"The same: {len(recording.events)} events, and {record.status}.")
    if file is not None:
        here.out.print(f"The recording is in {file}.")
    return 0
