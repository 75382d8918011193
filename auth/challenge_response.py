"""How a refusal looks on the wire: status, challenges (RFC 6750 §3, RFC 9449 §7.1, RFC 9728 §5.1) and a body.

The body is a JSON-RPC error, so that MCP clients report why instead of a bare status; programs read the challenge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from retinue.errors import RetinueError

from .challenges import Challenge
from .dpop import ADVERTISED_ALGORITHMS, Nonces
from .refusals import InsufficientScope, InvalidProof, InvalidToken, Malformed
from .request_head import Credentials
from .resource_metadata import url_of

AUTH_ERROR: Final = -32010
"""JSON-RPC code of 401 and 403 bodies (implementation-defined range). ``data`` repeats the challenge."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def json(
        cls,
        status: int,
        value: object,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        nonces: Nonces | None = None,
        head: bool = False,
    ) -> Answer:
        body = orjson.dumps(value)
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
            *headers,
        ]
        if nonces is not None:
            fields.append((b"dpop-nonce", nonces.issue().encode("ascii")))
        return cls(status, fields, b"" if head else body)

    async def send(self, send: Callable[[MutableMapping[str, Any]], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


class Challenger:
    """Writes the refusals of one resource."""

    def __init__(self, resource: str, *, bearer: bool, scopes_supported: Sequence[str]) -> None:
        self._metadata_url = url_of(resource)
        self._bearer = bearer
        self._scopes_supported = frozenset(scopes_supported)

    def answer(
        self,
        error: RetinueError,
        *,
        sent: Credentials | None,
        needed: Callable[[], frozenset[str]],
        nonces: Nonces | None,
    ) -> tuple[int, Answer]:
        """The answer to a refused request. ``needed`` gives the operation's scopes, as far as they are known."""
        status = _status(error)
        if status >= 500:
            return status, Answer.json(status, _rpc(-32603, "the server cannot decide this now"), headers=_RETRY)
        code = None if sent is None and status == 401 else error.code
        data: dict[str, str] = {"error": code} if code else {}
        headers: list[tuple[bytes, bytes]] = []
        if status in (400, 401) or isinstance(error, InsufficientScope):
            scope = " ".join(sorted(needed() or self._scopes_supported))
            data |= {"scope": scope, "resource_metadata": self._metadata_url}
            headers = [
                (b"www-authenticate", str(c).encode("ascii")) for c in self._challenges(error, code, sent, scope)
            ]
        if status == 405:
            headers.append((b"allow", b"POST, GET, DELETE"))
        rpc_code = error.rpc_code if isinstance(error, Malformed) else AUTH_ERROR
        value = _rpc(rpc_code, error.message, data)
        return status, Answer.json(status, value, headers=headers, nonces=nonces if status in (400, 401, 403) else None)

    def _challenges(
        self, error: RetinueError, code: str | None, sent: Credentials | None, scope: str
    ) -> list[Challenge]:
        """One challenge for each kind of token that is accepted; the error is told in the one that was used."""
        told = {"error": code, "error_description": error.message} if code else {}
        common = {"scope": scope, "resource_metadata": self._metadata_url}
        by_bearer = self._bearer and sent is not None and sent.scheme == "bearer"
        algorithms = {"algs": " ".join(ADVERTISED_ALGORITHMS)}
        challenges = [Challenge("DPoP", {**({} if by_bearer else told), **common, **algorithms})]
        if self._bearer:
            challenges.append(Challenge("Bearer", {**(told if by_bearer else {}), **common}))
        return challenges


_RETRY: Final = [(b"retry-after", b"5")]


def _status(error: RetinueError) -> int:
    if isinstance(error, Malformed):
        return error.status
    if isinstance(error, InsufficientScope):
        return 403
    if isinstance(error, InvalidToken | InvalidProof):
        return 401
    return 503  # the issuer's keys or the replay store cannot be had: not decided, so not let in


def _rpc(code: int, message: str, data: dict[str, str] | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if data:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": None, "error": error}
