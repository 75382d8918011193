"""LangGraph as its documentation shows it: a model node and a tool node, the anthropic SDK called in the node."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, cast

from anthropic import AsyncAnthropic
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from bench.common import APPROVE, ASK, KEY, MODEL, PROMPT, SPECIALIST, SUPERVISOR, SYSTEM, TOOL, Run, add

KEPT = {"type", "text", "id", "name", "input"}


class State(TypedDict):
    messages: Annotated[list[Any], operator.add]


def graph(
    client: AsyncAnthropic, system: str, tools: Sequence[Any], call: Callable[..., Any], saver: Any = None
) -> Any:
    async def model(state: State) -> dict[str, Any]:
        reply = await client.messages.create(
            model=MODEL, max_tokens=1024, system=system, tools=cast(Any, tools), messages=state["messages"]
        )
        content = [block.model_dump(mode="json", include=KEPT) for block in reply.content]
        return {"messages": [{"role": "assistant", "content": content}]}

    async def use_tools(state: State) -> dict[str, Any]:
        calls = [block for block in state["messages"][-1]["content"] if block["type"] == "tool_use"]
        values = await asyncio.gather(*(call(**c["input"]) for c in calls))
        results = [
            {"type": "tool_result", "tool_use_id": c["id"], "content": str(value)}
            for c, value in zip(calls, values, strict=True)
        ]
        return {"messages": [{"role": "user", "content": results}]}

    def route(state: State) -> str:
        return "tools" if any(block["type"] == "tool_use" for block in state["messages"][-1]["content"]) else END

    built = StateGraph(State)
    built.add_node("model", model)
    built.add_node("tools", use_tools)
    built.add_edge(START, "model")
    built.add_conditional_edges("model", route, ["tools", END])
    built.add_edge("tools", "model")
    return built.compile(checkpointer=saver)


def begin(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


def end(state: Any) -> str:
    return state["messages"][-1]["content"][0]["text"]


def build_single(url: str) -> Run:
    compiled = graph(AsyncAnthropic(api_key=KEY, base_url=url + "/1/x"), SYSTEM, [TOOL], add)

    async def run() -> str:
        return end(await compiled.ainvoke(begin(PROMPT)))

    return run


class Team(TypedDict):
    messages: list[Any]
    answers: Annotated[list[Any], operator.add]
    final: str


def build_multi(url: str) -> Run:
    """The nearest idiom: a supervisor node, a Send for each specialist's subgraph, a node that joins."""
    client = AsyncAnthropic(api_key=KEY, base_url=url + "/1/task")
    specialist = graph(client, SPECIALIST, [TOOL], add)
    tools = [{"name": f"ask_{n}", "description": f"Ask {n}.", "input_schema": ASK} for n in ("alpha", "beta", "gamma")]

    async def ask(messages: list[Any]) -> Any:
        return await client.messages.create(
            model=MODEL, max_tokens=1024, system=SUPERVISOR, tools=cast(Any, tools), messages=messages
        )

    async def supervise(state: Team) -> dict[str, Any]:
        reply = await ask(state["messages"])
        content = [block.model_dump(mode="json", include=KEPT) for block in reply.content]
        return {"messages": [*state["messages"], {"role": "assistant", "content": content}]}

    async def work(call: dict[str, Any]) -> dict[str, Any]:
        return {"answers": [(call["id"], end(await specialist.ainvoke(begin(call["input"]["task"]))))]}

    def fan_out(state: Team) -> list[Send]:
        return [Send("work", call) for call in state["messages"][-1]["content"]]

    async def join(state: Team) -> dict[str, Any]:
        results = [{"type": "tool_result", "tool_use_id": id_, "content": text} for id_, text in state["answers"]]
        reply = await ask([*state["messages"], {"role": "user", "content": results}])
        return {"final": reply.content[0].text}

    built = StateGraph(Team)
    built.add_node("supervise", supervise)
    built.add_node("work", work)  # pyright: ignore[reportArgumentType]  # a Send hands it a call, not the state
    built.add_node("join", join)
    built.add_edge(START, "supervise")
    built.add_conditional_edges("supervise", fan_out, ["work"])
    built.add_edge("work", "join")
    built.add_edge("join", END)
    compiled = built.compile()

    async def run() -> str:
        state = await compiled.ainvoke({**begin(PROMPT), "answers": [], "final": ""})  # pyright: ignore[reportArgumentType]
        return state["final"]

    return run


async def build_paused(url: str, path: str, stack: AsyncExitStack) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(pause, resume): one call that a person approves; its state in SQLite, by LangGraph's own saver."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async def approve(q: str) -> str:
        return interrupt({"q": q})

    saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
    compiled = graph(AsyncAnthropic(api_key=KEY, base_url=url + "/1/ask"), SYSTEM, [APPROVE], approve, saver)

    async def pause(name: str) -> None:
        state = await compiled.ainvoke(begin(PROMPT), {"configurable": {"thread_id": name}}, durability="sync")
        assert state["__interrupt__"]

    async def resume(name: str) -> str:
        config = {"configurable": {"thread_id": name}}
        return end(await compiled.ainvoke(Command(resume="yes"), config, durability="sync"))

    return pause, resume


async def build_turns(url: str, turns: int, path: str, stack: AsyncExitStack) -> Run:
    """A conversation of that many turns, each a tool call, its state in SQLite."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
    client = AsyncAnthropic(api_key=KEY, base_url=f"{url}/1/turns{turns}")
    compiled = graph(client, SYSTEM, [TOOL], add, saver)
    runs = 0

    async def run() -> str:
        nonlocal runs
        runs += 1
        config = {"configurable": {"thread_id": f"t{runs}"}, "recursion_limit": 10_000}
        return end(await compiled.ainvoke(begin(PROMPT), config, durability="sync"))

    return run
