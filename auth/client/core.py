"""Tokens for one client at one issuer: fetched once for all who wait, kept, renewed, and proved with one DPoP key.

It knows no HTTP library's auth hooks; `flow` drives it from either of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import anyio
import httpx2

from retinue.errors import NotAllowed, RetinueError, SignInNeeded, Unreachable

from .. import dpop
from ..urls import origin
from . import discovery
from .credentials import ASSERTION_TYPE, Credentials
from .errors import from_token_endpoint
from .http import exchange, new_http_client

RENEW_BEFORE: Final = 60.0
"""Seconds before its end at which a token is replaced, or a fifth of its life if that is less."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and until when (on the client's monotonic clock) it is used and valid."""

    value: str = field(repr=False)
    bound: bool
    """Bound to the client's DPoP key; False is a bearer token."""
    scopes: frozenset[str]
    fresh_until: float
    valid_until: float


Key = tuple[str, frozenset[str], bool]


@dataclass(slots=True)
class _Flight:
    """A token request under way, and everybody who waits for it."""

    done: anyio.Event = field(default_factory=anyio.Event)
    outcome: Token | RetinueError | None = None


class OAuthClient:
    """Gets access tokens for resources that trust ``credentials.issuer``.

    Safe for any number of tasks of one event loop. Requests are never held up behind one another: tasks wait for each
    other only while a token that all of them need is being fetched. Without ``http`` it makes one HTTP client of its
    own, closed by `aclose`.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        key: dpop.DPoPKey | None = None,
        http: httpx2.AsyncClient | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.credentials = credentials
        self._key = key or dpop.DPoPKey.generate()
        self._http = http
        self._owns_http = http is None
        self._clock = clock
        self._issuer: discovery.IssuerMetadata | None = None
        self._resources: dict[str, discovery.ResourceMetadata] = {}
        self._tokens: dict[Key, Token] = {}
        self._flights: dict[Key, _Flight] = {}
        self._nonces: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._owns_http and self._http is not None:
            await self._http.aclose()
            self._http = None

    # Tokens

    async def token(
        self, resource: str, scopes: frozenset[str], *, bearer: bool = False, instead_of: Token | None = None
    ) -> Token:
        """A token for one resource with these scopes. ``instead_of`` is one that the resource has just refused.

        ``bearer`` accepts an unbound token from an issuer that does not bind any.

        Raises `SignInNeeded` (the issuer does not accept the client), `NotAllowed` (nor grant this), `Unreachable`.
        """
        key = (resource, scopes, bearer)
        while True:
            held = self._tokens.get(key)
            if held is not None and held is not instead_of and self._clock() < held.fresh_until:
                return held
            if (flight := self._flights.get(key)) is not None:
                await flight.done.wait()
            else:
                flight = await self._take_off(key, held if held is not instead_of else None)
            if isinstance(flight.outcome, Token):
                return flight.outcome
            if flight.outcome is not None:
                raise _copy(flight.outcome) from None
            # Whoever fetched it was cancelled: the next one tries.

    async def _take_off(self, key: Key, held: Token | None) -> _Flight:
        flight = self._flights[key] = _Flight()
        try:
            flight.outcome = self._tokens[key] = await self._request(*key)
        except Unreachable as error:
            still_good = held is not None and self._clock() < held.valid_until
            flight.outcome = held if still_good else error
        except RetinueError as error:
            flight.outcome = error
        finally:
            del self._flights[key]
            flight.done.set()
        return flight

    async def _request(self, resource: str, scopes: frozenset[str], bearer: bool) -> Token:
        endpoint = (await self._find_issuer()).token_endpoint
        for attempt in (1, 2):
            form = {
                "grant_type": "client_credentials",
                "scope": " ".join(sorted(scopes)),
                "resource": resource,
                "client_id": self.credentials.client_id,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": self.credentials.assertion(),
            }
            proof = dpop.create(self._key, method="POST", url=endpoint, nonce=self._nonces.get(origin(endpoint)))
            status, headers, body = await exchange(self.http, "POST", endpoint, headers={"DPoP": proof}, form=form)
            self.observe(endpoint, headers)
            if status == 200:
                return self._accept(body, scopes, bearer)
            if attempt == 2 or body.get("error") != "use_dpop_nonce":
                break
        raise from_token_endpoint(self.credentials.issuer, status, body)

    def _accept(self, body: Mapping[str, Any], asked: frozenset[str], bearer: bool) -> Token:
        value, kind, seconds = body.get("access_token"), body.get("token_type"), body.get("expires_in", 300)
        bound = isinstance(kind, str) and kind.lower() == "dpop"
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
            raise SignInNeeded(f"the issuer {self.credentials.issuer} sent no usable token")
        if not bound and not (bearer and isinstance(kind, str) and kind.lower() == "bearer"):
            raise NotAllowed(
                f"the issuer {self.credentials.issuer} sent a token that is not bound to this client's key",
                hint="Bearer tokens have to be allowed for this server.",
            )
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            seconds = 300
        granted = body.get("scope")
        scopes = frozenset(granted.split()) if isinstance(granted, str) else asked
        now = self._clock()
        return Token(value, bound, scopes, now + seconds - min(RENEW_BEFORE, seconds / 5), now + seconds)

    async def _find_issuer(self) -> discovery.IssuerMetadata:
        if self._issuer is None:
            self._issuer = await discovery.find_issuer(self.http, self.credentials.issuer, observe=self.observe)
        return self._issuer

    async def find_resource(self, resource: str, *, advertised: str | None = None) -> discovery.ResourceMetadata:
        """What a resource says about itself, once known kept. Raises `NotAllowed` when it trusts other issuers."""
        if (known := self._resources.get(resource)) is None:
            known = await discovery.find_resource(self.http, resource, advertised=advertised, observe=self.observe)
            self._resources[resource] = known
        if self.credentials.issuer not in known.authorization_servers:
            raise NotAllowed(
                f"{resource} does not trust the issuer {self.credentials.issuer}",
                hint="Register this client at an issuer that the server names.",
            )
        return known

    # Requests

    def headers(self, method: str, url: str, token: Token) -> dict[str, str]:
        """``Authorization`` and, for a bound token, a new ``DPoP`` proof for one request."""
        if not token.bound:
            return {"authorization": f"Bearer {token.value}"}
        proof = dpop.create(
            self._key, method=method, url=url, access_token=token.value, nonce=self._nonces.get(origin(url))
        )
        return {"authorization": f"DPoP {token.value}", "dpop": proof}

    def observe(self, url: str, headers: Mapping[str, str]) -> None:
        """Keep the nonce that an answer brings, for the next proof to its origin (RFC 9449 §8.2)."""
        nonce = headers.get("dpop-nonce")
        if nonce and len(nonce) <= 512:
            self._nonces[origin(url)] = nonce

    @property
    def http(self) -> httpx2.AsyncClient:
        if self._http is None:
            self._http = new_http_client(timeout=15.0)
        return self._http


def _copy(error: RetinueError) -> RetinueError:
    """For each who waited an error of its own: raising one instance in many tasks mixes their tracebacks."""
    return type(error)(error.message, hint=error.hint, **error.details)
