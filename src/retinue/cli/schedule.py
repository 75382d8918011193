"""``retinue schedule``: add, list, remove."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from retinue.errors import ConfigError, UsageError

from . import complete
from .group import App, Group, app, json_option
from .inputs import read_document, seconds, split
from .run import input_of

if TYPE_CHECKING:
    from retinue.graphs.engine.temporal.engine import TemporalEngine
    from retinue.host import Host


@click.group("schedule", cls=Group)
def schedule_command() -> None:
    """Run a workflow again and again. It takes `engine = "temporal://…"`."""


def _with_host(here: App, work: Callable[[Host, TemporalEngine], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        from .carry import opened

        async with opened(here) as host:
            if not host.engine.elsewhere:
                raise ConfigError("schedules take workers", hint='Set engine = "temporal://host:7233/namespace".')
            from retinue.graphs.engine.temporal.engine import TemporalEngine

            assert isinstance(host.engine, TemporalEngine)
            await work(host, host.engine)

    asyncio.run(main())


@schedule_command.command("add")
@click.argument("name")
@click.argument("workflow", shell_complete=complete.workflow)
@click.argument("input", required=False)
@click.option("--set", "sets", multiple=True, metavar="FIELD=VALUE", help="Set a field of the input. Repeatable.")
@click.option("--input", "file", metavar="FILE", help="Read the input from a JSON or TOML file; - is stdin, JSON.")
@click.option("--cron", metavar="FIELDS", help='"0 7 * * 1-5": minute, hour, day, month, weekday, in UTC.')
@click.option("--every", metavar="TIME", help="30m, 12h, 1d.")
@json_option()
def add_command(
    name: str,
    workflow: str,
    input: str | None,  # noqa: A002
    sets: tuple[str, ...],
    file: str | None,
    cron: str | None,
    every: str | None,
) -> None:
    """Have WORKFLOW run with INPUT at the times given, as the schedule NAME."""
    here = app()
    if (cron is None) == (every is None):
        raise UsageError("when?", hint="Give --cron or --every.")
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 64:
        raise UsageError(f"{name!r} cannot be a schedule's name", hint="Letters, digits, - and _, at most 64.")
    times = cron if cron is not None else f"every {seconds(every or ''):g}"
    given = read_document(file) if file is not None else {}
    fields = [split(pair, "--set") for pair in sets]

    async def add(host: Host, engine: TemporalEngine) -> None:
        from retinue.graphs.engine.temporal import schedules
        from retinue.host import RunOptions

        flow = host.workflow(workflow)
        made = await schedules.add(
            host.db,
            engine,
            flow,
            input_of(flow, given, input, fields),
            name=name,
            times=times,
            settings=asdict(host.complete(flow, RunOptions(target=workflow))),
            budget=host.budget(flow, None),
            principal=host.principal,
        )
        if here.json:
            here.out.document(made.to_json())
        else:
            here.out.print(f"Schedule {name} is added: {workflow}, {times}.")

    _with_host(here, add)


@schedule_command.command("list")
@json_option()
def list_command() -> None:
    """List one's schedules."""
    here = app()

    async def show(host: Host, engine: TemporalEngine) -> None:
        from retinue.graphs.engine.temporal import schedules

        found = await schedules.every(host.db, subject=host.principal.key)
        if here.json:
            here.out.document({"schedules": [schedule.to_json() for schedule in found]})
        elif not found:
            here.out.print("There are no schedules.")
        else:
            here.out.table([(s.name, s.workflow, s.times) for s in found], head=("NAME", "WORKFLOW", "TIMES"))

    _with_host(here, show)


@schedule_command.command("remove")
@click.argument("name")
@json_option()
def remove_command(name: str) -> None:
    """Remove the schedule NAME. Runs that it has made go on."""
    here = app()

    async def remove(host: Host, engine: TemporalEngine) -> None:
        from retinue.graphs.engine.temporal import schedules

        await schedules.remove(host.db, engine, name, principal=host.principal)
        if here.json:
            here.out.document({"removed": name})
        else:
            here.out.print(f"Schedule {name} is removed.")

    _with_host(here, remove)
