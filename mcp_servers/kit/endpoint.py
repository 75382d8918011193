"""The MCP endpoint of one server as an ASGI app: Streamable HTTP in both protocol eras, behind its guard."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncGenerator, Callable
from typing import Any

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...auth.urls import is_loopback
from .caller import UNGUARDED
from .failures import unexpected

Wrap = Callable[[ASGIApp], ASGIApp]
"""Puts a guard around an app."""


class UnguardedWarning(UserWarning):
    """An endpoint without a guard was made. Only tests do that."""


class Endpoint:
    """One server at one path.

    As an ASGI app it starts and stops with the lifespan protocol. A program that serves several endpoints from one
    socket enters `running` of each itself and dispatches by path.
    """

    def __init__(self, server: MCPServer[Any], *, path: str, guard: Wrap | None) -> None:
        # With a guard, Host and Origin are the guard's to judge: it knows the endpoint's public address.
        security = TransportSecuritySettings(enable_dns_rebinding_protection=False) if guard else None
        mcp_app: ASGIApp = server.streamable_http_app(streamable_http_path=path, transport_security=security)
        self._manager = server.session_manager
        # The SDK binds legacy sessions and request state to the authenticated user that this middleware publishes.
        app: ASGIApp = AuthContextMiddleware(mcp_app)
        if guard is None:
            warnings.warn(f"{path} of `{server.name}` is served without a guard", UnguardedWarning, stacklevel=3)
            app = _LoopbackOnly(app)
        else:
            app = guard(app)
        self.app: ASGIApp = NoTracebacks(app)
        self.path = path

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """The server's own lifespan and its sessions. Once only: make a new endpoint to serve again."""
        async with self._manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(self.running(), receive, send)
        else:
            await self.app(scope, receive, send)


class NoTracebacks:
    """A fault of ours becomes a 500 with an id, and not a traceback in the web server's log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            text = unexpected(error, what="a request")
            if not started:
                body = {"error": "server_error", "error_description": text}
                await JSONResponse(body, status_code=500)(scope, receive, send)


class _LoopbackOnly:
    """In place of a guard: requests from this machine, marked so that tools know that nobody was authenticated."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        if server is None or not is_loopback(server[0]):
            text = "This endpoint has no guard and answers only on a loopback address."
            await JSONResponse({"error": "access_denied", "error_description": text}, status_code=403)(
                scope, receive, send
            )
            return
        await self.app({**scope, UNGUARDED: True}, receive, send)


async def _lifespan(running: contextlib.AbstractAsyncContextManager[None], receive: Receive, send: Send) -> None:
    """The ASGI lifespan protocol over a context manager (ASGI spec 3.0, "Lifespan")."""
    await receive()
    try:
        async with running:
            await send({"type": "lifespan.startup.complete"})
            await receive()
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": unexpected(error, what="starting the server")})
        return
    await send({"type": "lifespan.shutdown.complete"})
