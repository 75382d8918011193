"""What a tool is to an agent, wherever it comes from: a function, an MCP server, later another agent."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from retinue.errors import ToolFailed

from ..models.base import Block, ToolSpec

if TYPE_CHECKING:
    from ..member import Member
    from ..policy import Policy
    from .schemas import Checker

EffectClass = Literal["read_only", "idempotent", "keyed", "unsafe"]
Decision = Literal["allow", "ask", "deny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What calling the tool does to the world. The defaults assume the worst."""

    read_only: bool = False
    idempotent: bool = False
    keyed: bool = False
    """Honours our idempotency key: the same key is the same call."""
    destructive: bool = True

    @property
    def repeatable(self) -> bool:
        """Whether a call that may have happened can simply be made again, with the same key."""
        return self.read_only or self.idempotent or self.keyed

    @classmethod
    def of(cls, name: EffectClass, *, destructive: bool | None = None) -> Effect:
        return cls(
            read_only=name == "read_only",
            idempotent=name in ("read_only", "idempotent"),
            keyed=name == "keyed",
            destructive=(name == "unsafe") if destructive is None else destructive,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call as it goes out."""

    arguments: dict[str, Any]
    key: str
    """Idempotency key: the same in every repetition of the same call."""
    timeout: float | None = None
    on_progress: Callable[[float, float | None, str | None], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What came back. ``is_error`` is the tool's own word that it failed; the model sees it and may go on."""

    content: list[Block] = field(default_factory=list[Block])
    structured: Any = None
    is_error: bool = False
    cut: bool = False
    """Some text was too long to show; the whole of it is an artifact."""

    @property
    def text(self) -> str:
        return "\n".join(b["text"] for b in self.content if b.get("type") == "text")

    @classmethod
    def error(cls, text: str) -> ToolResult:
        return cls(content=[{"type": "text", "text": text}], is_error=True)

    def to_json(self) -> dict[str, Any]:
        data = {"content": self.content, "structured": self.structured, "is_error": self.is_error}
        return data | {"cut": True} if self.cut else data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ToolResult:
        return cls(
            content=data["content"],
            structured=data.get("structured"),
            is_error=data["is_error"],
            cut=data.get("cut", False),
        )


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool as fixed at the start of a run."""

    server: str
    name: str
    """The server's own name: what policy and audit are about."""
    exposed: str
    """The name the model sees, unique within the agent."""
    description: str
    input_schema: dict[str, Any]
    effect: Effect
    decision: Decision
    call: Callable[[ToolCall], Awaitable[ToolResult]]
    """Raises `ToolFailed`, `Unreachable`, `SignInNeeded`, `Timeout` when no result came back."""
    timeout: float = 60.0
    member: Member | None = None
    """Set where calling the tool means running a member."""
    handoff: bool = False
    """The member's output becomes the output of the agent that calls it."""

    @property
    def spec(self) -> ToolSpec:
        return {"name": self.exposed, "description": self.description, "input_schema": self.input_schema}

    @cached_property
    def _checker(self) -> Checker:
        from .schemas import Checker

        return Checker(self.input_schema)

    def problems(self, arguments: Any) -> list[str]:
        """What is wrong with these arguments by the tool's own schema, in words; empty if nothing is.

        Raises `ToolFailed` for a schema that is none, or that cannot be checked in bounded time.
        """
        try:
            return self._checker.problems(arguments)
        except Exception as error:  # jsonschema trips over a broken schema in many ways
            raise ToolFailed(
                f"the input schema of {self.server}/{self.name} is invalid: {type(error).__name__}"
            ) from None

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the tool means something else to a model or to the policy."""
        return digest([self.server, self.name, self.exposed, self.description, self.input_schema, self.decision])


def canonical(value: Any) -> bytes:
    """One byte form for equal JSON values."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """sha256 of the canonical form, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


class Connections(Protocol):
    """How a toolset reaches servers: given to it by whoever runs the agent."""

    async def tools(self, server: str) -> Sequence[ServerTool]:
        """The tools of a configured or built-in server (or of a URL), all pages of them.

        Raises `Unreachable`, `SignInNeeded`, `ConfigError`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """A tool as a server lists it, with the effect that configuration and trust allow."""

    name: str
    description: str
    input_schema: dict[str, Any]
    effect: Effect
    policy: Policy
    call: Callable[[ToolCall], Awaitable[ToolResult]]
    timeout: float = 60.0


class Toolset(Protocol):
    """Tools an agent may use. Wrappers change which are offered, under what names, and on what terms."""

    @property
    def name(self) -> str: ...

    async def open(self, connections: Connections) -> Sequence[Tool]:
        """The tools, once a run. Names are fixed by it for the length of the run."""
        ...
