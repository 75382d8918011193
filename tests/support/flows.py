"""Small workflows and tools that several tests use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import add
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.models.base import FREE, Price, Reply, Request, Usage
from retinue.agents.models.function import Answer, FunctionCall, reply_with
from retinue.agents.tools.base import EffectClass
from retinue.agents.tools.functions import FunctionToolset
from retinue.graphs.nodes import each, step
from retinue.graphs.workflow import Workflow


class State(BaseModel):
    question: str = ""
    found: Annotated[list[Any], add] = []
    text: str | None = None


def one(agent: Agent, *, task: str | Callable[[State], str] = "the task", **options: Any) -> Workflow:
    """One agent, whose answer is the field ``text``."""
    graph = StateGraph(State)
    graph.add_node("work", step(agent, task=task, into="text"))
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return Workflow("one", graph, **options)


def fan(agent: Agent, items: Sequence[str], **options: Any) -> Workflow:
    """One agent for each item, side by side; the answers are the field ``found``."""

    async def begin(state: State) -> dict[str, Any]:
        return {}

    graph = StateGraph(State)
    graph.add_node("begin", begin)
    graph.add_node("work", step(agent, task=lambda item: item, into="found"))
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", each(lambda s: items, "work"), ["work"])
    graph.add_edge("work", END)
    return Workflow("fan", graph, **options)


def tool(
    function: Callable[..., Any] | Sequence[Callable[..., Any]], effect: EffectClass, **options: Any
) -> FunctionToolset:
    return FunctionToolset(function, effect=effect, **options)


class Sayer:
    """A model that answers by a function of the conversation, counts its calls, and can be held up."""

    def __init__(
        self,
        say: Callable[[FunctionCall], Answer],
        *,
        usage: Usage = Usage(),  # noqa: B008  frozen
        price: Price | None = FREE,
        language_model: bool = True,
        pause: Callable[[FunctionCall], Any] | None = None,
    ) -> None:
        self.name = "sayer"
        self.price = price
        self.language_model = language_model
        self.requests: list[Request] = []
        self.now = self.peak = 0
        self._say = say
        self._usage = usage
        self._pause = pause

    async def complete(
        self,
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> Reply:
        self.requests.append(request)
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            call = FunctionCall(request)
            await asyncio.sleep(0)
            if self._pause is not None:
                await self._pause(call)
            said = self._say(call)
            reply = reply_with(said, turn=call.turn, model=self.name)
            usage = self._usage
            if usage.output > request.max_tokens:
                usage = replace(usage, output=request.max_tokens)
            if isinstance(said, Reply):
                usage = reply.usage
            return Reply(content=reply.content, stop_reason=reply.stop_reason, usage=usage, model=self.name)
        finally:
            self.now -= 1
