"""A pooled connection to one MCP server, owned by a task of its own, and opened again when it broke.

The SDK's client lives inside cancel scopes that must be left in the task that entered them, and tools are called from
many tasks; so one task enters it, hands the session out, and leaves it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import anyio
import mcp_types as types
from mcp import Client, MCPError

from retinue.errors import RetinueError, SignInNeeded, Timeout, ToolFailed, Unreachable
from retinue.protocol import IDEMPOTENCY_KEY
from retinue.text import one_line

from ...auth.client import refusal_in
from .base import ToolCall, ToolResult
from .content import result_of
from .listing import LIST_SECONDS, Listing, pins

log = logging.getLogger("retinue.mcp")

CONNECT_SECONDS = 30.0
MAX_MESSAGE = 500
"""Characters of a server's message in an error or a line of progress."""


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
        self._pins: Mapping[str, str] | None = None
        """What the server said about its tools when it was first asked,"""
        self._changed: frozenset[str] = frozenset()
        """and those about which it says something else since it was connected again."""

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
            client = await asyncio.wait_for(asyncio.shield(opened), CONNECT_SECONDS)
            if self._pins is not None:
                now = pins(await self._list(client))
                self._changed = frozenset(name for name, pin in self._pins.items() if now.get(name) != pin)
            self._client = client
        except RetinueError:
            self._task.cancel()
            raise
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
                # The SDK would check results against a schema of the server's: with its patterns, on Python's engine.
                client.session.validate_tool_result = _not_checked
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
        """All tools of the server, all pages of them. Raises `ToolFailed` for a list that passes a bound."""
        tools = await self._list(await self.client())
        if self._pins is None:
            self._pins = pins(tools)
        return tools

    async def _list(self, client: Client) -> list[types.Tool]:
        listing = Listing(self.name)
        cursor: str | None = None
        try:
            with anyio.fail_after(LIST_SECONDS):
                while True:
                    page = await client.list_tools(cursor=cursor)
                    cursor = page.next_cursor
                    listing.add(page.tools, cursor)
                    if cursor is None:
                        return listing.tools
        except TimeoutError:
            raise Timeout(f"the server {self.name} did not list its tools in {LIST_SECONDS:g} s") from None
        except Exception as error:
            raise self._typed(error) from None

    async def call(self, tool: str, call: ToolCall) -> ToolResult:
        """Raises when no result came back; see `Tool.call`."""
        client = await self.client()
        if tool in self._changed:
            return ToolResult.error(
                f"The server says something else about {tool} since this run began, so it was not called."
            )

        async def tell(progress: float, total: float | None, message: str | None) -> None:
            if call.on_progress is not None and math.isfinite(progress):
                known = total if total is not None and math.isfinite(total) else None
                call.on_progress(progress, known, None if message is None else one_line(message, MAX_MESSAGE))

        meta: Any = {IDEMPOTENCY_KEY: call.key}
        try:
            result = await client.call_tool(
                tool, call.arguments, read_timeout_seconds=call.timeout, progress_callback=tell, meta=meta
            )
        except Exception as error:
            if isinstance(error, MCPError) and error.code == types.INVALID_PARAMS:
                return ToolResult.error(error.message[:2000])  # the server judged the call and did not make it
            typed = self._typed(error)
            if isinstance(typed, Unreachable):
                self._drop()
            raise typed from None
        return result_of(result)

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
            return ToolFailed(f"the server {self.name} failed: {one_line(error.message, MAX_MESSAGE)}")
        if isinstance(error, (ValueError, TypeError, RuntimeError)):  # no MCP, or a question nobody here can answer
            return ToolFailed(f"the server {self.name} gave an answer that cannot be used ({type(error).__name__})")
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


async def _not_checked(name: str, result: types.CallToolResult) -> None:
    """Stands in for the session's own check of structured results."""
