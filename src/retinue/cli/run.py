"""``retinue run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from retinue.errors import InvalidInput, UsageError

from . import complete, loop
from .group import Command, app, json_option
from .inputs import put, read_document, split

if TYPE_CHECKING:
    from retinue.graphs.workflow import Workflow

LIMITS = ("usd", "tokens", "seconds", "turns")


@click.command(
    "run",
    cls=Command,
    epilog="""\b
Examples:
  retinue run brief "How does a refund get approved?"
  retinue run brief "…" --library ~/handbook --workspace ~/briefs
  retinue run shop --set item=tea --set amount=3 --budget usd=0.20
  retinue run brief "…" --json | tail -1
""",
)
@click.argument("name", shell_complete=complete.workflow)
@click.argument("input", required=False)
@click.option("--set", "sets", multiple=True, metavar="FIELD=VALUE", help="Set a field of the input. Repeatable.")
@click.option("--input", "file", metavar="FILE", help="Read the input from a JSON or TOML file; - is stdin, JSON.")
@click.option(
    "--library", multiple=True, metavar="PATH", help="A folder for the agents to search and read. Repeatable."
)
@click.option("--workspace", metavar="PATH", help="The folder that agents write to.")
@click.option("--model", metavar="NAME", help='The language model; "function" works without one.')
@click.option(
    "--budget", multiple=True, metavar="LIMIT", help="usd=…, tokens=…, seconds=… or turns=…, for all of it. Repeatable."
)
@click.option(
    "--approve", multiple=True, metavar="GLOB", help="Do not ask about calls of these tools (server/tool). Repeatable."
)
@click.option("--retry-of", metavar="RUN", help="Name the run that this one tries again.")
@click.option("--detach", is_flag=True, help="Leave the run to a background process, or to workers; print its id.")
@json_option("Print the events as JSON lines, and nothing else.")
def run_command(
    name: str,
    input: str | None,  # noqa: A002
    sets: tuple[str, ...],
    file: str | None,
    library: tuple[str, ...],
    workspace: str | None,
    model: str | None,
    budget: tuple[str, ...],
    approve: tuple[str, ...],
    retry_of: str | None,
    detach: bool,
) -> int:
    """Run the workflow NAME with INPUT, the text of its main field.

    Questions are asked on a terminal; elsewhere the command ends with exit code 10 and says how to answer.
    """
    here = app()
    limits = _limits(budget)
    given = read_document(file) if file is not None else {}
    fields = [split(pair, "--set") for pair in sets]
    folders = tuple(str(_folder(path)) for path in library)

    async def main(signals: loop.Signals) -> int:
        from retinue.agents.budget import Budget
        from retinue.host import RunOptions

        from .carry import Carrier, opened

        async with opened(here) as host:
            workflow = host.workflow(name)
            data = input_of(workflow, given, input, fields)
            workflow.read_input(data)  # before anything is started
            options = RunOptions(
                target=name, library=folders, workspace=workspace or "", approve=approve, model=model or ""
            )
            before = None if retry_of is None else (await host.find(retry_of)).id
            carrier = Carrier(here, host, signals, workflow=workflow.name)
            most = Budget(**limits) if limits else None
            if detach or host.engine.elsewhere:
                record = await host.submit(workflow, data, options=options, budget=most, retry_of=before)
                return carrier.left(record) if detach else await carrier.follow(record)
            execution = await host.start(workflow, data, options=options, budget=most, retry_of=before)
            return await carrier.carry(execution)

    return loop.run(main)


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.exists():
        raise UsageError(f"--library: there is no folder {path}")
    return folder.absolute()


def _limits(pairs: Sequence[str]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for pair in pairs:
        name, value = split(pair, "--budget")
        if name not in LIMITS:
            raise UsageError(f"--budget: there is no limit {name!r}", hint=f"There is {', '.join(LIMITS)}.")
        try:
            limits[name] = int(value) if name in ("tokens", "turns") else float(value)
        except ValueError:
            raise UsageError(f"--budget: {name} should be a number, not {value!r}") from None
    return limits


def input_of(
    workflow: Workflow, given: Mapping[str, Any], text: str | None, fields: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """File, then bare text, then single fields."""
    from pydantic import TypeAdapter

    data: dict[str, Any] = dict(given)
    if text is not None:
        if workflow.main_field is None:
            raise InvalidInput(
                f"{workflow.name} takes no bare text", hint="Give its fields with --set FIELD=VALUE or --input FILE."
            )
        data[workflow.main_field] = text
    schema = TypeAdapter(workflow.input_type).json_schema()
    properties = cast("Mapping[str, Mapping[str, Any]]", schema.get("properties", {}))
    for name, value in fields:
        put(data, name, value, as_text=properties.get(name, {}).get("type") == "string")
    if not data and workflow.main_field is not None:
        raise InvalidInput(
            f"{workflow.name} needs its {workflow.main_field}",
            hint=f'Give it as text: `retinue run {workflow.name} "…"`.',
        )
    return data
