"""Client authentication by a signed assertion: ``private_key_jwt`` (RFC 7523 §2.2 and §3, RFC 7521 §4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from joserfc.jwk import Key

from .. import jose
from ..keys import new_key
from .clients import Client, ClientRegistry
from .errors import TokenError

TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS: Final = ("ES256", "Ed25519")
MAX_LIFETIME: Final = 300.0
LEEWAY: Final = 5.0
MAX_LENGTH: Final = 4096

_ACCEPTED_TYPES = frozenset({"", "jwt", "client-authentication+jwt"})
_KEY_OF_NOBODY = new_key()
"""Checked against when the client is unknown, so that an answer takes as long as for one that is known."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A client, and the assertion that must not be seen again."""

    client: Client
    replay_key: str
    expires_at: float


def authenticate(form: Mapping[str, str], *, clients: ClientRegistry, issuer: str, now: float) -> Authenticated:
    """The client that signed ``client_assertion``. The issuer identifier must be its one audience.

    Every failure of an assertion gets the same answer; an attacker learns no client ids. Raises `TokenError`.
    """
    if "client_secret" in form:
        raise TokenError("invalid_request", "authenticate in one way only, with private_key_jwt")
    assertion = form.get("client_assertion")
    if assertion is None or form.get("client_assertion_type") != TYPE:
        raise TokenError("invalid_client", "authenticate with private_key_jwt (RFC 7523)")
    try:
        return _authenticate(assertion, form.get("client_id"), clients, issuer, now)
    except ValueError:
        raise TokenError("invalid_client", "client authentication failed") from None


def _authenticate(
    assertion: str, claimed_id: str | None, clients: ClientRegistry, issuer: str, now: float
) -> Authenticated:
    parsed = jose.read(assertion, max_length=MAX_LENGTH)
    algorithm = parsed.algorithm
    if parsed.type not in _ACCEPTED_TYPES or not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ValueError("typ or alg")
    client_id = jose.text(parsed.claims, "sub", max_length=256)
    jti = jose.text(parsed.claims, "jti", max_length=256)
    client = clients.find(client_id)
    if not jose.signed_by(parsed, _key(client, parsed.header.get("kid")), algorithm) or client is None:
        raise ValueError("signature")
    if parsed.claims.get("iss") != client_id or (claimed_id is not None and claimed_id != client_id):
        raise ValueError("iss or client_id")
    if parsed.claims.get("aud") not in (issuer, [issuer]):
        raise ValueError("aud")
    expires, issued, not_before = (jose.number(parsed.claims, name) for name in ("exp", "iat", "nbf"))
    if expires is None or not now - LEEWAY < expires <= now + MAX_LIFETIME + LEEWAY:
        raise ValueError("exp")
    if any(start is not None and start > now + LEEWAY for start in (issued, not_before)):
        raise ValueError("iat or nbf")
    if issued is not None and expires - issued > MAX_LIFETIME:
        raise ValueError("lifetime")
    return Authenticated(client, f"assertion {client_id} {jti}", expires + LEEWAY)


def _key(client: Client | None, kid: object) -> Key:
    found = client.keys.get(kid if isinstance(kid, str) else None) if client is not None else None
    return found or _KEY_OF_NOBODY
