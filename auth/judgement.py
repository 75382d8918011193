"""One request on its way through the guard: the steps in order, and its end."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Final, Literal

import anyio

from retinue.errors import RetinueError

from . import operation, request_head
from .challenge_response import Answer, Challenger
from .dpop import Nonces, ReplayStore, check
from .principal import Principal
from .refusals import InsufficientScope, InvalidProof, InvalidToken, Malformed
from .request_head import Credentials, Head
from .tokens import AccessGrant, TokenVerifier

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

ScopePolicy = Callable[[str, str | None], frozenset[str]]
"""All scopes that one operation needs, by JSON-RPC method and the tool, prompt or resource it names.

Beside JSON-RPC methods it is asked about ``"GET"`` and ``"DELETE"`` (the stream and the end of a handshake-era session)
and ``""`` (an answer to a question of the server's). An empty set asks for a valid token and no more. It is asked about
any method and name that anybody cares to send, known or not."""

TokenKinds = Literal["dpop", "dpop+bearer"]

MAX_BEARER_LIFETIME: Final = 300.0
BODY_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one request, for audit. It holds no token, no proof and no content."""

    allowed: bool
    status: int
    """The HTTP status of a refusal; 200 when the request was forwarded."""
    reason: str
    resource: str
    method: str | None = None
    name: str | None = None
    scopes_needed: frozenset[str] = frozenset()
    principal: Principal | None = None
    client_id: str | None = None
    jti: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A guard's parameters, checked and ready to compare with."""

    app: ASGIApp
    resource: str
    origin: str
    base_path: str
    verifier: TokenVerifier
    replays: ReplayStore
    scope_for: ScopePolicy
    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    tokens: TokenKinds
    nonces: Nonces | None
    max_body: int
    on_decision: Callable[[Decision], Awaitable[None] | None] | None
    user_factory: Callable[[AccessGrant, str], object]
    metadata_path: str
    metadata: dict[str, Any]
    challenger: Challenger


class _Disconnected(Exception):
    """The client went away before it had sent its body."""


class Judgement:
    """One request on its way through the guard."""

    def __init__(self, settings: Settings, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = settings, scope, receive, send
        self._head = Head(scope["headers"])
        self._url = ""
        self._sent: Credentials | None = None
        self._granted: AccessGrant | None = None
        self._wanted: operation.Operation | None = None
        self._needed: frozenset[str] = frozenset()

    async def run(self) -> None:
        try:
            early = self._before_credentials()
            if early is not None:
                await early.send(self._send)
                return
            grant, body = await self._admit()
            await self._report(allowed=True, status=200, reason="")
        except _Disconnected:
            return
        except RetinueError as error:
            await self._refuse(error)
            return
        await self._forward(grant, body)

    # The steps, in order

    def _before_credentials(self) -> Answer | None:
        guard, head, method = self._guard, self._head, str(self._scope["method"])
        if head.size > request_head.MAX_HEADERS:
            raise Malformed("the headers are too large", status=431)
        if not request_head.host_allowed(head.one("host"), guard.hosts):
            raise Malformed("this host is not served here", status=421)
        if (sent_from := head.one("origin")) is not None and not request_head.host_allowed(sent_from, guard.origins):
            raise Malformed("this origin may not call this server", status=403)
        path = request_head.path_of(self._scope)
        if path == guard.metadata_path and method in ("GET", "HEAD"):
            return Answer.json(200, guard.metadata, nonces=guard.nonces, head=method == "HEAD")
        if path != guard.base_path and not path.startswith(guard.base_path.rstrip("/") + "/"):
            raise Malformed("nothing is served at this path", status=404)
        if method not in ("POST", "GET", "DELETE"):
            raise Malformed("only POST, GET and DELETE are served", status=405)
        self._url = guard.origin + path
        return None

    async def _admit(self) -> tuple[AccessGrant, bytes]:
        guard, head = self._guard, self._head
        if b"access_token=" in self._scope.get("query_string", b""):
            raise Malformed("a token belongs in the Authorization header, never in a URL")
        self._sent = head.credentials()
        if self._sent is None:
            raise InvalidToken("no token was sent")
        head.check_body_headers(guard.max_body)
        self._granted = grant = await self._authenticate(self._sent)
        body = await self._read_body()
        self._wanted = wanted = self._operation(body)
        self._needed = guard.scope_for(wanted.method, wanted.name)
        if not self._needed <= grant.scopes:
            raise InsufficientScope("the token does not allow this operation")
        return grant, body

    async def _authenticate(self, sent: Credentials) -> AccessGrant:
        guard = self._guard
        if sent.scheme == "bearer":
            if guard.tokens == "dpop":
                raise InvalidToken("bearer tokens are not accepted here")
            grant = await guard.verifier.verify(sent.token)
            if grant.jkt is not None:
                raise InvalidToken("a DPoP-bound token is not a bearer token")
            if grant.lifetime > MAX_BEARER_LIFETIME:
                raise InvalidToken("a bearer token may live no longer than five minutes here")
            return grant
        proofs = self._head.values.get("dpop", [])
        if len(proofs) != 1:
            raise InvalidProof("exactly one DPoP proof is needed")
        grant = await guard.verifier.verify(sent.token)
        if grant.jkt is None:
            raise InvalidToken("the token is not bound to a DPoP key")
        proof = check(
            proofs[0],
            method=str(self._scope["method"]),
            url=self._url,
            access_token=sent.token,
            jkt=grant.jkt,
            nonces=guard.nonces,
        )
        if not await guard.replays.first_time(proof.replay_key, proof.expires_at):
            raise InvalidProof("the proof was used before")
        return grant

    async def _read_body(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        with anyio.move_on_after(BODY_TIMEOUT):
            while True:
                message = await self._receive()
                if message["type"] != "http.request":
                    raise _Disconnected
                chunk: bytes = message.get("body", b"")
                size += len(chunk)
                if size > self._guard.max_body:
                    raise Malformed("the body is too large", status=413)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
        raise Malformed("the body did not arrive in time", status=408)

    def _operation(self, body: bytes) -> operation.Operation:
        method = str(self._scope["method"])
        if method != "POST":
            if body:
                raise Malformed(f"a {method} request has no body")
            return operation.Operation(operation.STREAM if method == "GET" else operation.END_SESSION)
        self._head.check_json()
        wanted = operation.read(body)
        operation.check_headers(wanted, self._head.values)
        return wanted

    # Its end

    async def _forward(self, grant: AccessGrant, body: bytes) -> None:
        guard = self._guard
        scope = dict(self._scope)
        scope["headers"] = request_head.forwarded_headers(self._scope["headers"])
        scope["user"] = guard.user_factory(grant, guard.resource)
        scope["retinue.principal"] = grant.principal
        scope["retinue.grant"] = grant
        pending: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def receive() -> Message:
            nonlocal pending
            if pending is not None:
                message, pending = pending, None
                return message
            return await self._receive()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and guard.nonces is not None:
                nonce = (b"dpop-nonce", guard.nonces.issue().encode("ascii"))
                message = {**message, "headers": [*message.get("headers", ()), nonce]}
            await self._send(message)

        await guard.app(scope, receive, send)

    async def _refuse(self, error: RetinueError) -> None:
        guard = self._guard
        status, answer = guard.challenger.answer(
            error, sent=self._sent, needed=lambda: self._needed or self._hint(), nonces=guard.nonces
        )
        with contextlib.suppress(RetinueError):  # it is a refusal either way
            await self._report(allowed=False, status=status, reason=error.message)
        await answer.send(self._send)

    def _hint(self) -> frozenset[str]:
        """Scopes to ask for, from headers that nobody has checked: good for a challenge and for nothing else."""
        method, name = (self._head.values.get(header, [None])[0] for header in ("mcp-method", "mcp-name"))
        if method is None:
            return self._guard.scope_for("initialize", None)
        return self._guard.scope_for(method, None if name is None else operation.decode_header(name))

    async def _report(self, *, allowed: bool, status: int, reason: str) -> None:
        if self._guard.on_decision is None:
            return
        grant, wanted = self._granted, self._wanted
        decision = Decision(
            allowed=allowed,
            status=status,
            reason=reason,
            resource=self._guard.resource,
            method=wanted.method if wanted else None,
            name=wanted.name if wanted else None,
            scopes_needed=self._needed,
            principal=grant.principal if grant else None,
            client_id=grant.client_id if grant else None,
            jti=grant.jti if grant else None,
        )
        result = self._guard.on_decision(decision)
        if isawaitable(result):
            await result
