"""What is granted to whom: one resource, scopes within what the client and the resource allow, a bound token.

authlib's grant skeleton runs the request (it knows RFC 6749's order and errors, and further grants register in it);
every decision is a function here. The skeleton is synchronous: it is handed what was loaded, does no I/O, and what must
be remembered (used assertions and proofs) is returned for the caller to settle.
"""

# authlib ships no types: what its classes hold and return is unknown to a type checker, in this file alone.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUnknownArgumentType=false, reportMissingTypeStubs=false

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, cast

from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    ClientCredentialsGrant,
    ClientMixin,
    OAuth2Error,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload

from ..dpop import Nonces, check
from ..keys import SigningKeys
from ..refusals import InvalidProof, NonceNeeded
from ..tokens import issue, parse_scope
from .assertions import Authenticated, authenticate
from .clients import Client, ClientRegistry
from .errors import TokenError

MAX_BEARER_LIFETIME: Final = 300


@dataclass(frozen=True, slots=True)
class Resource:
    """A server that tokens may be issued for: the scopes that it knows, and whether bearer tokens are allowed."""

    scopes: frozenset[str]
    tokens: Literal["dpop", "dpop+bearer"] = "dpop"


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One request to the token endpoint, for audit. It holds no token, assertion or proof."""

    granted: bool
    error: str
    client_id: str | None
    resource: str | None
    scopes: frozenset[str] = frozenset()
    jti: str | None = None
    jkt: str | None = None
    expires_in: int | None = None


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A token request as it was sent: form parameters, each once, and the DPoP headers."""

    form: Mapping[str, str]
    resources: Sequence[str]
    proofs: Sequence[str]
    now: float


@dataclass(slots=True)
class Ruling:
    """What the core decided. ``once`` lists keys that must be new, with the time until which they matter."""

    event: TokenEvent = field(default_factory=lambda: TokenEvent(False, "", None, None))
    once: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])


class TokenAuthority:
    """Rules on token requests. ``resources`` is looked at anew for each, so servers may come and go."""

    def __init__(
        self,
        issuer: str,
        *,
        keys: SigningKeys,
        clients: ClientRegistry,
        resources: Mapping[str, Resource],
        nonces: Nonces | None,
        token_url: str,
        lifetime: int,
    ) -> None:
        self.issuer = issuer
        self.keys = keys
        self.clients = clients
        self.resources = resources
        self.nonces = nonces
        self.token_url = token_url
        self.lifetime = lifetime
        self._skeleton = _Skeleton(self)

    def rule(self, request: TokenRequest, ruling: Ruling) -> dict[str, Any]:
        """The body of the answer, if all of ``ruling.once`` is new. ``ruling.event`` tells how far the request got.

        Raises `TokenError`.
        """
        return self._skeleton.run(request, ruling)

    def resource(self, request: TokenRequest) -> tuple[str, Resource]:
        """RFC 8707: exactly one resource, and one that is registered."""
        if len(request.resources) != 1:
            raise TokenError("invalid_target", "name exactly one resource (RFC 8707)")
        name = request.resources[0]
        if (resource := self.resources.get(name)) is None:
            raise TokenError("invalid_target", "no such resource here")
        return name, resource

    def scopes(self, request: TokenRequest, client: Client, name: str, resource: Resource) -> frozenset[str]:
        """What was asked for, if all of it is allowed. Nothing is granted that was not asked for."""
        try:
            asked = parse_scope(request.form.get("scope", ""))
        except ValueError:
            raise TokenError("invalid_scope", "scope is not a list of scopes (RFC 6749 section 3.3)") from None
        if not asked:
            raise TokenError("invalid_scope", "say which scopes are needed")
        if not asked <= client.scopes.get(name, frozenset()) & resource.scopes:
            raise TokenError("invalid_scope", "a scope is not allowed to this client at this resource")
        return asked

    def binding(self, request: TokenRequest, resource: Resource, ruling: Ruling) -> str | None:
        """The thumbprint of the key to bind the token to (RFC 9449 §5); None for a bearer token."""
        if not request.proofs and resource.tokens == "dpop+bearer":
            return None
        if len(request.proofs) != 1:
            raise TokenError("invalid_dpop_proof", "exactly one DPoP proof is needed")
        try:
            proof = check(request.proofs[0], method="POST", url=self.token_url, nonces=self.nonces, now=request.now)
        except NonceNeeded:
            raise TokenError("use_dpop_nonce", "use the nonce of this answer in the proof") from None
        except InvalidProof:
            raise TokenError("invalid_dpop_proof", "the DPoP proof does not hold") from None
        ruling.once.append((proof.replay_key, proof.expires_at))
        return proof.jkt

    def token(self, request: TokenRequest, who: Authenticated, ruling: Ruling) -> dict[str, Any]:
        client = who.client
        ruling.event = TokenEvent(False, "", client.id, None)
        name, resource = self.resource(request)
        ruling.event = TokenEvent(False, "", client.id, name)
        scopes = self.scopes(request, client, name, resource)
        jkt = self.binding(request, resource, ruling)
        ruling.once.append((who.replay_key, who.expires_at))
        lifetime = self.lifetime if jkt is not None else min(self.lifetime, MAX_BEARER_LIFETIME)
        jti = secrets.token_urlsafe(16)
        token = issue(
            self.keys.current,
            issuer=self.issuer,
            subject=client.id,
            audience=name,
            client_id=client.id,
            scopes=scopes,
            lifetime=lifetime,
            jkt=jkt,
            jti=jti,
            now=request.now,
        )
        ruling.event = TokenEvent(True, "", client.id, name, scopes, jti, jkt, lifetime)
        return {
            "access_token": token,
            "token_type": "DPoP" if jkt is not None else "Bearer",
            "expires_in": lifetime,
            "scope": " ".join(sorted(scopes)),
        }


