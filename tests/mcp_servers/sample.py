"""A server with one tool for each thing that can happen to a call. Also a program: it speaks on stdin and stdout."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from retinue.errors import InvalidInput, ToolFailed
from retinue.mcp_servers.kit import ResourceEntry, ToolContext, ToolServer

SECRET = "sk-canary-7316"


class Echo(BaseModel):
    text: str
    times: int = 1


def sample_server(name: str = "sample") -> ToolServer:
    server = ToolServer(name, instructions="Things that happen.", version="1.2.3")

    @server.tool(scope="sample:read", effect="read_only", title="Echo")
    async def echo(text: Annotated[str, Field(description="What to say.")], times: int = 1) -> Echo:
        """Say it again."""
        return Echo(text=text * times, times=times)

    @server.tool(scope="sample:read", effect="read_only")
    def plain(text: str) -> str:
        """A function that is not async runs on a thread."""
        return text.upper()

    @server.tool(scope="sample:write", effect="keyed")
    async def keyed(*, ctx: ToolContext) -> str:
        """Say the idempotency key."""
        return str(ctx.idempotency_key)

    @server.tool(scope="sample:write", effect="idempotent", destructive=False)
    async def idempotent() -> str:
        """Do it again if you like."""
        return "done"

    @server.tool(scope="sample:admin", effect="unsafe")
    async def unsafe() -> str:
        """Every call counts."""
        return "done"

    @server.tool(scope="sample:read", effect="read_only")
    async def who(*, ctx: ToolContext) -> dict[str, Any]:
        """Say who asks."""
        return {"subject": ctx.principal.subject if ctx.principal else None, "version": ctx.protocol_version}

    @server.tool(scope="sample:read", effect="read_only")
    async def admin_only(*, ctx: ToolContext) -> str:
        """Needs one scope more, which it finds out by itself."""
        ctx.require("sample:admin")
        return "admin"

    @server.tool(scope="sample:read", effect="read_only")
    async def progress(*, ctx: ToolContext) -> str:
        """Tell how far it is."""
        for done in (1, 2):
            await ctx.progress(done, 2, f"step {done}")
        return "finished"

    @server.tool(scope="sample:read", effect="read_only", timeout=0.05)
    async def slow() -> str:
        """Never ends."""
        await anyio.sleep_forever()
        return "never"

    @server.tool(scope="sample:write", effect="unsafe", timeout=0.05)
    async def slow_write() -> str:
        """Never ends, and writes."""
        await anyio.sleep_forever()
        return "never"

    @server.tool(scope="sample:read", effect="read_only", max_result=100)
    async def large(size: int) -> str:
        """Say a lot."""
        return "x" * size

    @server.tool(scope="sample:write", effect="unsafe", max_result=100)
    async def large_write() -> Echo:
        """Do something and say a lot about it."""
        return Echo(text="x" * 200)

    @server.tool(scope="sample:read", effect="read_only")
    async def crash(argument: str) -> str:
        """Fail in a way that nobody expected."""
        raise RuntimeError(f"password {SECRET} for {argument} in {__file__}")

    @server.tool(scope="sample:read", effect="read_only")
    async def refuse() -> str:
        """Fail in a way that was expected."""
        raise ToolFailed("the far side is down", hint="Try again tomorrow.")

    @server.tool(scope="sample:read", effect="read_only")
    async def refuse_in_a_group() -> str:
        """Fail in a way that was expected, inside a task group."""
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            raise ToolFailed("one of several failed")
        return "never"

    @server.tool(scope="sample:read", effect="read_only")
    async def refuse_plainly() -> str:
        """Fail with the SDK's own error."""
        raise ToolError("not today")

    @server.tool(scope="sample:read", effect="read_only")
    async def prints() -> str:
        """Write where only the protocol may write."""
        print("stray output")
        os.write(1, b"stray bytes\n")
        return "printed"

    async def listed() -> list[ResourceEntry]:
        return [ResourceEntry(uri="sample://doc/a", name="a", mime_type="text/plain", size=5)]

    @server.resource("sample://doc/{name}", scope="sample:read", listed=listed)
    async def document(name: str) -> str:
        """A document by name."""
        if name == "broken":
            raise RuntimeError(f"password {SECRET}")
        if name != "a":
            raise InvalidInput("there is no such document")
        return "hello"

    @server.resource("sample://secret", scope="sample:admin")
    async def secret() -> str:
        """One document that few may read."""
        return "secret"

    _ = (echo, plain, keyed, idempotent, unsafe, who, admin_only, progress, slow, slow_write, large, large_write, crash)
    _ = (refuse, refuse_in_a_group, refuse_plainly, prints, document, secret)
    return server


if __name__ == "__main__":
    sys.exit(anyio.run(sample_server().run_stdio))
