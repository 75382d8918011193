"""The embedded issuer as an ASGI app: metadata (RFC 8414), key set (RFC 7517), token endpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import cached_property
from inspect import isawaitable
from typing import Any, Final, Literal

import orjson
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from retinue.errors import ConfigError, RetinueError

from ..dpop import ADVERTISED_ALGORITHMS, Nonces, ReplayStore
from ..keys import SigningKeys
from ..request_head import host_allowed
from ..tokens import MAX_LIFETIME
from ..urls import origin, require_secure, split, well_known
from . import assertions, form
from .clients import ClientRegistry
from .errors import TokenError
from .grants import Resource, Ruling, TokenAuthority, TokenEvent
from .limits import RateLimit

MIN_LIFETIME: Final = 300

Audit = Callable[[TokenEvent], Awaitable[None] | None]


class Issuer:
    """An authorization server for machines and for the people at them (OAuth 2.1, client credentials).

    ``url`` is the issuer identifier: https, or http on loopback. ``resources`` maps the URL of each server that tokens
    may be issued for to its `Resource`; it is read at each request, so servers can be added while the issuer runs.
    ``audit`` is called with every decision; when it raises, no token is handed out. ``lifetime`` is in seconds, 300 to
    900. ``nonces=None`` asks for no DPoP nonces; by default the issuer makes its own. ``requests_per_second`` bounds
    one network address, in bursts of twice as many.
    """

    def __init__(
        self,
        url: str,
        signing_key: SigningKeys | ECKey,
        clients: ClientRegistry,
        resources: Mapping[str, Resource],
        replays: ReplayStore,
        audit: Audit | None = None,
        lifetime: int = 600,
        *,
        nonces: Nonces | Literal["own"] | None = "own",
        allowed_hosts: tuple[str, ...] = (),
        requests_per_second: float = 50.0,
    ) -> None:
        require_secure(url, "an issuer's URL")
        if url.endswith("/"):
            raise ConfigError(f"an issuer's URL does not end with a slash: {url}")
        if not MIN_LIFETIME <= lifetime <= MAX_LIFETIME:
            raise ConfigError(f"access tokens live {MIN_LIFETIME} to {MAX_LIFETIME} seconds, not {lifetime}")
        self.url = url
        self.keys = signing_key if isinstance(signing_key, SigningKeys) else SigningKeys(signing_key)
        """Also a `KeySource`, for resource servers in the same process."""
        self.token_url = f"{url}/token"
        self._resources = resources
        self._replays = replays
        self._audit = audit
        self._nonces = Nonces() if nonces == "own" else nonces
        self._hosts = tuple(host.lower() for host in allowed_hosts) or (origin(url).partition("://")[2],)
        self._rate = RateLimit(requests_per_second, 2 * requests_per_second)
        self._authority = TokenAuthority(
            url,
            keys=self.keys,
            clients=clients,
            resources=resources,
            nonces=self._nonces,
            token_url=self.token_url,
            lifetime=lifetime,
        )

    @cached_property
    def app(self) -> Starlette:
        """The ASGI app, to be served at the root of the issuer's host."""
        path = split(self.url).path
        metadata = [
            split(well_known(self.url, "oauth-authorization-server")).path,
            split(well_known(self.url, "openid-configuration")).path,
            f"{path}/.well-known/openid-configuration",
        ]
        app = Starlette(
            routes=[
                *(Route(route, self._metadata, methods=["GET"]) for route in dict.fromkeys(metadata)),
                Route(f"{path}/jwks", self._jwks, methods=["GET"]),
                Route(f"{path}/token", self._token, methods=["POST"]),
                Route(f"{path}/authorize", self._authorize, methods=["GET", "POST"]),
            ]
        )
        app.router.redirect_slashes = False  # it would redirect to whatever Host a request names
        return app

    def metadata(self) -> dict[str, Any]:
        """Authorization server metadata (RFC 8414 §2, RFC 9449 §5.1, RFC 9728 §4)."""
        return {
            "issuer": self.url,
            # Nobody signs in here with a browser; the SDK of MCP (2.3) reads no metadata without this member.
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": self.token_url,
            "jwks_uri": f"{self.url}/jwks",
            "response_types_supported": [],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": list(assertions.ALGORITHMS),
            "dpop_signing_alg_values_supported": list(ADVERTISED_ALGORITHMS),
            "scopes_supported": sorted({scope for r in self._resources.values() for scope in r.scopes}),
            "protected_resources": sorted(self._resources),
        }

    async def _metadata(self, request: Request) -> Response:
        # The answer brings a nonce, so that a client's first token request need not be sent twice.
        return self._wrong_host(request) or self._json(200, self.metadata(), with_nonce=True)

    async def _jwks(self, request: Request) -> Response:
        return self._wrong_host(request) or self._json(200, self.keys.jwks(), cache="max-age=300")

    async def _authorize(self, request: Request) -> Response:
        refusal = {"error": "unsupported_response_type", "error_description": "only client_credentials is served"}
        return self._wrong_host(request) or self._json(400, refusal)

    async def _token(self, request: Request) -> Response:
        if (wrong := self._wrong_host(request)) is not None:
            return wrong
        ruling = Ruling()
        try:
            body = await self._grant(request, ruling)
            await self._report(ruling.event)
        except TokenError as error:
            refusal = error
        except RetinueError:  # the clients, what was seen before, or the audit cannot be had: nothing is handed out
            refusal = TokenError("server_error", "try again later")
        else:
            return self._json(200, body, with_nonce=True)
        with contextlib.suppress(RetinueError):  # it is a refusal either way
            await self._report(_refused(ruling.event, refusal))
        return self._error(refusal)

    async def _grant(self, request: Request, ruling: Ruling) -> dict[str, Any]:
        if not self._rate.allows(request.client.host if request.client else ""):
            raise TokenError("temporarily_unavailable", "too many requests")
        sent = await form.read(request)
        body = self._authority.rule(sent, ruling)
        for key, expires_at in ruling.once:
            if not await self._replays.first_time(key, expires_at):
                if key.startswith("dpop "):
                    raise TokenError("invalid_dpop_proof", "the DPoP proof does not hold")
                raise TokenError("invalid_client", "client authentication failed")
        return body

    async def _report(self, event: TokenEvent) -> None:
        if self._audit is not None:
            result = self._audit(event)
            if isawaitable(result):
                await result

    def _wrong_host(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if len(hosts) == 1 and host_allowed(hosts[0], self._hosts):
            return None
        return self._json(421, {"error": "invalid_request", "error_description": "this host is not served here"})

    def _error(self, error: TokenError) -> Response:
        body = {"error": error.code, "error_description": error.description}
        response = self._json(error.status, body, with_nonce=True)
        if error.status in (429, 503):
            response.headers["retry-after"] = "1"
        return response

    def _json(self, status: int, value: object, *, cache: str = "no-store", with_nonce: bool = False) -> Response:
        response = Response(orjson.dumps(value), status, media_type="application/json")
        response.headers["cache-control"] = cache
        if cache == "no-store":
            response.headers["pragma"] = "no-cache"
        if with_nonce and self._nonces is not None:
            response.headers["dpop-nonce"] = self._nonces.issue()
        return response


def _refused(event: TokenEvent, error: TokenError) -> TokenEvent:
    return replace(event, granted=False, error=error.code, jti=None, expires_in=None)
