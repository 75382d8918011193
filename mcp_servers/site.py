"""One origin's guarded servers, and the issuer of their tokens, as one ASGI app.

    /NAME/mcp                                             a server, behind a guard of its own
    /.well-known/oauth-protected-resource/NAME/mcp        what it says about itself (RFC 9728)
    /issuer/token, /issuer/jwks                           the issuer
    /.well-known/oauth-authorization-server/issuer        what it says about itself (RFC 8414)

Each server is an audience of its own: the token for one is refused by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from retinue.errors import ConfigError

from ..auth import resource_metadata, urls
from ..auth.guard import Guard, TokenKinds
from ..auth.issuer import ClientRegistry, Issuer, Resource
from ..auth.keys import SigningKeys
from ..auth.nonces import Nonces
from ..auth.replays import ReplayStore
from ..auth.tokens import TokenVerifier
from .kit import Endpoint, NoTracebacks, ToolServer
from .tally import OnDecision, OnToken, Tally

__all__ = ["ISSUER_PATH", "OnDecision", "OnToken", "Site"]

ISSUER_PATH: Final = "/issuer"


class Site:
    """``origin`` is how clients reach the socket: ``scheme://host[:port]``."""

    def __init__(
        self,
        origin: str,
        *,
        keys: SigningKeys,
        clients: ClientRegistry,
        replays: ReplayStore,
        tokens: TokenKinds = "dpop",
        on_decision: OnDecision | None = None,
        on_token: OnToken | None = None,
    ) -> None:
        self.origin = urls.origin(urls.require_secure(origin, "the servers' address"))
        self._hosts = (self.origin.partition("://")[2],)
        # A client keeps one nonce an origin (RFC 9449 §8.2), so all who ask for nonces here make the same.
        self.nonces = Nonces()
        self._replays = replays
        self._tokens: TokenKinds = tokens
        self._tally = Tally(on_decision, on_token)
        self._resources: dict[str, Resource] = {}
        self.issuer = Issuer(
            self.origin + ISSUER_PATH,
            keys,
            clients,
            self._resources,
            replays,
            self._tally.token,
            nonces=self.nonces,
            allowed_hosts=self._hosts,
        )
        self._issuer_app: ASGIApp = NoTracebacks(self.issuer.app)
        self._endpoints: list[Endpoint] = []
        self._by_path: dict[str, Endpoint] = {}

    def add(self, server: ToolServer, path: str) -> str:
        """Serve a server at a path; return its URL, which is also its tokens' audience."""
        url = self.origin + path
        metadata_path = resource_metadata.path_of(url)
        if {path, metadata_path} & self._by_path.keys() or path.startswith((ISSUER_PATH + "/", "/.well-known/")):
            raise ConfigError(f"{path} is taken, so `{server.name}` cannot be served there", hint="Rename the server.")

        def guard(app: ASGIApp) -> ASGIApp:
            return Guard(
                app,
                resource=url,
                verifier=TokenVerifier(self.issuer.url, url, self.issuer.keys),
                replays=self._replays,
                scope_for=server.scope_for,
                scopes_supported=server.scopes_supported,
                authorization_servers=[self.issuer.url],
                allowed_hosts=self._hosts,
                tokens=self._tokens,
                nonces=self.nonces,
                on_decision=self._tally.decision,
            )

        endpoint = server.asgi(guard=guard, path=path)
        self._endpoints.append(endpoint)
        self._by_path |= {path: endpoint, metadata_path: endpoint}
        self._resources[url] = Resource(frozenset(server.scopes_supported), self._tokens)
        return url

    def running(self) -> Sequence[AbstractAsyncContextManager[None]]:
        """What has to run beside the app: each server's lifespan and sessions."""
        return [endpoint.running() for endpoint in self._endpoints]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Paths that belong to no server go to the issuer, which knows its own and answers 404 to the rest. A guard
        compares the path as it was sent, so a path that only decodes to a server's is not served."""
        app = self._by_path.get(scope["path"], self._issuer_app)
        await app(scope, receive, send)
