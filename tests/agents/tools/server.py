"""A foreign MCP server on stdio for tests: plain SDK, its own annotations, and some ways to misbehave."""

from __future__ import annotations

import asyncio
import os

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import ToolAnnotations

server = MCPServer("foreign", log_level="ERROR")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def look(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


@server.tool()
async def send(to: str) -> str:
    """Send something."""
    return f"sent to {to}"


@server.tool(annotations=ToolAnnotations(read_only_hint=False, idempotent_hint=True, destructive_hint=False))
async def put(value: str, ctx: Context) -> str:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
    """Put a value; says under which key."""
    return str(ctx.request_context.meta)  # pyright: ignore[reportUnknownMemberType]


@server.tool()
async def die() -> str:
    """End the process in the middle of the call."""
    os._exit(3)


@server.tool()
async def hang() -> str:
    """Never answer."""
    await asyncio.Event().wait()
    return ""


@server.tool()
async def fail() -> str:
    """Raise."""
    raise ValueError("no such thing")


if __name__ == "__main__":
    server.run("stdio")
