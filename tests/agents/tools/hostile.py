"""A server that says whatever a test wants, as raw JSON-RPC: no SDK between the test and what our client reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCRequest, jsonrpc_message_adapter

Answer = dict[str, Any]
Listed = Callable[[str | None], Answer]
"""The result of ``tools/list`` for a cursor."""
Called = Callable[[str, dict[str, Any]], Answer]
"""The result of ``tools/call`` for a name and arguments; ``{"error": …}`` is a JSON-RPC error."""


def tool(name: str = "look", **fields: Any) -> Answer:
    return {"name": name, "description": "Looks.", "inputSchema": {"type": "object"}, **fields}


def text(said: str) -> Answer:
    return {"content": [{"type": "text", "text": said}]}


@dataclass
class Hostile:
    """``pages`` and ``answer`` may be replaced while it runs. ``calls`` are the tools that were called."""

    pages: Listed = field(default=lambda cursor: {"tools": [tool()]})
    answer: Called = field(default=lambda name, arguments: text("seen"))
    before: list[Answer] = field(default_factory=list[Answer])
    """Notifications and requests that it sends before each result of a call."""
    calls: list[str] = field(default_factory=list[str])
    lists: int = 0
    connections: int = 0
    answered: list[Answer] = field(default_factory=list[Answer])
    """What the client answered to requests of the server's."""
    hang_up: bool = False
    """End the connection instead of answering the next call."""

    def __call__(self) -> AbstractAsyncContextManager[Any]:
        return self._connection()

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        self.connections += 1
        to_client, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](100)
        to_server, from_client = anyio.create_memory_object_stream[SessionMessage](100)

        async def serve() -> None:
            async with to_client, from_client:
                async for message in from_client:
                    request = message.message
                    if not isinstance(request, JSONRPCRequest):
                        self.answered.append(request.model_dump(mode="json"))
                        continue
                    said = self._reply(request.method, request.params or {})
                    if said is None:
                        return
                    for earlier in self.before if request.method == "tools/call" else ():
                        await to_client.send(_message(_about(request, earlier)))
                    await to_client.send(_message({"id": request.id, **said}))

        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            try:
                yield from_server, to_server
            finally:
                group.cancel_scope.cancel()
                for stream in (from_server, to_server):
                    await stream.aclose()

    def _reply(self, method: str, params: dict[str, Any]) -> Answer | None:
        if method == "initialize":
            return {
                "result": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "hostile", "version": "0"},
                }
            }
        if method == "tools/list":
            self.lists += 1
            return {"result": self.pages(params.get("cursor"))}
        if method == "tools/call":
            if self.hang_up:
                self.hang_up = False
                return None
            self.calls.append(params["name"])
            said = self.answer(params["name"], params.get("arguments") or {})
            return said if "error" in said else {"result": said}
        return {"error": {"code": -32601, "message": "no such method"}}


def _about(request: JSONRPCRequest, message: Answer) -> Answer:
    """Progress is about the request that is being answered."""
    if message.get("method") != "notifications/progress":
        return message
    token = (request.params or {})["_meta"]["progressToken"]
    return {**message, "params": {**message["params"], "progressToken": token}}


def _message(body: Answer) -> SessionMessage:
    return SessionMessage(jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0", **body}))
