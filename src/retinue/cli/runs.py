"""``retinue runs``: list, show, events, prune. Nothing here executes anything; `travel` has the commands that may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from retinue.text import one_line

from . import complete, travel
from .group import App, Group, app, json_option
from .inputs import seconds

if TYPE_CHECKING:
    from retinue.database.base import Database
    from retinue.graphs.questions import Question
    from retinue.graphs.records import RunRecord

STATUSES = ("running", "waiting", "stopped", "done", "failed", "refused", "cancelled")
COLORS = {"done": "green", "waiting": "yellow", "stopped": "yellow", "running": "cyan"}


@click.group("runs", cls=Group)
def runs_command() -> None:
    """List, show, follow and prune runs."""


@runs_command.command("list")
@click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Only runs of this status. Repeatable.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many.")
@json_option()
def list_command(status: tuple[str, ...], workflow: str | None, limit: int) -> None:
    """List runs, the newest first."""
    asyncio.run(_list(app(), status, workflow, limit))


async def _list(here: App, status: tuple[str, ...], workflow: str | None, limit: int) -> None:
    from retinue.graphs import records
    from retinue.local import local_principal

    from .progress import gist, money
    from .reading import ago, reading, short_id

    subject = local_principal().key
    async with reading(here) as db:
        found = (
            []
            if db is None
            else await records.recent(db, subject=subject, workflow=workflow, status=status, limit=limit + 1)
        )
        more, found = len(found) > limit, found[:limit]
        if here.json:
            here.out.document({"runs": [record.to_json() for record in found], "more": more})
            return
        if db is None or not found:
            here.out.print(
                "There are no runs." if db is None or not (status or workflow) else "There are no such runs."
            )
            return
        rows = [
            (
                await short_id(db, record.id),
                standing(db, record, engine=here.settings.engine)[0],
                record.workflow,
                ago(record.created_at),
                money(record.cost / 1_000_000) if record.cost else "",
                gist(record.input, 60),
            )
            for record in found
        ]
    here.out.table(rows, head=("RUN", "STATUS", "WORKFLOW", "BEGUN", "COST", "INPUT"))
    if more:
        here.out.note(f"There are more; --limit {limit * 5} shows them.")


def standing(db: Database, record: RunRecord, *, engine: str = "local") -> tuple[str, str]:
    """The status in one word, and what to do about it."""
    if engine != "local" and record.status == "running" and record.owner is None:
        return "queued", "no worker has a slot for it yet"
    if engine == "local" and record.status == "running" and (record.owner is None or db.alive(record.owner) is False):
        return "abandoned", f"its process is gone: `retinue recover {record.id[:6]}` takes it over"
    hints = {"waiting": f"`retinue answer {record.id[:6]}`", "stopped": f"`retinue resume {record.id[:6]}` goes on"}
    return record.status, hints.get(record.status, "")


@runs_command.command("show")
@click.argument("run", shell_complete=complete.run)
@json_option()
def show_command(run: str) -> None:
    """Show RUN: how it stands, what it was given, gave and spent, and what it asked."""
    asyncio.run(_show(app(), run))


async def _show(here: App, run: str) -> None:
    from retinue.graphs import questions
    from retinue.graphs.follow import all_events

    from .display import answer_text
    from .progress import Spending
    from .reading import find, reading

    async with reading(here) as db:
        record = await find(db, run)
        assert db is not None
        parts = await db.read(lambda tx: tx.all("SELECT id FROM runs WHERE root = ? ORDER BY created_at", (record.id,)))
        asked: list[Question] = []
        agents: dict[str, Spending] = {}
        for part in (record.id, *(id_ for (id_,) in parts)):
            asked += await db.read(lambda tx, id_=part: questions.of_run(tx, id_))
            async for line in all_events(db, part):
                if line["type"] == "model.replied":
                    agents.setdefault(line["agent"], Spending()).add(line)
        status, todo = standing(db, record, engine=here.settings.engine)
    spending = {name: {"tokens": s.tokens, "usd": round(s.usd, 6), "turns": s.turns} for name, s in agents.items()}
    if here.json:
        body = record.to_json() | {"questions": [question.to_json() for question in asked], "agents": spending}
        here.out.document(body | {"abandoned": status == "abandoned"})
        return
    _print_run(here, record, status, todo)
    _print_spending(here, agents)
    for question in asked:
        answer = one_line(answer_text(question), 100)
        here.out.print(f"  {question.status}  {one_line(question.title, 90)}{': ' if answer else ''}{answer}")
    if record.output is not None:
        from .display import show_output

        here.out.print()
        show_output(here, record.output)
    if record.error is not None:
        here.out.print()
        here.out.raw(here.out.style(f"{record.error['code']}: {record.error['message']}", fg="red"))
        if record.error["hint"]:
            here.out.print(record.error["hint"])


def _print_run(here: App, record: RunRecord, status: str, todo: str) -> None:
    from .progress import spent_text
    from .reading import ago, span

    out = here.out
    head = out.style(f"{record.workflow} ", bold=True) + record.id + "  "
    out.raw(head + out.style(status, fg=COLORS.get(status, "red"), bold=True) + (f"  {todo}" if todo else ""))
    lasted = span(record.updated_at - record.created_at)
    out.print(f"begun {ago(record.created_at)}, last change {lasted} later; {record.seq} events")
    out.print(spent_text(record.active, record.tokens, record.cost / 1_000_000, record.turns))
    limits = {name: value for name, value in record.budget.to_json().items() if value is not None}
    if limits:
        out.print("budget " + ", ".join(f"{name} {value:g}" for name, value in limits.items()))
    if record.retry_of:
        out.print(f"a retry of {record.retry_of}")
    if (origin := record.forked_from) is not None:
        out.print(f"a fork of {origin['run']} at step {origin['step']}")
    for name, value in record.input.items():
        if value not in (None, [], {}, ""):
            out.print(f"  {one_line(name, 40)}: {one_line(str(value), 300)}")


def _print_spending(here: App, agents: Any) -> None:
    if any(spending.tokens for spending in agents.values()):
        from .progress import money

        rows = [
            (f"  {name}", f"{s.turns} turn{'' if s.turns == 1 else 's'}", f"{s.tokens:,} tokens", money(s.usd))
            for name, s in agents.items()
        ]
        here.out.table(rows)


@runs_command.command("events")
@click.argument("run", shell_complete=complete.run)
@click.option("--after", default=0, metavar="N", help="Only events with a higher number.")
@click.option("--follow", is_flag=True, help="Go on until the run waits or is over.")
@json_option("Print the events as JSON lines.")
def events_command(run: str, after: int, follow: bool) -> None:
    """Print the events of RUN, from the first on."""
    asyncio.run(_events(app(), run, after, follow))


async def _events(here: App, run: str, after: int, following: bool) -> None:
    from retinue.graphs.follow import all_events, watch

    from .plain import clock, describe
    from .reading import find, reading

    async with reading(here) as db:
        record = await find(db, run)
        assert db is not None
        events = watch if following else all_events
        async for line in events(db, record.id, after=after):
            if here.json:
                here.out.line(line)
            elif text := describe(line):
                here.out.raw(here.out.style(f"{clock(line)} {line['seq']:4} ", dim=True) + here.out.style(text))


@runs_command.command("prune")
@click.option("--older-than", required=True, metavar="TIME", help="30d, 12h, 45m: since the last change.")
@click.option("--dry-run", is_flag=True, help="Only say which.")
@json_option()
def prune_command(older_than: str, dry_run: bool) -> None:
    """Delete what runs that are over have kept. The audit trail stays: it holds hashes, not content."""
    asyncio.run(_prune(app(), seconds(older_than), dry_run))


async def _prune(here: App, older_than: float, dry_run: bool) -> None:
    from retinue.graphs import records
    from retinue.local import local_principal

    from .reading import reading

    async with reading(here) as db:
        subject = local_principal().key
        ids = [] if db is None else await records.prune(db, older_than=older_than, subject=subject, dry_run=dry_run)
    if here.json:
        here.out.document({"pruned": ids, "dry_run": dry_run})
        return
    verb = "would be pruned" if dry_run else "pruned"
    here.out.print(f"{len(ids)} run{'' if len(ids) == 1 else 's'} {verb}.")
    if dry_run:
        for id_ in ids:
            here.out.print(f"  {id_}")


for _command in (
    travel.checkpoints_command, travel.diff_command, travel.fork_command, travel.replay_command
):  # fmt: skip
    runs_command.add_command(_command)
