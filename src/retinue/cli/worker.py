"""``retinue worker``: executes the runs that Temporal hands out."""

from __future__ import annotations

import asyncio

import click

from retinue.errors import ConfigError

from . import loop
from .group import Command, app, json_option


@click.command("worker", cls=Command)
@click.option("--slots", default=8, show_default=True, type=click.IntRange(1, 1000), help="Runs at the same time.")
@click.option(
    "--grace", default=30.0, show_default=True, metavar="SECONDS", type=click.FloatRange(0),
    help="Upon SIGTERM, how long runs may go on before they are left to other workers.",
)  # fmt: skip
@json_option("Print a JSON line when it has begun.")
def worker_command(slots: int, grace: float) -> int:
    """Execute runs that `engine = "temporal://…"` hands out, of all who start runs in this database.

    SIGTERM or Ctrl-C ends it in order; a second one at once. A run that waits for a person holds no slot.
    """
    here = app()

    async def main(signals: loop.Signals) -> int:
        from .carry import opened

        async with opened(here) as host:
            if not host.engine.elsewhere:
                raise ConfigError(
                    "there are no runs for workers", hint='Set engine = "temporal://host:7233/namespace".'
                )
            from retinue.graphs.engine.temporal.engine import TemporalEngine
            from retinue.graphs.engine.temporal.worker import work

            assert isinstance(host.engine, TemporalEngine)
            address, leaving = host.engine.address, asyncio.Event()

            def started() -> None:
                if here.json:
                    here.out.line({"worker": host.db.owner, "queue": address.queue, "slots": slots})
                else:
                    here.out.print(f"{slots} slots for {address.queue} at {address.target}. Ctrl-C ends it in order.")

            def leave() -> None:
                here.out.note("No new runs are taken, those at work are let go of in order. Ctrl-C again leaves now.")
                leaving.set()

            with signals.stops(leave):
                await work(
                    host.runs,
                    host.take,
                    host.engine,
                    slots=slots,
                    grace=grace,
                    leaving=leaving,
                    sweep=here.settings.temporal.sweep,
                    started=started,
                )
        return 0

    return loop.run(main)
