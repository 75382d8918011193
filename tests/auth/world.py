"""A small world on loopback: an issuer, a guarded server that records what reaches it, and a client of both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
import uvicorn
from joserfc.jwk import ECKey, Key

from retinue.auth import dpop, tokens
from retinue.auth.client import Credentials, DPoPAuth, OAuthClient
from retinue.auth.dpop import DPoPKey, MemoryReplayStore, Nonces, ReplayStore
from retinue.auth.guard import ASGIApp, Decision, Guard, Message, Receive, Scope, Send, TokenKinds
from retinue.auth.issuer import Client, Issuer, MemoryClients, Resource, TokenEvent
from retinue.auth.keys import SigningKeys, new_key, public_jwks
from retinue.auth.tokens import TokenVerifier

TLS = ssl.create_default_context()  # 15 ms each, and nothing here is encrypted
SCOPES = frozenset({"library:read", "library:write"})
VERSION = "2026-07-28"


class Server(uvicorn.Server):
    """uvicorn in this process, without signals and polling."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
        super().__init__(config)
        self.ended = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def main_loop(self) -> None:
        await self.ended.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def bind() -> tuple[socket.socket, str]:
    """A listening socket on a free port, and its origin."""
    # With the protocol named, asyncio turns Nagle's algorithm off; without, every answer waits 40 ms for an ACK.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock, f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(*apps: tuple[Any, socket.socket]) -> AsyncGenerator[None]:
    servers = [(Server(app), sock) for app, sock in apps]
    async with anyio.create_task_group() as group:
        for server, sock in servers:
            group.start_soon(server.serve, [sock])
        try:
            yield
        finally:
            for server, _ in servers:
                server.ended.set()


@dataclass(frozen=True)
class In:
    """A time in so many seconds from when the test runs, not from when it was collected."""

    seconds: int


def resolved(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: int(time.time()) + v.seconds if isinstance(v, In) else v for name, v in changes.items()}


@dataclass
class Seen:
    """One request that got past the guard."""

    scope: Scope
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.scope["headers"]}


class Recorder:
    """The app behind the guard."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message: Message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.seen.append(Seen(scope, body))
        answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": answer})


class Published:
    """The issuer's keys as a resource server sees them; any of them can be withdrawn."""

    def __init__(self, keys: SigningKeys) -> None:
        self._keys = keys
        self.withdrawn: set[str] = set()

    async def find(self, kid: str) -> Key | None:
        return None if kid in self.withdrawn else await self._keys.find(kid)


def scope_for(method: str, name: str | None) -> frozenset[str]:
    if method in ("tools/call", "resources/read"):
        return SCOPES if name == "write" else frozenset({"library:read"})
    return frozenset()


def message(tool: str = "search", **arguments: Any) -> bytes:
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()


def routing(tool: str = "search") -> dict[str, str]:
    """The headers of protocol 2026-07-28."""
    return {"mcp-protocol-version": VERSION, "mcp-method": "tools/call", "mcp-name": tool}


@dataclass
class World:
    issuer: Issuer
    resource: str
    keys: SigningKeys
    client_key: ECKey
    guard: Guard
    app: Recorder
    http: httpx2.AsyncClient
    nonces: Nonces | None
    replays: ReplayStore
    clients: MemoryClients
    published: Published
    resources: dict[str, Resource]
    decisions: list[Decision]
    grants: list[TokenEvent]
    key: DPoPKey = field(default_factory=DPoPKey.generate)

    def twin(self, replays: ReplayStore, base: str) -> Guard:
        """The same server once more, as another worker behind one address would be."""
        return Guard(
            self.app,
            resource=self.resource,
            verifier=TokenVerifier(self.issuer.url, self.resource, self.keys),
            replays=replays,
            scope_for=scope_for,
            scopes_supported=sorted(SCOPES),
            authorization_servers=[self.issuer.url],
            allowed_hosts=[self.resource.split("/")[2], base.removeprefix("http://")],
        )

    def token(self, **changes: Any) -> str:
        """An access token as the issuer makes them, but for the changes."""
        claims: dict[str, Any] = {
            "issuer": self.issuer.url,
            "subject": "local",
            "audience": self.resource,
            "client_id": "local",
            "scopes": ["library:read"],
            "jkt": self.key.jkt,
        }
        key: ECKey = changes.pop("key", self.keys.current)
        return tokens.issue(key, **{**claims, **changes})

    def proof(self, token: str | None, **changes: Any) -> str:
        options: dict[str, Any] = {
            "method": "POST",
            "url": self.resource,
            "access_token": token,
            "nonce": self.nonces.issue() if self.nonces else None,
        }
        key: DPoPKey = changes.pop("key", self.key)
        return dpop.create(key, **{**options, **changes})

    async def send(
        self,
        *,
        token: str | None = None,
        scheme: str = "DPoP",
        proof: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
        url: str | None = None,
        method: str = "POST",
        also: list[tuple[str, str]] | None = None,
    ) -> httpx2.Response:
        """A good request, but for what is given. A header of None is left out; ``also`` are added as they are."""
        token = self.token() if token is None else token
        fields: dict[str, str | None] = {
            "authorization": f"{scheme} {token}",
            "dpop": proof if proof is not None else self.proof(token, method=method),
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            **(headers or {}),
        }
        kept = [(name, value) for name, value in fields.items() if value is not None]
        raw = [(name.encode(), value.encode("latin-1")) for name, value in [*kept, *(also or [])]]
        content = message() if body is None and method == "POST" else body
        return await self.http.request(method, url or self.resource, headers=raw, content=content)


