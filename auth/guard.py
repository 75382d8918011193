"""The guard: nothing reaches an MCP server over HTTP but a request that it has judged, byte for byte.

Pure ASGI. For each request, in this order: Host and Origin, path and method, credentials, size and encoding, token,
DPoP proof, body, routing headers, scopes. The body is read once, judged, and those exact bytes are forwarded, without
the headers that carry credentials.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from retinue.errors import ConfigError

from . import resource_metadata
from .challenge_response import Challenger
from .dpop import Nonces, ReplayStore
from .judgement import ASGIApp, Decision, Judgement, Message, Receive, Scope, ScopePolicy, Send, Settings, TokenKinds
from .tokens import AccessGrant, TokenVerifier
from .urls import origin, require_secure, split

__all__ = ["ASGIApp", "Decision", "Guard", "Message", "Receive", "Scope", "ScopePolicy", "Send", "TokenKinds"]

MAX_BODY: Final = 4 * 1024 * 1024


class Guard:
    """ASGI middleware in front of one resource (RFC 8707): every request to it needs a token for it.

    ``resource`` is the server's address as clients know it; DPoP targets are compared with it and not with what a
    proxy or a Host header says. ``tokens="dpop+bearer"`` also lets in bearer tokens of at most five minutes.
    ``nonces=None`` asks for no nonces. ``on_decision`` is called with a `Decision` before anything is forwarded or
    answered; when it raises, nothing is forwarded. ``user_factory`` makes ``scope["user"]``; by default the MCP SDK's.

    The app finds the caller in ``scope["retinue.principal"]`` and ``scope["retinue.grant"]``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        resource: str,
        verifier: TokenVerifier,
        replays: ReplayStore,
        scope_for: ScopePolicy,
        scopes_supported: Sequence[str],
        authorization_servers: Sequence[str],
        allowed_hosts: Sequence[str],
        allowed_origins: Sequence[str] = (),
        tokens: TokenKinds = "dpop",
        nonces: Nonces | None = None,
        max_body: int = MAX_BODY,
        on_decision: Callable[[Decision], Awaitable[None] | None] | None = None,
        user_factory: Callable[[AccessGrant, str], object] | None = None,
    ) -> None:
        require_secure(resource, "a guarded resource")
        if verifier.audience != resource:
            raise ConfigError(f"the verifier's audience is not the guarded resource {resource}")
        if not authorization_servers or not allowed_hosts:
            raise ConfigError("a guard needs an authorization server and a list of allowed hosts")
        if user_factory is None:
            from mcp.server.auth.middleware.auth_context import AuthContextMiddleware

            from .mcp_user import mcp_user

            # The SDK types its app more loosely than ASGI's own protocol; it is called with exactly these three.
            app, user_factory = AuthContextMiddleware(app), mcp_user
        self._app = app
        self._settings = Settings(
            app=app,
            resource=resource,
            origin=origin(resource),
            base_path=split(resource).path or "/",
            verifier=verifier,
            replays=replays,
            scope_for=scope_for,
            hosts=tuple(entry.lower() for entry in allowed_hosts),
            origins=tuple(entry.lower() for entry in allowed_origins),
            tokens=tokens,
            nonces=nonces,
            max_body=max_body,
            on_decision=on_decision,
            user_factory=user_factory,
            metadata_path=resource_metadata.path_of(resource),
            metadata=resource_metadata.document(
                resource,
                authorization_servers=authorization_servers,
                scopes_supported=scopes_supported,
                dpop_required=tokens == "dpop",
            ),
            challenger=Challenger(resource, bearer=tokens == "dpop+bearer", scopes_supported=scopes_supported),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "not served here"})
        else:
            await Judgement(self._settings, scope, receive, send).run()
