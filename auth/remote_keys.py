"""An issuer's key set over HTTP (RFC 7517 §5), with the limits that a stranger's input needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import anyio
from joserfc.jwk import Key

from retinue.errors import Unreachable

from . import strict_json
from .keys import parse_jwks
from .urls import require_secure

if TYPE_CHECKING:
    import httpx2  # 0.1 s to import, which a verifier with local keys need not pay

MAX_BYTES: Final = 256 * 1024


class RemoteKeys:
    """`KeySource` over an issuer's ``jwks_uri``.

    The set is fetched when first needed, again after ``ttl`` seconds, and for an unknown key id at most every
    ``min_interval`` seconds, because whoever sends a token chooses its key id. When the issuer cannot be reached the
    last good set serves for ``keep`` seconds more; after that every token is refused. Redirects are not followed.
    """

    def __init__(
        self,
        url: str,
        *,
        http: httpx2.AsyncClient | None = None,
        ttl: float = 300.0,
        min_interval: float = 10.0,
        keep: float = 3600.0,
        max_keys: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = require_secure(url, "a key set's address")
        self._http = http
        self._owns_http = http is None
        self._ttl, self._min_interval, self._keep, self._max_keys = ttl, min_interval, keep, max_keys
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._lock = anyio.Lock()

    async def find(self, kid: str) -> Key | None:
        if not self._needs_fetch(kid):
            return self._known(kid)
        async with self._lock:
            if self._needs_fetch(kid):
                self._tried_at = self._clock()
                await self._fetch()
        return self._known(kid)

    async def aclose(self) -> None:
        if self._owns_http and self._http is not None:
            await self._http.aclose()
            self._http = None

    def _age(self) -> float | None:
        return None if self._fetched_at is None else self._clock() - self._fetched_at

    def _needs_fetch(self, kid: str) -> bool:
        age = self._age()
        if age is not None and age < self._ttl and kid in self._keys:
            return False
        return self._tried_at is None or self._clock() - self._tried_at >= self._min_interval

    def _known(self, kid: str) -> Key | None:
        age = self._age()
        if age is None or age > self._ttl + self._keep:
            raise Unreachable("the issuer's key set cannot be fetched", hint="Check the issuer and the network.")
        return self._keys.get(kid)

    async def _fetch(self) -> None:
        import httpx2

        if self._http is None:
            self._http = httpx2.AsyncClient(timeout=10.0)
        try:
            found = parse_jwks(await self._get(self._http), max_keys=self._max_keys)
        except (httpx2.HTTPError, ValueError, OSError):
            return  # the last good set stays
        if found:
            self._keys, self._fetched_at = found, self._clock()

    async def _get(self, http: httpx2.AsyncClient) -> dict[str, Any]:
        request = http.build_request("GET", self._url, headers={"accept": "application/json"})
        response = await http.send(request, stream=True, auth=None, follow_redirects=False)
        try:
            if response.status_code != 200:
                raise ValueError("not a key set")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("the key set is too large")
        finally:
            await response.aclose()
        return strict_json.loads_object(bytes(body))
