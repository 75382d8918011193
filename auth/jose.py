"""Compact JWS, read strictly: what a token or proof says is known before any key is looked at.

joserfc does the cryptography. It parses headers with the standard reader, allows every recommended algorithm, and
follows ``b64`` and ``crit``; so header and claims are read here, and the algorithm is pinned by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key
from joserfc.util import urlsafe_b64decode

from . import strict_json

FORBIDDEN_HEADERS: Final = frozenset({"jku", "x5u", "x5c", "jwk", "crit", "b64", "zip"})
"""A key, or an address of one, sent along by whoever wants to be believed; and extensions that change the reading."""


class Unreadable(ValueError):
    """Not a compact JWS with one possible reading."""


@dataclass(frozen=True, slots=True)
class Compact:
    """A JWS whose signature nobody has checked yet."""

    raw: str
    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def algorithm(self) -> object:
        return self.header.get("alg")

    @property
    def type(self) -> str:
        """``typ`` in lower case, without the ``application/`` that may be left out (RFC 7515 §4.1.9), or ""."""
        found = self.header.get("typ")
        return found.lower().removeprefix("application/") if isinstance(found, str) else ""


def read(raw: str, *, max_length: int, allow: frozenset[str] = frozenset()) -> Compact:
    """Take a JWS apart. ``allow`` names headers of `FORBIDDEN_HEADERS` that are wanted here. Raises `Unreadable`."""
    if len(raw) > max_length or not raw.isascii():
        raise Unreadable("too long, or not ASCII")
    parts = raw.encode("ascii").split(b".")
    if len(parts) != 3 or not all(parts):
        raise Unreadable("not three parts")
    try:
        header = strict_json.loads_object(urlsafe_b64decode(parts[0]), max_depth=8)
        claims = strict_json.loads_object(urlsafe_b64decode(parts[1]), max_depth=16)
    except ValueError:
        raise Unreadable("header or claims are not strict JSON objects") from None
    if refused := (FORBIDDEN_HEADERS - allow) & header.keys():
        raise Unreadable(f"header parameter {min(refused)} is not accepted")
    return Compact(raw, header, claims)


class _Registry(jws.JWSRegistry):
    """One algorithm, and ``EdDSA`` (the name before RFC 9864) only ever as Ed25519."""

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)

    def get_alg(self, name: str) -> Any:
        if name == "EdDSA" and self.allowed == ["EdDSA"]:
            return self.algorithms["Ed25519"]
        return super().get_alg(name)


@cache
def registry(algorithm: str) -> jws.JWSRegistry:
    return _Registry(algorithm)


def signed_by(token: Compact, key: Key, algorithm: str) -> bool:
    """Whether ``key`` made the signature with exactly ``algorithm``."""
    if token.algorithm != algorithm:
        return False
    try:
        jws.deserialize_compact(token.raw, key, registry=registry(algorithm))
    except (JoseError, ValueError, TypeError):
        return False
    return True


def sign(header: Mapping[str, Any], claims: bytes, key: Key, algorithm: str) -> str:
    return jws.serialize_compact({**header, "alg": algorithm}, claims, key, registry=registry(algorithm))


def number(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2): None when absent, ValueError for a string, a boolean, NaN or an infinity."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is not a number")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise ValueError(f"{name} is not a time")
    return seconds


def text(claims: Mapping[str, Any], name: str, *, max_length: int = 1024) -> str:
    """A required, non-empty string claim of bounded length without control characters; else ValueError."""
    value = claims.get(name)
    if not isinstance(value, str) or not value or len(value) > max_length or not value.isprintable():
        raise ValueError(f"{name} is missing or not a short string")
    return value
