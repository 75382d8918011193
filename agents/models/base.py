"""What Retinue asks of a language model, in Anthropic's content-block JSON.

A request and a reply are plain JSON values, so they can be journaled, hashed, recorded and compared as they are; there
is no second message format to convert to and from. Block shapes: https://docs.claude.com/en/api/messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

Block = dict[str, Any]
"""One content block: ``{"type": "text", "text": …}``, ``tool_use``, ``tool_result``, ``thinking``, …"""


class Message(TypedDict):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolSpec(TypedDict):
    """A tool as a model sees it."""

    name: str
    description: str
    input_schema: dict[str, Any]


StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "model_context_window_exceeded"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One model call."""

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    output: Mapping[str, Any] | None = None
    """JSON Schema of the final answer, where it must be structured."""
    max_tokens: int = 4096
    agent: str = ""
    """Name of the asking agent: for traces and for functions, never sent to a provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens as billed. ``input`` excludes what was read from or written to the cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def prompt(self) -> int:
        """Tokens read, from wherever they came."""
        return self.input + self.cache_read + self.cache_write

    @property
    def total(self) -> int:
        return self.prompt + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cache_read=self.cache_read + other.cache_read,
            cache_write=self.cache_write + other.cache_write,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens."""

    input: float
    output: float
    cache_read: float = 0.0
    cache_write: float = 0.0
    long_over: int | None = None
    """A prompt of more tokens than this is billed, answer included, at ``long``."""
    long: Price | None = None

    def at(self, prompt: int) -> Price:
        """The price of a call whose prompt has this many tokens. For an upper bound, ask with an upper bound."""
        if self.long is not None and self.long_over is not None and prompt > self.long_over:
            return self.long
        return self

    def cost(self, usage: Usage) -> int:
        """Millionths of a US dollar, rounded up."""
        price = self.at(usage.prompt)
        exact = (
            usage.input * price.input
            + usage.output * price.output
            + usage.cache_read * price.cache_read
            + usage.cache_write * price.cache_write
        )
        return math.ceil(round(exact, 6))  # 3 * 0.1 is 0.30000000000000004: no reason to bill another millionth


FREE = Price(input=0, output=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    content: list[Block]
    stop_reason: StopReason
    usage: Usage = field(default_factory=Usage)
    model: str
    """The model that answered, as the provider names it."""
    id: str = ""
    """The provider's name of this reply, for traces and for its support. Empty where there is none."""


class Model(Protocol):
    """A language model, or something in its place."""

    @property
    def name(self) -> str:
        """What goes into events, prices and traces, e.g. ``claude-sonnet-5-5`` or ``function:planner``."""
        ...

    @property
    def price(self) -> Price | None:
        """None when it is not known; a run with a money budget is then refused."""
        ...

    @property
    def language_model(self) -> bool:
        """False for a function: the run says plainly that no language model was used."""
        ...

    async def complete(
        self,
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> Reply:
        """Make the call, with this model's own retries.

        ``on_text`` receives text as it comes; it must not block. ``on_restart`` says that what it received is void: the
        stream broke and the call is made again. ``deadline`` is on the clock of ``time.monotonic()``: a call in flight
        is cut there, and a retry whose wait would pass it is not made.

        Raises `ModelError` and its subclasses, `Unreachable`, `SignInNeeded`, `Timeout`. A refusal, a cut answer and a
        paused turn are replies with that ``stop_reason``, not errors. The usage of a reply includes what broken
        attempts before it are known to have cost.
        """
        ...