class _Request(OAuth2Request):
    """authlib's view of a request. It is told the issuer's public address, never the one that a proxy used."""

    def __init__(self, request: TokenRequest, ruling: Ruling, url: str) -> None:
        super().__init__("POST", url)
        self.payload = BasicOAuth2Payload(dict(request.form))
        self.sent = request
        self.ruling = ruling
        self.who: Authenticated | None = None


class _Client(ClientMixin):
    """authlib's view of a client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def check_grant_type(self, grant_type: object) -> bool:
        return grant_type == "client_credentials"

    def check_endpoint_auth_method(self, method: object, endpoint: object) -> bool:
        return method == "private_key_jwt" and endpoint == "token"


class _ClientCredentials(ClientCredentialsGrant):
    """RFC 6749 §4.4 for clients that sign."""

    TOKEN_ENDPOINT_AUTH_METHODS = ["private_key_jwt"]  # noqa: RUF012  as the base class declares it

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        # authlib's own logs the whole token at debug level, and has no room for what the request asks for.
        request = cast(_Request, self.request)
        assert request.who is not None
        authority = cast(_Skeleton, self.server).authority
        return 200, authority.token(request.sent, request.who, request.ruling), []

    def validate_requested_scope(self) -> None:
        """Scopes depend on the resource; `TokenAuthority.scopes` decides."""


class _Skeleton(AuthorizationServer):
    def __init__(self, authority: TokenAuthority) -> None:
        super().__init__()
        self.authority = authority
        self.register_client_auth_method("private_key_jwt", self._authenticate)
        self.register_grant(_ClientCredentials)

    def run(self, request: TokenRequest, ruling: Ruling) -> dict[str, Any]:
        if "grant_type" not in request.form:
            raise TokenError("invalid_request", "grant_type is missing")
        return cast("dict[str, Any]", self.create_token_response(_Request(request, ruling, self.authority.token_url)))

    def _authenticate(self, _query_client: object, request: _Request) -> _Client:
        authority = self.authority
        request.who = authenticate(
            request.sent.form, clients=authority.clients, issuer=authority.issuer, now=request.sent.now
        )
        return _Client(request.who.client)

    def query_client(self, client_id: str) -> ClientMixin:
        raise TokenError("invalid_client", "clients are known by their assertion only")

    def create_oauth2_request(self, request: Any) -> OAuth2Request:
        return request

    def send_signal(self, name: object, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def handle_response(self, status: object, body: Mapping[str, object], headers: object) -> Mapping[str, object]:
        return body

    def handle_error_response(self, request: object, error: OAuth2Error) -> NoReturn:
        # Its descriptions quote the request; its headers ask for Basic.
        if error.error == "unsupported_grant_type":
            raise TokenError("unsupported_grant_type", "only client_credentials is served")
        if error.error == "unauthorized_client":
            raise TokenError("unauthorized_client", "this client may not use this grant")
        raise TokenError("invalid_request", "the request cannot be served")
