"""A Python function in place of a language model.

    def scout(call: FunctionCall) -> Answer:
        if not call.results:
            return call.use("search", query=call.task)
        return Finding(quote=best_sentence(call.task, call.results[0].data))

    scout = Agent("scout", model=FunctionModel(scout), output=Finding, tools=[library])

Ids of tool calls follow from turn and place, so the same conversation gives the same reply, byte for byte.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Union, cast

import anyio
import orjson

from retinue.errors import ModelError, RetinueError, Timeout

from .base import FREE, Block, Message, Price, Reply, Request, ToolSpec

if TYPE_CHECKING:  # pydantic costs a start-up that commands without agents do not need
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call that a function asks for. Several in one answer run side by side."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAnswer:
    """The result of a call that was asked for earlier in the conversation."""

    name: str
    arguments: Mapping[str, Any]
    text: str
    """Its text blocks, joined by line ends."""
    data: Any
    """The text as JSON: its value; a list of values where several blocks are JSON each; None where it is not JSON."""
    is_error: bool


Answer = Union["str", "BaseModel", "Mapping[str, Any]", "Reply", "ToolUse", "Sequence[ToolUse]", "Sequence[Any]"]
"""Text, structured output (a model, or JSON), or calls of tools."""


@dataclass(frozen=True)
class FunctionCall:
    """A conversation as a function wants to see it."""

    request: Request

    @cached_property
    def task(self) -> str:
        """What the agent was asked to do: the first message."""
        return _text_of(self.request.messages[0]) if self.request.messages else ""

    @cached_property
    def turn(self) -> int:
        """How many answers were given before this one."""
        return sum(message["role"] == "assistant" for message in self.request.messages)

    @cached_property
    def results(self) -> list[ToolAnswer]:
        """Results of tools so far, in the order of the calls."""
        asked: dict[str, Block] = {}
        found: list[ToolAnswer] = []
        for message in self.request.messages:
            for block in _blocks(message):
                if block["type"] == "tool_use":
                    asked[block["id"]] = block
                elif block["type"] == "tool_result" and (use := asked.get(block["tool_use_id"])) is not None:
                    found.append(_answer(use, block))
        return found

    def results_of(self, tool: str) -> list[ToolAnswer]:
        """Results of one tool, errors left out."""
        return [result for result in self.results if result.name == tool and not result.is_error]

    @cached_property
    def feedback(self) -> list[str]:
        """What was said after the task: corrections of an answer that was not valid."""
        later = self.request.messages[1:]
        return [text for message in later if message["role"] == "user" and (text := _text_of(message))]

    @cached_property
    def tools(self) -> dict[str, ToolSpec]:
        """The tools that may be used, by name."""
        return {tool["name"]: tool for tool in self.request.tools}

    @property
    def output(self) -> Mapping[str, Any] | None:
        """JSON Schema of the final answer, where it must be structured."""
        return self.request.output

    def use(self, name: str, /, **arguments: Any) -> ToolUse:
        """Ask for a call of a tool. Raises `ModelError` where the agent has no tool of this name."""
        if name not in self.tools:
            raise ModelError(f"there is no tool {name!r}; there are: {', '.join(sorted(self.tools)) or 'none'}")
        return ToolUse(name, arguments)


class FunctionModel:
    """``fn`` gets a `FunctionCall` and returns an `Answer`, or an awaitable of one.

    A plain function runs on the event loop: make one that takes long ``async`` and hand the work to a thread.
    """

    language_model = False

    def __init__(self, fn: Callable[[FunctionCall], Answer | Awaitable[Answer]], *, name: str | None = None) -> None:
        self._fn = fn
        self._name = f"function:{name or getattr(fn, '__name__', type(fn).__name__)}"

    def __repr__(self) -> str:
        return f"FunctionModel({self._name!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def price(self) -> Price | None:
        return FREE

    async def complete(
        self,
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> Reply:
        """Call the function. What it raises becomes a `ModelError` that names it, unless it is one of our errors."""
        call = FunctionCall(request)
        try:
            answer = self._fn(call)
            if inspect.isawaitable(answer):
                answer = await within(answer, deadline, self._name)
            reply = reply_with(cast("Answer", answer), turn=call.turn, model=self._name)
        except RetinueError:
            raise
        except Exception as error:
            raise ModelError(f"{self._name} failed: {type(error).__name__}: {error}") from error
        if on_text is not None:
            show(reply, on_text)
        return reply


async def within(awaitable: Awaitable[Any], deadline: float | None, name: str) -> Any:
    """The awaited value, or `Timeout` at ``deadline`` on the clock of ``time.monotonic()``."""
    if deadline is None:
        return await awaitable
    import time

    with anyio.move_on_after(max(deadline - time.monotonic(), 0)):
        return await awaitable
    raise Timeout(f"{name} did not answer before the time of the run was over")


def show(reply: Reply, on_text: Callable[[str], None]) -> None:
    for block in reply.content:
        if block["type"] == "text" and block["text"]:
            on_text(block["text"])


def reply_with(answer: Answer, *, turn: int, model: str) -> Reply:
    """The reply that an answer stands for. ``turn`` makes the ids of its tool calls."""
    if isinstance(answer, Reply):
        return answer if answer.model else replace(answer, model=model)
    uses = _uses(answer)
    if uses:
        content: list[Block] = [
            {"type": "tool_use", "id": f"toolu_fn_{turn}_{index}", "name": use.name, "input": dict(use.arguments)}
            for index, use in enumerate(uses)
        ]
        return Reply(content=content, stop_reason="tool_use", model=model)
    text = answer if isinstance(answer, str) else _json(answer)
    return Reply(content=[{"type": "text", "text": text}], stop_reason="end_turn", model=model)


def _uses(answer: Answer) -> list[ToolUse]:
    if isinstance(answer, ToolUse):
        return [answer]
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        return []
    uses = [part for part in answer if isinstance(part, ToolUse)]
    if uses and len(uses) != len(answer):
        raise TypeError("an answer is either calls of tools or a value, not both")
    return uses


def _json(value: Any) -> str:
    """JSON text of a structured answer, which may hold pydantic models."""
    if value is None:
        raise TypeError("it returned nothing")

    def dump(part: Any) -> Any:
        if callable(method := getattr(part, "model_dump", None)):
            return method(mode="json")
        raise TypeError(f"{type(part).__name__} is not JSON")

    return orjson.dumps(value, default=dump).decode()


def _blocks(message: Message) -> list[Block]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text_of(message: Message) -> str:
    return "\n".join(block["text"] for block in _blocks(message) if block["type"] == "text")


def _answer(use: Block, result: Block) -> ToolAnswer:
    content: str | list[Block] = result.get("content") or ""
    texts = [content] if isinstance(content, str) else [b["text"] for b in content if b["type"] == "text"]
    return ToolAnswer(
        name=use["name"],
        arguments=use["input"],
        text="\n".join(texts),
        data=_data(texts),
        is_error=bool(result.get("is_error")),
    )


def _data(texts: list[str]) -> Any:
    try:
        values = [orjson.loads(text) for text in texts]
    except orjson.JSONDecodeError:
        return None
    return values[0] if len(values) == 1 else values or None
