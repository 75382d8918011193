"""Graph nodes that run a member, and the router that fans out to one a item."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.types import Send, interrupt

from retinue import telemetry
from retinue.errors import ConfigError

from ..agents.member import Member, Waiting
from .execution import current
from .journal import Path

Task = str | Callable[[Any], str]
Into = str | Callable[[Any, Any], Mapping[str, Any]] | None

MEMBER = "__retinue_member__"
"""Attribute of a step's function: how a workflow finds its members."""

INTO = "__retinue_into__"
"""Attribute of a step's function: where its output goes."""

QUESTIONS = "retinue.questions"
"""Key of the value of our own interrupts: a list of question ids."""


def step(member: Member, *, task: Task, into: Into = None) -> Callable[..., Awaitable[Mapping[str, Any]]]:
    """A node that runs one member.

    ``task`` is text or a function of the node's input (the state, or the item that `each` sent). ``into`` is the field
    that takes the output, appended where the field has a reducer over a list; or a function of (output, input) that
    returns the whole update; None keeps the output in the journal alone.
    """

    # Any: LangGraph would take a narrower annotation of the first parameter for the node's input schema.
    async def node(state: Any, config: RunnableConfig) -> Mapping[str, Any]:
        return await _run(node, member, task, into, state, config)

    node.__name__ = f"step_{member.name}"
    setattr(node, MEMBER, member)
    setattr(node, INTO, into)
    return node


async def _run(
    node: Callable[..., Any], member: Member, task: Task, into: Into, state: Any, config: RunnableConfig
) -> Mapping[str, Any]:
    execution = current.get(None)
    if execution is None:
        raise ConfigError(f"the step of {member.name} runs only in a Retinue run", hint="Put its graph in a Workflow.")
    metadata = cast("Mapping[str, Any]", config.get("metadata", {}))
    name = journal_path(metadata, config)
    path = await Path.enter(execution, name)
    text = task if isinstance(task, str) else cast(Any, task(state))
    if not isinstance(text, str):
        raise ConfigError(f"the task of node {metadata['langgraph_node']} is {type(text).__name__}, not text")
    with telemetry.span(f"step {name}", run=execution.run, path=name, member=member.name):
        done = await member.run(text, path)
    if isinstance(done, Waiting):
        # Outside any `except`: the pause travels as an exception.
        interrupt({QUESTIONS: list(done.questions)})
        raise AssertionError("a step's interrupt is never resumed with a value")
    path.leave()
    if callable(into):
        return into(done.value, state)
    if into is None:
        return {}
    return {into: execution.workflow.appended(node, into, done.value)}


def journal_path(metadata: Mapping[str, Any], config: RunnableConfig) -> str:
    """``node[send]@superstep``, after the path of the subgraph it is in, if any."""
    path: Sequence[Any] = metadata["langgraph_path"]
    send = f"[{path[1]}]" if path and path[0] == "__pregel_push" else ""
    name = f"{metadata['langgraph_node']}{send}@{metadata['langgraph_step']}"
    namespace = str(config.get("configurable", {}).get("checkpoint_ns", ""))
    outer = [part.split(":") for part in namespace.split("|")[:-1]]
    return "/".join([*(f"{node[0]}~{node[-1][:8]}" for node in outer), name])


def each(items: Callable[[Any], Sequence[Any]], node: str) -> Callable[[Any], Awaitable[list[Send]]]:
    """A router that sends every item to ``node``, all at once: ``graph.add_conditional_edges(a, each(…, "b"))``."""

    # Async on purpose: LangGraph runs a plain function through a thread.
    async def route(state: Any) -> list[Send]:
        found = items(state)
        if inspect.isawaitable(found):
            if inspect.iscoroutine(found):
                found.close()
            raise ConfigError("the items of each() must be a plain function of the state")
        return [Send(node, item) for item in found]

    route.__name__ = f"each_{node}"
    setattr(route, "__retinue_each__", node)  # noqa: B010
    return route
