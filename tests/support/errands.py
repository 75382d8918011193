"""Workflows for tests of engines. Files in the current folder show what was done, and let it go on."""

from __future__ import annotations

import os
from typing import Any

import anyio
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from retinue import Agent, FunctionCall, FunctionToolset, Workflow, step

LOG = "effects.log"
"""A line for each effect: what, for whom, its key."""
SECRET = "the-moon-is-made-of-cheese"
"""A word of the prompt, which must not travel."""


class Errand(BaseModel):
    who: str
    noted: str = ""
    held: str = ""
    sent: str = ""


def log(line: str) -> None:
    fd = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


async def note(who: str, idempotency_key: str) -> str:
    """Note it, once a key."""
    log(f"note {who} {idempotency_key}")
    return "noted"


async def hold(who: str) -> str:
    """Look until the file `go` is there."""
    await anyio.Path(f"holding-{who}-{os.getpid()}").touch()
    while not await anyio.Path("go").exists():  # noqa: ASYNC110  another process makes it
        await anyio.sleep(0.01)
    return "held"


async def send(who: str) -> str:
    """Send it."""
    log(f"send {who}")
    return "sent"


def uses(name: str) -> Any:
    def answer(call: FunctionCall) -> Any:
        return call.results[0].text if call.results else call.use(name, who=call.task)

    return answer


def agent(name: str, tool: FunctionToolset) -> Agent:
    return Agent(f"{name}er", prompt=f"Do it: {SECRET}.", function=uses(name), tools=[tool])


NOTE = agent("note", FunctionToolset(note, effect="keyed"))
HOLD = agent("hold", FunctionToolset(hold, effect="read_only"))
SEND = agent("send", FunctionToolset(send, effect="unsafe"))


def _chain(name: str, *agents: tuple[str, Agent]) -> Workflow:
    graph = StateGraph(Errand)
    before = START
    for field, member in agents:
        graph.add_node(member.name, step(member, task=lambda state: state.who, into=field))
        graph.add_edge(before, member.name)
        before = member.name
    graph.add_edge(before, END)
    return Workflow(name, graph)


errand = _chain("errand", ("noted", NOTE), ("held", HOLD), ("sent", SEND))
"""Notes, holds on until `go`, asks before it sends."""
quick = _chain("quick", ("noted", NOTE), ("sent", SEND))
"""Notes, and asks before it sends."""
plain = _chain("plain", ("noted", NOTE))


async def dwell(who: str) -> str:
    """Take a moment."""
    await anyio.sleep(1.0)
    return "dwelt"


DWELL = agent("dwell", FunctionToolset(dwell, effect="read_only"))
paced = _chain("paced", ("noted", NOTE), ("held", DWELL), ("sent", SEND))
"""Notes, takes a moment, asks before it sends."""
