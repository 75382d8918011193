"""DPoP (RFC 9449): a signed proof with every request that the sender holds the key its token is bound to."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import orjson
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, thumbprint

from . import jose
from .keys import PRIVATE_MEMBERS
from .nonces import Nonces
from .refusals import InvalidProof, NonceNeeded
from .replays import DatabaseReplayStore, MemoryReplayStore, ReplayStore, ReplayStoreFull
from .urls import target

__all__ = [
    "ADVERTISED_ALGORITHMS",
    "ALGORITHMS",
    "DPoPKey",
    "DatabaseReplayStore",
    "MemoryReplayStore",
    "Nonces",
    "Proof",
    "ReplayStore",
    "ReplayStoreFull",
    "check",
    "create",
]

ADVERTISED_ALGORITHMS: Final = ("ES256", "Ed25519")
ALGORITHMS: Final = (*ADVERTISED_ALGORITHMS, "EdDSA")
"""``EdDSA`` is what Ed25519 was called before RFC 9864; it is accepted, for Ed25519 keys, and not advertised."""

WINDOW_BACK: Final = 60.0
WINDOW_AHEAD: Final = 5.0
MAX_PROOF: Final = 2048
MAX_JTI: Final = 256

_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x")}
_CURVES = {"EC": "P-256", "OKP": "Ed25519"}
# By their members: to import a key and hash it costs as much as to check a signature.
_known_keys: OrderedDict[tuple[Any, ...], tuple[ECKey | OKPKey, str]] = OrderedDict()
_KNOWN_KEYS_LIMIT = 1024


class DPoPKey:
    """A client's own key pair. It is made by the process that uses it and not stored."""

    def __init__(self, key: ECKey | OKPKey) -> None:
        if not key.is_private or key.curve_name not in _CURVES.values():
            raise ValueError("a DPoP key is a private key on P-256 or Ed25519")
        self.key = key
        self.algorithm = "ES256" if isinstance(key, ECKey) else "Ed25519"
        members = key.as_dict(private=False)
        self.public_jwk: dict[str, Any] = {name: members[name] for name in _MEMBERS[key.key_type]}
        self.jkt = key.thumbprint()

    @classmethod
    def generate(cls, algorithm: Literal["ES256", "Ed25519"] = "ES256") -> DPoPKey:
        return cls(ECKey.generate_key("P-256") if algorithm == "ES256" else OKPKey.generate_key("Ed25519"))

    def __repr__(self) -> str:
        return f"DPoPKey({self.algorithm}, jkt={self.jkt})"


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that holds for this request. Whether it is used for the first time is for a `ReplayStore` to say."""

    jkt: str
    jti: str
    issued_at: float
    nonce: str | None

    @property
    def replay_key(self) -> str:
        return f"dpop {self.jkt} {self.jti}"

    @property
    def expires_at(self) -> float:
        """Until when this proof could be used again."""
        return self.issued_at + WINDOW_BACK + WINDOW_AHEAD


def create(
    key: DPoPKey,
    *,
    method: str,
    url: str,
    access_token: str | None = None,
    nonce: str | None = None,
    now: float | None = None,
) -> str:
    """Sign a proof for one request (RFC 9449 §4.2). With an access token it carries the token's hash (``ath``)."""
    claims: dict[str, Any] = {
        "jti": secrets.token_urlsafe(16),
        "htm": method.upper(),
        "htu": target(url),
        "iat": int(time.time() if now is None else now),
    }
    if access_token is not None:
        claims["ath"] = _hash(access_token)
    if nonce is not None:
        claims["nonce"] = nonce
    return jose.sign({"typ": "dpop+jwt", "jwk": key.public_jwk}, orjson.dumps(claims), key.key, key.algorithm)


