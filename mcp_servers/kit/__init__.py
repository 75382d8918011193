"""Serve tools over MCP: one decorator a tool, and the same server on stdio or behind the guard on Streamable HTTP.

    server = ToolServer("notes", instructions="Short notes.")

    @server.tool(scope="notes:read", effect="read_only")
    async def find(text: Annotated[str, Field(description="What to look for.")], *, ctx: ToolContext) -> Notes:
        "Find the notes that contain a text."

`ToolServer.run_stdio` speaks on stdin and stdout; `ToolServer.asgi` is an ASGI app behind a guard, for both protocol
eras (the stateless 2026-07-28 and the sessions before it); `serve_http` binds a socket and serves it.
"""

from .context import ToolContext
from .effects import Effect
from .endpoint import Endpoint, NoTracebacks, UnguardedWarning, Wrap
from .http import Tls, bind, origin_of, serve_http, serving
from .resources import ResourceEntry
from .server import ToolServer

__all__ = [
    "Effect",
    "Endpoint",
    "NoTracebacks",
    "ResourceEntry",
    "Tls",
    "ToolContext",
    "ToolServer",
    "UnguardedWarning",
    "Wrap",
    "bind",
    "origin_of",
    "serve_http",
    "serving",
]
