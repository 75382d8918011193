"""A pooled connection to one MCP server, owned by a task of its own, and opened again when it broke.

The SDK's client lives inside cancel scopes that must be left in the task that entered them, and tools are called from
many tasks; so one task enters it, hands the session out, and leaves it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import mcp_types as types
from mcp import Client, MCPError

from retinue.errors import RetinueError, SignInNeeded, Timeout, ToolFailed, Unreachable
from retinue.protocol import IDEMPOTENCY_KEY

from ...auth.client import refusal_in
from ..models.base import Block
from .base import ToolCall, ToolResult

log = logging.getLogger("retinue.mcp")

CONNECT_SECONDS = 30.0


class Connection:
    """One server. ``target`` makes what `mcp.Client` connects to: parameters of a command, or a transport.

    ``refusal`` tells of an error that the transport swallowed (a sign-in that failed, say): it says more than its own.
    """

    def __init__(
        self, name: str, target: Callable[[], Any], *, refusal: Callable[[], RetinueError | None] = lambda: None
    ) -> None:
        self.name = name
        self._target = target
        self._refusal = refusal
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._close = asyncio.Event()

    async def client(self) -> Client:
        """The live client, connected now if it is not. Raises `Unreachable`, `SignInNeeded`."""
        if self._client is not None:
            return self._client
        async with self._lock:
            if self._client is None:
                await self._open()
            assert self._client is not None
            return self._client

    async def _open(self) -> None:
        opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._close = asyncio.Event()
        self._task = asyncio.create_task(self._own(opened, self._close), name=f"mcp {self.name}")
        try:
            self._client = await asyncio.wait_for(asyncio.shield(opened), CONNECT_SECONDS)
        except TimeoutError:
            self._task.cancel()
            raise Unreachable(f"the server {self.name} did not answer in {CONNECT_SECONDS:g} s") from None
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        except Exception as error:
            raise self._typed(error) from None

    async def _own(self, opened: asyncio.Future[Client], close: asyncio.Event) -> None:
        try:
            async with Client(self._target()) as client:
                if not opened.done():
                    opened.set_result(client)
                await close.wait()
        except Exception as error:
            if not opened.done():
                opened.set_exception(_first(error))
            else:
                log.info("the connection to %s ended: %s", self.name, type(_first(error)).__name__)
        finally:
            if self._close is close:
                self._client = None
            if not opened.done():
                opened.cancel()

    async def list_tools(self) -> list[types.Tool]:
        """All tools of the server, all pages of them."""
        client = await self.client()
        tools: list[types.Tool] = []
        cursor: str | None = None
        try:
            while True:
                page = await client.list_tools(cursor=cursor)
                tools += page.tools
                cursor = page.next_cursor
                if cursor is None:
                    return tools
        except MCPError as error:
            raise self._typed(error) from None

    async def call(self, tool: str, call: ToolCall) -> ToolResult:
        """Raises when no result came back; see `Tool.call`."""
        client = await self.client()

        async def tell(progress: float, total: float | None, message: str | None) -> None:
            if call.on_progress is not None:
                call.on_progress(progress, total, message)

        meta: Any = {IDEMPOTENCY_KEY: call.key}
        try:
            result = await client.call_tool(
                tool, call.arguments, read_timeout_seconds=call.timeout, progress_callback=tell, meta=meta
            )
        except MCPError as error:
            if error.code == types.INVALID_PARAMS:  # the server judged the call and did not make it
                return ToolResult.error(error.message[:2000])
            typed = self._typed(error)
            if isinstance(typed, Unreachable):
                self._drop()
            raise typed from None
        content = [_block(item) for item in result.content]
        return ToolResult(content=content, structured=result.structured_content, is_error=bool(result.is_error))

    def _typed(self, error: BaseException) -> RetinueError:
        if (refusal := self._refusal()) is not None:
            return refusal
        if isinstance(error, RetinueError):
            return error
        if isinstance(error, MCPError):
            if (refused := refusal_in(error.data)) is not None:
                return refused
            if error.code == types.REQUEST_TIMEOUT:
                return Timeout(f"the server {self.name} did not answer in time")
            if error.code == types.CONNECTION_CLOSED:
                return Unreachable(f"the connection to {self.name} was closed")
            return ToolFailed(f"the server {self.name} failed: {error.message[:500]}")
        if isinstance(error, FileNotFoundError):
            return Unreachable(f"the server {self.name} cannot be started: {error.filename} is not found")
        if isinstance(error, PermissionError):
            return SignInNeeded(f"the server {self.name} may not be started: {error.strerror}")
        return Unreachable(f"the server {self.name} cannot be reached ({type(error).__name__})")

    def _drop(self) -> None:
        self._client = None
        self._close.set()

    async def close(self) -> None:
        self._drop()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _block(item: types.ContentBlock) -> Block:
    """MCP content as a block that a model reads."""
    match item:
        case types.TextContent():
            return {"type": "text", "text": item.text}
        case types.ImageContent():
            source = {"type": "base64", "media_type": item.mime_type, "data": item.data}
            return {"type": "image", "source": source}
        case types.EmbeddedResource() if isinstance(item.resource, types.TextResourceContents):
            return {"type": "text", "text": item.resource.text}
        case types.ResourceLink():
            return {"type": "text", "text": f"[resource {item.uri}: {item.description or item.name}]"}
        case _:
            return {"type": "text", "text": f"[{item.type} content, which cannot be shown]"}
