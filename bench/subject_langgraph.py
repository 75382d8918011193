"""LangGraph as its documentation shows it: a model node, a tool node, the anthropic SDK called in the node, no saver."""

from __future__ import annotations

import operator
from typing import Annotated, Any, cast

from anthropic import AsyncAnthropic
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from bench.common import KEY, MODEL, PROMPT, SYSTEM, TOOL, Run, add


class State(TypedDict):
    messages: Annotated[list[Any], operator.add]


def build_single(url: str) -> Run:
    client = AsyncAnthropic(api_key=KEY, base_url=url + "/1/x")

    async def model(state: State) -> dict[str, Any]:
        reply = await client.messages.create(
            model=MODEL, max_tokens=1024, system=SYSTEM, tools=cast(Any, [TOOL]), messages=state["messages"]
        )
        kept = {"type", "text", "id", "name", "input"}
        content = [block.model_dump(mode="json", include=kept) for block in reply.content]
        return {"messages": [{"role": "assistant", "content": content}]}

    async def tools(state: State) -> dict[str, Any]:
        calls = [block for block in state["messages"][-1]["content"] if block["type"] == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": c["id"], "content": str(await add(**c["input"]))} for c in calls
        ]
        return {"messages": [{"role": "user", "content": results}]}

    def route(state: State) -> str:
        return "tools" if any(block["type"] == "tool_use" for block in state["messages"][-1]["content"]) else END

    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("tools", tools)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", route, ["tools", END])
    graph.add_edge("tools", "model")
    compiled = graph.compile()

    async def run() -> str:
        state = await compiled.ainvoke(cast(Any, {"messages": [{"role": "user", "content": PROMPT}]}))
        return state["messages"][-1]["content"][0]["text"]

    return run
