"""Access tokens (RFC 9068): made by an issuer, verified by a resource server.

header  typ at+jwt, alg, kid
claims  iss  sub  aud  client_id  scope  iat  exp  jti   and cnf.jkt when bound to a DPoP key (RFC 9449 §6.1)
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
from joserfc.jwk import ECKey

from retinue.errors import ConfigError

from . import jose
from .keys import KeySource, LocalKeys, SigningKeys
from .principal import Principal
from .refusals import InvalidToken
from .remote_keys import RemoteKeys

__all__ = [
    "MAX_LIFETIME",
    "AccessGrant",
    "KeySource",
    "LocalKeys",
    "RemoteKeys",
    "SigningKeys",
    "TokenVerifier",
    "issue",
    "parse_scope",
]

MAX_LIFETIME: Final = 900
"""Seconds. Both sides hold to it: an issuer that forgets does not get its tokens accepted."""

MAX_TOKEN: Final = 8192
MAX_ACTORS: Final = 4
CACHE_SECONDS: Final = 60.0

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class AccessGrant:
    """What a verified token allows. It does not hold the token."""

    principal: Principal
    client_id: str
    scopes: frozenset[str]
    issued_at: float
    expires_at: float
    jkt: str | None
    """Thumbprint of the DPoP key that the token is bound to; None for a bearer token."""
    jti: str

    @property
    def lifetime(self) -> float:
        return self.expires_at - self.issued_at


def parse_scope(value: str) -> frozenset[str]:
    """Scopes of a space-separated list (RFC 6749 §3.3); ValueError when it is not one. "" is no scope."""
    if value and (len(value) > 4096 or not _SCOPE.fullmatch(value)):
        raise ValueError("scope is not a list of scope tokens")
    return frozenset(value.split())


def issue(
    key: ECKey,
    *,
    issuer: str,
    subject: str,
    audience: str,
    client_id: str,
    scopes: Iterable[str],
    lifetime: int = 600,
    jkt: str | None = None,
    tenant: str = "",
    jti: str | None = None,
    now: float | None = None,
) -> str:
    """Sign an access token with ES256 for exactly one audience. ``jkt`` binds it to a DPoP key."""
    if not 0 < lifetime <= MAX_LIFETIME:
        raise ConfigError(f"an access token lives 1 to {MAX_LIFETIME} seconds, not {lifetime}")
    issued = int(time.time() if now is None else now)
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "client_id": client_id,
        "scope": " ".join(sorted(scopes)),
        "iat": issued,
        "exp": issued + lifetime,
        "jti": jti or secrets.token_urlsafe(16),
    }
    if tenant:
        claims["tenant"] = tenant
    if jkt is not None:
        claims["cnf"] = {"jkt": jkt}
    return jose.sign({"typ": "at+jwt", "kid": key.thumbprint()}, orjson.dumps(claims), key, "ES256")


class TokenVerifier:
    """Accepts the tokens of one issuer for one audience, and nothing else.

    Verified tokens are remembered by the hash of the whole token for at most a minute, so that a session costs one
    signature check a minute. Refusals are never remembered.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: KeySource,
        max_lifetime: float = MAX_LIFETIME,
        leeway: float = 5,
        *,
        algorithms: Sequence[str] = ("ES256",),
        cache_size: int = 4096,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``algorithms`` pins what this issuer signs with; ``max_lifetime`` and ``leeway`` are seconds."""
        if not issuer or not audience or not algorithms:
            raise ConfigError("a token verifier needs an issuer, an audience and an algorithm")
        if unsafe := [name for name in algorithms if name == "none" or name.startswith("HS")]:
            raise ConfigError(f"tokens are verified with public keys; {unsafe[0]} has none")
        self.issuer = issuer
        self.audience = audience
        self._keys = keys
        self._max_lifetime = min(max_lifetime, MAX_LIFETIME)
        self._leeway = leeway
        self._algorithms = tuple(algorithms)
        self._clock = clock
        self._cache_size = cache_size
        self._cache: OrderedDict[bytes, tuple[float, AccessGrant]] = OrderedDict()

    async def verify(self, token: str) -> AccessGrant:
        """Raises `InvalidToken`, or `Unreachable` when the issuer's keys cannot be had."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        if (hit := self._cache.get(digest)) is not None:
            if now < hit[0]:
                self._cache.move_to_end(digest)
                return hit[1]
            del self._cache[digest]
        grant = await self._verify(token, now)
        self._cache[digest] = (min(grant.expires_at, now + CACHE_SECONDS), grant)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return grant

    async def _verify(self, token: str, now: float) -> AccessGrant:
        try:
            parsed = jose.read(token, max_length=MAX_TOKEN)
        except jose.Unreadable as error:
            raise InvalidToken(f"the token cannot be read: {error}") from None
        if parsed.type != "at+jwt":
            raise InvalidToken("not an access token (typ)")
        algorithm, kid = parsed.algorithm, parsed.header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise InvalidToken("signed with an algorithm that is not accepted")
        if not isinstance(kid, str) or not kid or len(kid) > 256:
            raise InvalidToken("the token does not name its key")
        # Whom it is from and for is read before the signature, so that foreign tokens fetch no keys.
        self._check_parties(parsed.claims)
        key = await self._keys.find(kid)
        if key is None or not jose.signed_by(parsed, key, algorithm):
            raise InvalidToken("the signature does not hold")
        try:
            return self._grant(parsed.claims, now)
        except ValueError as error:
            raise InvalidToken(f"the token's claims are not acceptable: {error}") from None

    def _check_parties(self, claims: Mapping[str, Any]) -> None:
        if claims.get("iss") != self.issuer:
            raise InvalidToken("issued by somebody else")
        audience = claims.get("aud")
        if isinstance(audience, list) and len(cast("list[object]", audience)) == 1:
            audience = cast("list[object]", audience)[0]
        if audience != self.audience:
            raise InvalidToken("issued for another audience, or for several")

    def _grant(self, claims: Mapping[str, Any], now: float) -> AccessGrant:
        expires, issued, not_before = (jose.number(claims, name) for name in ("exp", "iat", "nbf"))
        if expires is None or issued is None:
            raise ValueError("exp or iat is missing")
        if expires <= now - self._leeway:
            raise ValueError("expired")
        if issued > now + self._leeway or (not_before is not None and not_before > now + self._leeway):
            raise ValueError("not valid yet")
        if expires - issued > self._max_lifetime:
            raise ValueError("lives too long")
        subject, client_id, jti = (jose.text(claims, name) for name in ("sub", "client_id", "jti"))
        scope = claims.get("scope", "")
        if not isinstance(scope, str):
            raise ValueError("scope is not a string")
        tenant = jose.text(claims, "tenant") if claims.get("tenant", "") != "" else ""
        scopes = parse_scope(scope)
        principal = Principal(
            issuer=self.issuer, subject=subject, tenant=tenant, actors=_actors(claims.get("act")), scopes=scopes
        )
        return AccessGrant(principal, client_id, scopes, issued, expires, _confirmation(claims.get("cnf")), jti)


def _confirmation(cnf: object) -> str | None:
    """``cnf.jkt``. A binding of any other kind is one that nobody here can check, so the token is not usable."""
    if cnf is None:
        return None
    jkt = cast("dict[str, object]", cnf).get("jkt") if isinstance(cnf, dict) and len(cast("Any", cnf)) == 1 else None
    if not isinstance(jkt, str) or not _THUMBPRINT.fullmatch(jkt):
        raise ValueError("cnf is not a DPoP key thumbprint")
    return jkt


def _actors(act: object) -> tuple[str, ...]:
    """Who acts for the subject, outermost first (RFC 8693 §4.1)."""
    actors: list[str] = []
    while act is not None:
        if not isinstance(act, dict) or len(actors) == MAX_ACTORS:
            raise ValueError("act is malformed or too deep")
        claims = cast("dict[str, Any]", act)
        actors.append(jose.text(claims, "sub"))
        act = claims.get("act")
    return tuple(actors)
