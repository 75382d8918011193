"""Retinue as a subject of the bench and the yardstick: the same work, journaled, leased, budgeted and checkpointed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.equipment import Equipment
from retinue.agents.models.claude import ClaudeModel
from retinue.agents.tools.base import Toolset
from retinue.agents.tools.functions import FunctionToolset
from retinue.agents.tools.hub import Hub, ServerEntry
from retinue.auth.principal import Principal
from retinue.database.choose import open_database
from retinue.graphs.nodes import step
from retinue.graphs.runs import Runs
from retinue.graphs.workflow import Workflow

MODEL = "claude-sonnet-5-5"
KEY = "sk-ant-fake"
SYSTEM = "You are a careful calculator. Use the tools to answer."
SUPERVISOR = "ROLE-SUPERVISOR. Ask every specialist, then join the answers."
SPECIALIST = "You are a specialist. Use the tools to answer."
PROMPT = "What is 1 + 2?"
WHO = Principal(issuer="urn:bench", subject="bench", scopes=frozenset({"runs:approve"}))


class Ask(BaseModel):
    prompt: str


class Answer(BaseModel):
    text: str


class State(BaseModel):
    prompt: str
    text: str = ""


async def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def workflow(name: str, agent: Agent) -> Workflow:
    graph = StateGraph(State, input_schema=Ask, output_schema=Answer)
    graph.add_node("answer", step(agent, task=lambda s: s.prompt, into="text"))
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return Workflow(name, graph)


class Bench:
    """Runs of workflows on one database (a file, ``:memory:`` or a Postgres URL), opened at the first run."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._runs: Runs | None = None
        self._lock = asyncio.Lock()

    async def runs(self) -> Runs:
        async with self._lock:
            if self._runs is None:
                self._runs = Runs(await open_database(self._database))
            return self._runs

    async def run(self, flow: Workflow, equipment: Equipment, prompt: str) -> str:
        runs = self._runs or await self.runs()
        execution = await runs.start(flow, {"prompt": prompt}, principal=WHO, equipment=equipment)
        outcome = await runs.execute(execution)
        if outcome.status != "done":
            raise RuntimeError(f"{outcome.status}: {outcome.error}")
        return outcome.output["text"]


def _model(url: str) -> ClaudeModel:
    return ClaudeModel(MODEL, api_key=KEY, base_url=url)


def _agent(name: str, prompt: str, model: ClaudeModel, tools: Sequence[Toolset]) -> Agent:
    return Agent(name, prompt=prompt, model=model, tools=tools, max_tokens=1024)


async def _equip(flow: Workflow, model: ClaudeModel, connections: Any = None) -> Equipment:
    return await Equipment.open(flow.agents, connections, lambda _: model)


def build_single(url: str, database: str = ":memory:") -> Callable[[], Any]:
    """One agent, one tool, two model calls."""
    model = _model(url + "/1/x")
    flow = workflow("single", _agent("calculator", SYSTEM, model, [FunctionToolset(add, effect="read_only")]))
    bench = Bench(database)
    equipment: Equipment | None = None

    async def run() -> str:
        nonlocal equipment
        if equipment is None:
            equipment = await _equip(flow, model)
        return await bench.run(flow, equipment, PROMPT)

    return run


def build_multi(url: str, database: str = ":memory:") -> Callable[[], Any]:
    """A supervisor and three specialists in parallel, each a run of its own: eight model calls, three tool calls."""
    model = _model(url + "/1/task")
    bench = Bench(database)
    specialist = workflow(
        "specialist", _agent("specialist", SPECIALIST, model, [FunctionToolset(add, effect="read_only")])
    )
    ready: dict[str, Equipment] = {}

    def asker(name: str) -> Callable[..., Any]:
        async def ask(task: str) -> str:
            return await bench.run(specialist, ready["specialist"], task)

        ask.__name__, ask.__doc__ = f"ask_{name}", f"Ask {name}."
        return ask

    askers = FunctionToolset([asker(name) for name in ("alpha", "beta", "gamma")], effect="idempotent")
    supervisor = workflow("supervisor", _agent("supervisor", SUPERVISOR, model, [askers]))

    async def run() -> str:
        if not ready:
            ready["specialist"] = await _equip(specialist, model)
            ready["supervisor"] = await _equip(supervisor, model)
        return await bench.run(supervisor, ready["supervisor"], PROMPT)

    return run


async def build_mcp(url: str, mcp_url: str, stack: AsyncExitStack, persistent: bool) -> Callable[[], Any]:
    """As `build_single` with the tool on an MCP server: over one connection, or over a new one for each run."""
    from retinue.agents.tools.mcp import MCPToolset

    async def find(_: str) -> ServerEntry:
        return ServerEntry(target=lambda: mcp_url)

    model = _model(url + "/1/x")
    toolset = MCPToolset("bench", allow=["*"])
    flow = workflow("mcp", _agent("calculator", SYSTEM, model, [toolset]))
    bench = Bench(":memory:")
    if persistent:
        hub = Hub(find)
        stack.push_async_callback(hub.close)
        equipment = await _equip(flow, model, hub)

        async def run() -> str:
            return await bench.run(flow, equipment, PROMPT)

        return run

    async def run_once() -> str:
        hub = Hub(find)
        try:
            return await bench.run(flow, await _equip(flow, model, hub), PROMPT)
        finally:
            await hub.close()

    return run_once


async def build_paused(url: str, path: str, stack: AsyncExitStack) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(pause, resume): one call that a person approves, on a database file."""
    from retinue.graphs import questions, records

    async def approve(q: str) -> str:
        """Ask the person."""
        return "yes"

    model = _model(url + "/1/ask")
    flow = workflow("paused", _agent("calculator", SYSTEM, model, [FunctionToolset(approve, effect="unsafe")]))
    equipment = await _equip(flow, model)
    runs = Runs(await open_database(path))
    stack.push_async_callback(runs.db.close)
    stack.push_async_callback(runs.close)
    ids: dict[str, str] = {}

    async def pause(name: str) -> None:
        execution = await runs.start(flow, {"prompt": PROMPT}, principal=WHO, equipment=equipment)
        ids[name] = execution.run
        assert (await runs.execute(execution)).status == "waiting"

    async def resume(name: str) -> str:
        run = ids.pop(name)
        (question,) = await questions.inbox(runs.db, run=run)
        await runs.answer(question.id, {"decision": "approve"}, principal=WHO, channel="api")
        record = await records.find(runs.db, run)
        return (await runs.execute(await runs.resume(record, flow, equipment))).output["text"]

    return pause, resume


async def build_turns(url: str, turns: int, path: str, stack: AsyncExitStack) -> Callable[[], Any]:
    """A conversation of that many turns, each a tool call, on a database file."""
    model = _model(f"{url}/1/turns{turns}")
    agent = Agent(
        "calculator", prompt=SYSTEM, model=model, tools=[FunctionToolset(add, effect="read_only")],
        max_tokens=1024, max_turns=turns + 2,
    )  # fmt: skip
    flow = workflow("turns", agent)
    equipment = await _equip(flow, model)
    bench = Bench(path)
    runs = await bench.runs()
    stack.push_async_callback(runs.db.close)
    stack.push_async_callback(runs.close)
    return lambda: bench.run(flow, equipment, PROMPT)
