"""The fixtures that MCP's conformance suite asks a server for, as far as this kit offers such things.

A program: ``python -m tests.mcp_servers.conformance PORT`` serves them without a guard, since the suite sends no token.
``scripts/conformance_mcp`` runs the suite against it.
"""

from __future__ import annotations

import json
import sys
import warnings

import anyio
from mcp.server.mcpserver.exceptions import ToolError

from retinue.mcp_servers.kit import ToolContext, ToolServer, UnguardedWarning, serve_http

server = ToolServer("conformance", version="1", instructions="Fixtures of the conformance suite.")


@server.tool(scope="conformance", effect="read_only")
async def test_simple_text() -> str:
    """Return a fixed text."""
    return "This is a simple text response for testing."


@server.tool(scope="conformance", effect="read_only")
async def test_error_handling() -> str:
    """Fail on purpose."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool(scope="conformance", effect="read_only")
async def test_tool_with_progress(*, ctx: ToolContext) -> str:
    """Report progress three times."""
    for done in (0, 50, 100):
        await ctx.progress(done, 100, f"Completed step {done} of 100")
    return "done"


@server.resource("test://static-text", scope="conformance")
async def static_text() -> str:
    """A fixed text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", scope="conformance", mime_type="image/png")
async def static_binary() -> bytes:
    """A fixed picture, or its beginning."""
    return b"\x89PNG\r\n\x1a\n"


@server.resource("test://template/{id}/data", scope="conformance", mime_type="application/json")
async def template(id: str) -> str:  # noqa: A002  the suite chose the name
    """Data by id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


if __name__ == "__main__":
    warnings.simplefilter("ignore", UnguardedWarning)
    anyio.run(lambda: serve_http(server, "127.0.0.1", int(sys.argv[1]), guard=None))