READ = frozenset({"library:read"})


def oauth(world: World, *, http: httpx2.AsyncClient | None = None, **options: Any) -> OAuthClient:
    """The world's registered client."""
    credentials = Credentials(world.issuer.url, "local", world.client_key)
    return OAuthClient(credentials, http=http or world.http, **options)


class Caller:
    """Calls tools of the guarded server through a `DPoPAuth`."""

    def __init__(self, world: World, http: httpx2.AsyncClient) -> None:
        self._world, self._http = world, http

    async def __call__(self, tool: str = "search", *, url: str | None = None) -> httpx2.Response:
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        return await self._http.post(url or self._world.resource, content=message(tool), headers=headers)


@contextlib.asynccontextmanager
async def calling(world: World, *, client: OAuthClient | None = None, **options: Any) -> AsyncGenerator[Caller]:
    auth = DPoPAuth(client or oauth(world), world.resource, **options)
    async with httpx2.AsyncClient(auth=auth, verify=TLS) as http:
        yield Caller(world, http)


@contextlib.asynccontextmanager
async def new_world(
    *,
    kinds: TokenKinds = "dpop",
    nonces: bool = False,
    replays: ReplayStore | None = None,
    app: ASGIApp | None = None,
    origins: tuple[str, ...] = (),
    max_body: int = 64 * 1024,
    lifetime: int = 600,
    requests_per_second: float = 1000.0,
    token_cache: int = 4096,
) -> AsyncGenerator[World]:
    issuer_socket, issuer_url = bind()
    sock, base = bind()
    resource = f"{base}/mcp"
    keys, client_key, recorder = SigningKeys.generate(), new_key(), Recorder()
    store = replays or MemoryReplayStore()
    clients = MemoryClients([Client("local", public_jwks(client_key), {resource: SCOPES})])
    resources = {resource: Resource(SCOPES, kinds)}
    decisions: list[Decision] = []
    grants: list[TokenEvent] = []
    issuer = Issuer(
        issuer_url,
        keys,
        clients,
        resources,
        store,
        grants.append,
        lifetime,
        requests_per_second=requests_per_second,
    )
    made = Nonces() if nonces else None
    published = Published(keys)
    guard = Guard(
        app or recorder,
        resource=resource,
        verifier=TokenVerifier(issuer_url, resource, published, cache_size=token_cache),
        replays=store,
        scope_for=scope_for,
        scopes_supported=sorted(SCOPES),
        authorization_servers=[issuer_url],
        allowed_hosts=[base.removeprefix("http://")],
        allowed_origins=origins,
        tokens=kinds,
        nonces=made,
        max_body=max_body,
        on_decision=decisions.append,
    )
    async with serving((issuer.app, issuer_socket), (guard, sock)), httpx2.AsyncClient(verify=TLS) as http:
        yield World(
            issuer=issuer,
            resource=resource,
            resources=resources,
            keys=keys,
            published=published,
            client_key=client_key,
            clients=clients,
            guard=guard,
            app=recorder,
            http=http,
            nonces=made,
            replays=store,
            decisions=decisions,
            grants=grants,
        )
