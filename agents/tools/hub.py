"""The MCP client hub: many servers, one pooled connection each, and what is known about their tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import mcp_types as types

from retinue.errors import RetinueError
from retinue.protocol import KEYED

from ..policy import Policy
from .base import Effect, EffectClass, ServerTool, ToolCall, ToolResult
from .listing import described
from .session import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What configuration says of a tool, whatever its server says. None: not said."""

    effect: EffectClass | None = None
    destructive: bool | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEntry:
    """How a server is reached, and how far its word counts."""

    target: Callable[[], Any]
    """Makes what `mcp.Client` connects to."""
    refusal: Callable[[], RetinueError | None] = lambda: None
    trusted: bool = False
    """Its annotations may relax what its tools are taken for; otherwise they only tighten it."""
    known: Mapping[str, Known] = field(default_factory=dict[str, Known])
    """By glob over the server's own tool names."""
    policy: Policy = field(default_factory=Policy)
    timeout: float = 60.0


class Hub:
    """`Connections` over MCP. ``find`` looks a server's entry up by name or URL, once."""

    def __init__(self, find: Callable[[str], Awaitable[ServerEntry]]) -> None:
        self._find = find
        self._servers: dict[str, asyncio.Task[tuple[Connection, list[ServerTool]]]] = {}

    async def tools(self, server: str) -> Sequence[ServerTool]:
        """The server's tools as they were when it was first asked."""
        task = self._servers.get(server)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._servers[server] = asyncio.create_task(self._open(server))
        return (await asyncio.shield(task))[1]

    async def _open(self, server: str) -> tuple[Connection, list[ServerTool]]:
        entry = await self._find(server)
        connection = Connection(server, entry.target, refusal=entry.refusal)
        try:
            listed = await connection.list_tools()
        except BaseException:
            await connection.close()
            raise
        return connection, [_server_tool(connection, entry, tool) for tool in listed]

    async def close(self) -> None:
        for task in self._servers.values():
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(outcome, BaseException):
                await outcome[0].close()
        self._servers.clear()


def _server_tool(connection: Connection, entry: ServerEntry, tool: types.Tool) -> ServerTool:
    known = next((k for glob, k in entry.known.items() if fnmatchcase(tool.name, glob)), Known())

    async def call(request: ToolCall) -> ToolResult:
        return await connection.call(tool.name, request)

    return ServerTool(
        name=tool.name,
        description=described(tool),
        input_schema=dict(tool.input_schema),
        effect=effect_of(tool, trusted=entry.trusted, known=known),
        policy=entry.policy,
        call=call,
        timeout=known.timeout or entry.timeout,
    )


def effect_of(tool: types.Tool, *, trusted: bool, known: Known) -> Effect:
    """Configuration first; then the server's annotations, which only tighten unless the server is trusted.

    No annotation means destructive and not idempotent (MCP 2026-07-28, ToolAnnotations: the hints' defaults).
    """
    said = tool.annotations
    destructive = said is None or said.destructive_hint is None or said.destructive_hint
    if known.effect is not None:
        effect = Effect.of(known.effect, destructive=known.destructive)
        contradicted = said is not None and said.read_only_hint is False and effect.read_only
        return Effect() if contradicted else effect
    if not trusted or said is None:
        return Effect(destructive=True if known.destructive is None else known.destructive)
    read_only = bool(said.read_only_hint)
    return Effect(
        read_only=read_only,
        idempotent=read_only or bool(said.idempotent_hint),
        keyed=bool((tool.meta or {}).get(KEYED)),
        destructive=(destructive and not read_only) if known.destructive is None else known.destructive,
    )
