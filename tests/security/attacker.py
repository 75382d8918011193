"""An attacker of a real guarded server: tokens, proofs and requests made by hand, and a record of what got through.

Nothing here uses the project's own code to sign or to send: a mistake that maker and checker share would hide itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncGenerator, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from joserfc.jwk import ECKey, Key
from joserfc.jws import JWSRegistry

from retinue.auth.keys import SigningKeys, load_or_create_key
from retinue.mcp_servers.builtin import serve_builtin
from retinue.mcp_servers.kit.checked import CheckedServer
from retinue.mcp_servers.knowledge import knowledge_server
from retinue.mcp_servers.standalone import AuthFiles, serve_one_http
from retinue.mcp_servers.workspace import workspace_server

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
ACCEPT = "application/json, text/event-stream"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "attacker", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
UNCHANGED: Any = object()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def sign(header: Mapping[str, Any], payload: bytes, key: Key, algorithm: str = "ES256") -> str:
    """A compact JWS with any header, any payload, and a signature that holds; a header of None is left out."""
    head = {name: value for name, value in {"alg": algorithm, **header}.items() if value is not None}
    signed = f"{b64(json.dumps(head).encode())}.{b64(payload)}"
    return f"{signed}.{b64(JWSRegistry.algorithms[algorithm].sign(signed.encode(), key))}"


def unsigned(header: Mapping[str, Any], payload: bytes, signature: bytes = b"") -> str:
    return f"{b64(json.dumps(header).encode())}.{b64(payload)}.{b64(signature)}"


def mac(header: Mapping[str, Any], payload: bytes, secret: bytes) -> str:
    """HS256 with any secret: a public key, for one."""
    head = f"{b64(json.dumps({'alg': 'HS256', **header}).encode())}.{b64(payload)}"
    return f"{head}.{b64(hmac.digest(secret, head.encode(), 'sha256'))}"


@dataclass
class Attacker:
    """``url`` is the knowledge server's endpoint, ``other`` another audience of the same issuer."""

    url: str
    other: str
    issuer: str
    signing: ECKey
    scope: str
    http: httpx2.AsyncClient
    reached: list[str]
    """The tools, documents and lists that a request got to."""
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))
    nonce: str = ""

    @property
    def origin(self) -> str:
        return self.url[: self.url.index("/", 8)]

    @property
    def host(self) -> str:
        return self.origin.removeprefix("http://")

    @property
    def path(self) -> str:
        return self.url.removeprefix(self.origin)

    @property
    def jwk(self) -> dict[str, Any]:
        return dict(self.key.as_dict(private=False))

    # Tokens and proofs

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a good access token; a change of None leaves one out."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": "somebody",
            "aud": self.url,
            "client_id": "somebody",
            "scope": self.scope,
            "iat": now,
            "exp": now + 600,
            "jti": uuid.uuid4().hex,
            "cnf": {"jkt": self.key.thumbprint()},
        }
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        """``typ`` and ``kid`` of a good access token, but for the changes."""
        return {"typ": "at+jwt", "kid": self.signing.thumbprint(), **changes}

    def token(self, *, header: Mapping[str, Any] | None = None, key: Key | None = None, **changes: Any) -> str:
        payload = json.dumps(self.claims(**changes)).encode()
        return sign(self.header(**(header or {})), payload, key or self.signing)

    def proof_claims(self, token: str, **changes: Any) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "jti": uuid.uuid4().hex,
            "htm": "POST",
            "htu": self.url,
            "iat": int(time.time()),
            "ath": b64(hashlib.sha256(token.encode()).digest()),
            "nonce": self.nonce,
        }
        return {name: value for name, value in {**claims, **changes}.items() if value is not None}

    def proof(
        self, token: str, *, header: Mapping[str, Any] | None = None, key: ECKey | None = None, **changes: Any
    ) -> str:
        key = key or self.key
        head: dict[str, Any] = {"typ": "dpop+jwt", "jwk": dict(key.as_dict(private=False)), **(header or {})}
        return sign(head, json.dumps(self.proof_claims(token, **changes)).encode(), key)

    # Requests

    def message(self, method: str = "tools/call", **params: Any) -> bytes:
        """By default a search, as a client of the newest protocol asks for it."""
        found = {"name": "search", "arguments": {"query": "side effect"}, "_meta": META, **params}
        kept = {name: value for name, value in found.items() if value is not None}
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": kept}).encode()

    def routing(self, method: str = "tools/call", name: str | None = "search") -> dict[str, str | None]:
        return {"mcp-protocol-version": MODERN, "mcp-method": method, "mcp-name": name}

    def raw_headers(
        self, token: str | None = UNCHANGED, proof: str | None = UNCHANGED, method: str = "POST"
    ) -> list[tuple[str, str]]:
        """Those of a good request, for `raw`."""
        token = self.token() if token is UNCHANGED else token
        fields: dict[str, str | None] = {
            "host": self.host,
            "content-type": "application/json",
            "accept": ACCEPT,
            "authorization": None if token is None else f"DPoP {token}",
            "dpop": self.proof(token or "", htm=method) if proof is UNCHANGED else proof,
            **self.routing(),
        }
        return [(name, value) for name, value in fields.items() if value is not None]

    async def send(
        self,
        *,
        token: str | None = UNCHANGED,
        proof: str | None = UNCHANGED,
        scheme: str = "DPoP",
        body: bytes | None = UNCHANGED,
        headers: Mapping[str, str | None] | None = None,
        also: list[tuple[str, str]] | None = None,
        method: str = "POST",
        url: str | None = None,
    ) -> httpx2.Response:
        """A good request but for what is given. A header of None is left out; those of ``also`` come on top."""
        token = self.token() if token is UNCHANGED else token
        fields: dict[str, str | None] = {
            "content-type": "application/json",
            "accept": ACCEPT,
            "authorization": None if token is None else f"{scheme} {token}",
            "dpop": self.proof(token or "", htm=method) if proof is UNCHANGED else proof,
            **(self.routing() if method == "POST" else {"mcp-protocol-version": LEGACY}),
            **(headers or {}),
        }
        listed = [(name, value) for name, value in fields.items() if value is not None] + (also or [])
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in listed]
        content = (self.message() if method == "POST" else None) if body is UNCHANGED else body
        with anyio.fail_after(10):
            response = await self.http.request(method, url or self.url, headers=encoded, content=content)
        self.nonce = response.headers.get("dpop-nonce", self.nonce)
        return response

    async def raw(
        self,
        headers: list[tuple[str, str]],
        body: bytes = b"",
        *,
        target: str | None = None,
        method: str = "POST",
        line: str | None = None,
        length: bool = True,
    ) -> tuple[int, bytes]:
        """A request byte for byte; its status (0: hung up without one) and the whole answer."""
        target = self.path if target is None else target
        lines = [line or f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if length:
            lines.append(f"content-length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\nconnection: close\r\n\r\n").encode("latin-1")
        return await self.exchange(head + body)

    async def exchange(self, data: bytes) -> tuple[int, bytes]:
        host, _, port = self.host.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        answer = b""
        try:
            with anyio.fail_after(10):
                writer.write(data)
                await writer.drain()
                while chunk := await reader.read(65536):
                    answer += chunk
        except ConnectionError:
            pass
        finally:
            writer.close()
        return (int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0), answer

    async def session(self, **changes: Any) -> str:
        """Open a session of the handshake era with a good token; returns its id."""
        greeting = {
            "jsonrpc": "2.0",
            "id": 0,
            "method": "initialize",
            "params": {
                "protocolVersion": LEGACY,
                "capabilities": {},
                "clientInfo": {"name": "attacker", "version": "0"},
            },
        }
        opened = await self.send(
            token=self.token(**changes), body=json.dumps(greeting).encode(), headers=dict.fromkeys(self.routing())
        )
        assert opened.status_code == 200, opened.text
        found = opened.headers["mcp-session-id"]
        ready = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()
        done = await self.send(token=self.token(**changes), body=ready, headers=self.legacy(found))
        assert done.status_code == 202, done.text
        return found

    def legacy(self, session: str | None) -> dict[str, str | None]:
        """Headers of a request of the handshake era."""
        return {**dict.fromkeys(self.routing()), "mcp-protocol-version": LEGACY, "mcp-session-id": session}

    def refused(self, response: httpx2.Response, status: int, error: str = "", *, scope: str | None = None) -> None:
        """It was refused as the reference says, with a challenge that helps a client and tells a thief nothing."""
        assert response.status_code == status, (response.status_code, response.text)
        assert self.reached == []
        assert response.headers["cache-control"] == "no-store"
        challenges = response.headers.get_list("www-authenticate")
        if status not in (400, 401) and error != "insufficient_scope":
            assert challenges == []
            return
        (challenge,) = challenges
        assert challenge.startswith("DPoP ")
        assert f'scope="{scope or self.scope}"' in challenge
        metadata = f"{self.origin}/.well-known/oauth-protected-resource{self.path}"
        assert f'resource_metadata="{metadata}"' in challenge
        assert 'algs="ES256 Ed25519"' in challenge
        assert (f'error="{error}"' in challenge) if error else ("error=" not in challenge)
        assert response.headers["dpop-nonce"]
        body = response.json()
        assert body["jsonrpc"] == "2.0"
        assert body["error"]["data"].get("error", "") == error


# The server


@contextlib.contextmanager
def _recorded() -> Generator[list[str]]:
    """Everything that gets through to the server itself, on its way to a tool, a document or a list."""
    reached: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("call_tool", "read_resource", "list_tools", "list_resources", "get_prompt"):
            original: Any = getattr(CheckedServer, name)

            def watched(self: Any, *args: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
                reached.append(" ".join([_name, *(arg for arg in args[:1] if isinstance(arg, str))]))
                return _original(self, *args, **options)

            patch.setattr(CheckedServer, name, watched)
        yield reached


def _library(folder: Path) -> Path:
    library = folder / "library"
    library.mkdir()
    text = "# Effects\n\nA side effect is kept from happening twice by the key that its call carries with it.\n"
    (library / "effects.md").write_text(text, encoding="utf-8")
    return library


def _http() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(trust_env=False, verify=False, timeout=10)


@contextlib.asynccontextmanager
async def of_a_run(folder: Path) -> AsyncGenerator[Attacker]:
    """The knowledge server as a run serves it, beside a workspace."""
    keys = SigningKeys.generate()
    with _recorded() as reached, pytest.MonkeyPatch.context() as patch:
        patch.setattr(SigningKeys, "generate", lambda: keys)
        servers = {"knowledge": knowledge_server(_library(folder)), "workspace": workspace_server(folder / "out")}
        async with serve_builtin(servers, subject="somebody") as builtin, _http() as http:
            yield Attacker(
                builtin.urls["knowledge"],
                builtin.urls["workspace"],
                builtin.issuer,
                keys.current,
                "knowledge:read",
                http,
                reached,
            )


@contextlib.asynccontextmanager
async def of_a_command(folder: Path) -> AsyncGenerator[Attacker]:
    """The knowledge server as a program of its own: ``retinue mcp serve knowledge --http``."""
    keys = load_or_create_key(AuthFiles(folder / "state").prepare().issuer_key)
    urls: list[str] = []
    up = anyio.Event()

    def announce(url: str) -> None:
        urls.append(url)
        up.set()

    async def serve() -> None:
        await serve_one_http(knowledge_server(_library(folder)), "127.0.0.1", 0, folder / "state", announce=announce)

    with _recorded() as reached:
        async with anyio.create_task_group() as group, _http() as http:
            group.start_soon(serve)
            with anyio.fail_after(20):
                await up.wait()
            (url,) = urls
            origin = url.removesuffix("/mcp")
            yield Attacker(
                url, f"{origin}/workspace/mcp", f"{origin}/issuer", keys.current, "knowledge:read", http, reached
            )
            group.cancel_scope.cancel()


SERVED = {"run": of_a_run, "command": of_a_command}