def check(
    proof: str,
    *,
    method: str,
    url: str,
    access_token: str | None = None,
    jkt: str | None = None,
    nonces: Nonces | None = None,
    now: float | None = None,
) -> Proof:
    """Check a proof against the request it came with (RFC 9449 §4.3, all but the replay of ``jti``).

    ``jkt`` is the thumbprint that the token is bound to; with ``nonces`` the proof must carry one of theirs.

    Raises `InvalidProof`, and `NonceNeeded` for a proof that is good but for its nonce.
    """
    try:
        parsed = jose.read(proof, max_length=MAX_PROOF, allow=frozenset({"jwk"}))
    except jose.Unreadable as error:
        raise InvalidProof(f"the proof cannot be read: {error}") from None
    if parsed.type != "dpop+jwt":
        raise InvalidProof("not a DPoP proof (typ)")
    algorithm = parsed.algorithm
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise InvalidProof("signed with an algorithm that is not accepted")
    key, found_jkt = _key(parsed.header.get("jwk"))
    if jkt is not None and not hmac.compare_digest(found_jkt, jkt):
        raise InvalidProof("made with another key than the token is bound to")
    if not jose.signed_by(parsed, key, algorithm):
        raise InvalidProof("the proof's signature does not hold")
    return _check_claims(
        parsed.claims, found_jkt, method, url, access_token, nonces, time.time() if now is None else now
    )


def _check_claims(
    claims: dict[str, Any],
    jkt: str,
    method: str,
    url: str,
    access_token: str | None,
    nonces: Nonces | None,
    now: float,
) -> Proof:
    try:
        jti, htu = jose.text(claims, "jti", max_length=MAX_JTI), jose.text(claims, "htu", max_length=2048)
        issued = jose.number(claims, "iat")
        same_target = "?" not in htu and "#" not in htu and (htu == url or target(htu) == target(url))
    except ValueError as error:
        raise InvalidProof(f"the proof's claims are not acceptable: {error}") from None
    if claims.get("htm") != method:
        raise InvalidProof("made for another method (htm)")
    if not same_target:
        raise InvalidProof("made for another address (htu)")
    if issued is None or not now - WINDOW_BACK <= issued <= now + WINDOW_AHEAD:
        raise InvalidProof("made too long ago, or in the future (iat)")
    if access_token is not None:
        ath = claims.get("ath")
        if not isinstance(ath, str) or not hmac.compare_digest(ath.encode(), _hash(access_token).encode()):
            raise InvalidProof("made for another token, or for none (ath)")
    nonce = claims.get("nonce")
    if nonces is not None and (not isinstance(nonce, str) or not nonces.accepts(nonce)):
        raise NonceNeeded("the proof must carry the nonce of this answer")
    return Proof(jkt, jti, issued, nonce if isinstance(nonce, str) else None)


def _key(jwk: object) -> tuple[ECKey | OKPKey, str]:
    """The proof's public key and its thumbprint (RFC 7638)."""
    if not isinstance(jwk, dict):
        raise InvalidProof("the proof does not carry its public key (jwk)")
    data = cast("dict[str, object]", jwk)
    if PRIVATE_MEMBERS & data.keys():
        raise InvalidProof("the proof carries a private or symmetric key")
    kind = data.get("kty")
    if not isinstance(kind, str) or kind not in _MEMBERS or data.get("crv") != _CURVES[kind]:
        raise InvalidProof("the proof's key is not on P-256 or Ed25519")
    members: dict[str, Any] = {name: data.get(name) for name in _MEMBERS[kind]}
    if not all(isinstance(value, str) and len(value) <= 64 for value in members.values()):
        raise InvalidProof("the proof's key is malformed")
    cached = tuple(members.values())
    if (known := _known_keys.get(cached)) is not None:
        _known_keys.move_to_end(cached)
        return known
    try:
        key = ECKey.import_key(members) if kind == "EC" else OKPKey.import_key(members)
        _ = key.public_key
    except (JoseError, ValueError, TypeError, KeyError):
        raise InvalidProof("the proof's key is malformed") from None
    _known_keys[cached] = known = (key, thumbprint(members))
    while len(_known_keys) > _KNOWN_KEYS_LIMIT:
        _known_keys.popitem(last=False)
    return known


def _hash(access_token: str) -> str:
    digest = hashlib.sha256(access_token.encode("ascii")).digest()
    return urlsafe_b64encode(digest).decode("ascii").rstrip("=")
