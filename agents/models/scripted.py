"""A model that says what a test wrote down.

model = ScriptedModel([ToolUse("search", {"query": "refund"}), Finding(…)])
model = ScriptedModel({"planner": [Plan(…)], "scout": [first, second]})     # by agent
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import anyio

from retinue.errors import ModelError

from .base import FREE, Price, Reply, Request, Usage
from .function import Answer, FunctionCall, reply_with, show, within


class ScriptExhausted(ModelError):
    """The code under test asked for more than the script has."""

    code = "script_exhausted"
    default_hint = "Add a reply to the script of the test, or find out why it was asked again."


@dataclass(frozen=True)
class Held:
    """A reply that is not given before ``release`` is set. ``asked`` is set when a call waits for it."""

    line: Line
    asked: anyio.Event = field(default_factory=anyio.Event)
    release: anyio.Event = field(default_factory=anyio.Event)


Line = Answer | BaseException | type[BaseException] | Callable[[FunctionCall], Answer] | Held
"""One line of a script: an answer, an error to raise, a function of the conversation, or one of these held back."""


class ScriptedModel:
    """Gives the lines of its script in order; with a mapping, each agent has its own.

    ``requests`` are the requests so far, copied when they were made. ``usage`` is what each reply costs (a `Reply` in
    the script brings its own).
    """

    def __init__(
        self,
        script: Iterable[Line] | Mapping[str, Iterable[Line]],
        *,
        name: str = "scripted",
        price: Price | None = FREE,
        usage: Usage | None = None,
        language_model: bool = True,
    ) -> None:
        by_agent = cast("Mapping[str, Iterable[Line]]", script) if isinstance(script, Mapping) else None
        self._lines: dict[str | None, list[Line]] = (
            {None: list(cast("Iterable[Line]", script))}
            if by_agent is None
            else {agent: list(lines) for agent, lines in by_agent.items()}
        )
        self._by_agent = by_agent is not None
        self._name = name
        self._price = price
        self._usage = usage or Usage()
        self._language_model = language_model
        self.requests: list[Request] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def price(self) -> Price | None:
        return self._price

    @property
    def language_model(self) -> bool:
        return self._language_model

    @property
    def left(self) -> int:
        """Lines that were not asked for."""
        return sum(map(len, self._lines.values()))

    async def complete(
        self,
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> Reply:
        """Give the next line. Raises `ScriptExhausted` where there is none."""
        call = FunctionCall(copy.deepcopy(request))
        self.requests.append(call.request)
        lines = self._lines.get(request.agent if self._by_agent else None, [])
        if not lines:
            asked = sum(r.agent == request.agent for r in self.requests)
            raise ScriptExhausted(f"{self._name} has no reply left for call {asked} of {request.agent or 'the agent'}")
        line = lines.pop(0)
        if isinstance(line, Held):
            line.asked.set()
            await within(line.release.wait(), deadline, self._name)
            line = line.line
        if isinstance(line, BaseException) or (isinstance(line, type) and issubclass(line, BaseException)):
            raise line
        said = cast("Answer | Callable[[FunctionCall], Answer]", line)
        answer = said(call) if callable(said) else said
        reply = reply_with(answer, turn=call.turn, model=self._name)
        if not isinstance(answer, Reply):
            reply = replace(reply, usage=self._usage)
        if on_text is not None:
            show(reply, on_text)
        return reply
