"""The built-in servers that a run needs, in the run's own process: guarded, on a loopback socket with a free port.

They are reached over real HTTP with real tokens, so what holds for a server on another machine holds here, and nothing
that an agent can reach is open to other programs of this machine. Keys live as long as the process.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Final

import anyio
import httpx2

from retinue.errors import ConfigError

from ..auth.client import Credentials, DPoPAuth, OAuthClient
from ..auth.issuer import Client, MemoryClients
from ..auth.keys import SigningKeys, new_key, public_jwks
from ..auth.replays import MemoryReplayStore
from .kit import ToolServer, bind, origin_of, serving
from .site import OnDecision, OnToken, Site

LOOPBACK: Final = "127.0.0.1"

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""A name becomes a part of a URL's path as it is."""

CALL_TIMEOUT: Final = httpx2.Timeout(10.0, read=300.0, pool=None)
"""A server answers within its tools' own timeouts; a call waits for a free connection as long as it takes."""


class BuiltIn:
    """Servers that are up. ``urls`` maps each name to the URL of its endpoint, which is its tokens' audience."""

    def __init__(self, urls: Mapping[str, str], oauth: OAuthClient, tls: ssl.SSLContext) -> None:
        self.urls = MappingProxyType(dict(urls))
        self._oauth = oauth
        self._tls = tls
        self._clients: dict[tuple[str, frozenset[str]], httpx2.AsyncClient] = {}

    @property
    def issuer(self) -> str:
        return self._oauth.credentials.issuer

    def http_client(self, server: str, scopes: Iterable[str]) -> httpx2.AsyncClient:
        """An HTTP client for one server, given by name or URL, whose tokens grant these scopes and never more.

        The same server and scopes get the same client with its open connections. It is closed with the servers.
        """
        url = self.urls.get(server, server)
        if url not in self.urls.values():
            raise ConfigError(f"{server!r} is none of the servers that were started", hint=f"There is {self._names}.")
        wanted = frozenset(scopes)
        if not wanted:
            raise ConfigError(f"a client of {server!r} needs at least one scope")
        client = self._clients.get((url, wanted))
        if client is None or client.is_closed:
            client = self._clients[url, wanted] = _new_client(self._tls, DPoPAuth(self._oauth, url, scopes=wanted))
        return client

    @property
    def _names(self) -> str:
        return ", ".join(self.urls) or "none"

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        await self._oauth.aclose()


@asynccontextmanager
async def serve_builtin(
    servers: Mapping[str, ToolServer],
    *,
    subject: str = "local",
    on_decision: OnDecision | None = None,
    on_token: OnToken | None = None,
) -> AsyncGenerator[BuiltIn]:
    """Serve these while the body runs, each at ``/NAME/mcp``, with an issuer of their own.

    ``subject`` is whom the run works for: the subject of its tokens. ``on_decision`` and ``on_token`` are told of each
    request and each token, for audit.
    """
    if wrong := [name for name in servers if not _NAME.fullmatch(name)]:
        raise ConfigError(f"{wrong[0]!r} cannot be the name of a server", hint="A letter, then letters, digits, - _ .")
    with bind(LOOPBACK, 0) as sock:
        client_key, clients = new_key(), MemoryClients()
        site = Site(
            origin_of(sock),
            keys=SigningKeys.generate(),
            clients=clients,
            replays=MemoryReplayStore(),
            on_decision=on_decision,
            on_token=on_token,
        )
        urls = {name: site.add(server, f"/{name}/mcp") for name, server in servers.items()}
        scopes = {urls[name]: frozenset(server.scopes_supported) for name, server in servers.items()}
        clients.add(Client(subject, public_jwks(client_key), scopes))

        tls = _trusting_nobody()
        oauth_http = _new_client(tls, None)
        oauth = OAuthClient(Credentials(site.issuer.url, subject, client_key), http=oauth_http)
        # The first proof carries a nonce already, so that no request has to be sent twice.
        oauth.observe(site.origin, {"dpop-nonce": site.nonces.issue()})
        builtin = BuiltIn(urls, oauth, tls)
        async with serving(site, sock, beside=site.running()):
            try:
                yield builtin
            finally:
                with anyio.CancelScope(shield=True):
                    await builtin.aclose()
                    await oauth_http.aclose()


def _new_client(tls: ssl.SSLContext, auth: httpx2.Auth | None) -> httpx2.AsyncClient:
    """``trust_env=False``: no proxy of the user's gets to see loopback traffic. Idle connections are closed here before
    the server closes them, so that no request is lost on one."""
    return httpx2.AsyncClient(
        auth=auth,
        verify=tls,
        trust_env=False,
        timeout=CALL_TIMEOUT,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0),
    )


def _trusting_nobody() -> ssl.SSLContext:
    """A TLS context without any authority. Loopback is plain http; whatever else a client is sent to fails. Loading the
    system's authorities would cost more than all the rest of the start."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
