"""``retinue workflows`` and ``retinue graph``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from retinue.errors import WorkflowNotFound
from retinue.text import one_line

from . import complete
from .group import App, Command, app, json_option

if TYPE_CHECKING:
    from retinue.config import WorkflowEntry


@click.command("workflows", cls=Command)
@json_option()
def workflows_command() -> None:
    """List the workflows that can be run, and those that cannot be loaded, with the reason."""
    from retinue.config import workflow_entries

    here = app()
    listed = [_described(here, entry) for entry in workflow_entries(here.settings).values()]
    if here.json:
        here.out.document({"workflows": listed})
        return
    if not listed:
        here.out.print("There are no workflows. Name one in retinue.toml, under [workflows].")
    for workflow in listed:
        name = here.out.style(workflow["name"], bold=True)
        if workflow["error"]:
            here.out.raw(f"{name}  {here.out.style(workflow['error'], fg='red')}")
        else:
            usage = f' "{workflow["main_field"].upper()}"' if workflow["main_field"] else ""
            here.out.raw(f"{name}{usage}  {here.out.style(one_line(workflow['description'], 200))}".rstrip())
        here.out.raw(here.out.style(f"    {workflow['target']}, from {workflow['origin']}", dim=True))


def _described(here: App, entry: WorkflowEntry) -> dict[str, Any]:
    from retinue.config import load_workflow

    found: dict[str, Any] = {"name": entry.name, "target": entry.target, "origin": entry.origin}
    try:
        workflow = load_workflow(here.settings, entry.name)
    except WorkflowNotFound as error:
        return found | {"description": "", "main_field": None, "agents": [], "error": error.message}
    return found | {
        "description": workflow.description,
        "main_field": workflow.main_field,
        "agents": [agent.name for agent in workflow.agents],
        "error": None,
    }


@click.command("graph", cls=Command)
@click.argument("name", shell_complete=complete.workflow)
def graph_command(name: str) -> None:
    """Print the graph of the workflow NAME as a Mermaid flowchart."""
    from retinue.config import load_workflow

    here = app()
    here.out.print(load_workflow(here.settings, name).mermaid().rstrip("\n"))
