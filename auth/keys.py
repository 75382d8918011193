"""Keys that sign tokens, and where a verifier finds them.

A key set in a file is ``{"keys": [current private key, earlier public keys …]}``; each key's ``kid`` is its RFC 7638
thumbprint. Earlier keys stay published until no token signed by them can still be valid.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

import orjson
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

from retinue.errors import ConfigError
from retinue.system import check_private, create_private, ensure_private_dir, write_private

from . import strict_json

OVERLAP: Final = 3600.0
"""Seconds for which a replaced key stays published: the longest token (900 s) and everybody's cached key set."""

_RSA_2048: Final = 342
"""Characters of the shortest modulus accepted, in base64url. joserfc takes shorter keys, with a warning."""

PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class KeySource(Protocol):
    """Where a verifier looks up the issuer's public key."""

    async def find(self, kid: str) -> Key | None:
        """The key of that id, or None. Raises `Unreachable` when nothing is known and nothing can be learned."""
        ...


def public_key(data: Mapping[str, Any]) -> Key:
    """Import a public JWK for signatures: EC, OKP or RSA of at least 2048 bits. ValueError for anything else."""
    if PRIVATE_MEMBERS & data.keys():
        raise ValueError("a private or symmetric key")
    if data.get("use", "sig") != "sig":
        raise ValueError("not a signature key")
    if data.get("kty") == "RSA" and len(str(data.get("n", ""))) < _RSA_2048:
        raise ValueError("an RSA key below 2048 bits")
    try:
        key = import_key(dict(data))
    except (JoseError, ValueError, TypeError, KeyError):
        raise ValueError("not a JWK") from None
    if not isinstance(key, ECKey | OKPKey | RSAKey):
        raise ValueError("not an EC, OKP or RSA key")
    if isinstance(key, RSAKey) and key.public_key.key_size < 2048:
        raise ValueError("an RSA key below 2048 bits")
    return key


def public_jwk(key: Key, **members: str) -> dict[str, Any]:
    """The public half as a JWK with its thumbprint as ``kid``."""
    return {**key.as_dict(private=False), "kid": key.thumbprint(), **members}


def public_jwks(*keys: Key) -> dict[str, Any]:
    return {"keys": [public_jwk(key, use="sig") for key in keys]}


class LocalKeys:
    """A key set that is already here (`KeySource`)."""

    def __init__(self, jwks: Mapping[str, Any]) -> None:
        self._keys = parse_jwks(jwks)

    async def find(self, kid: str) -> Key | None:
        return self._keys.get(kid)

    def get(self, kid: str | None) -> Key | None:
        """By id; without an id the only key, if there is only one."""
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)


def parse_jwks(jwks: Mapping[str, Any], *, max_keys: int = 64) -> dict[str, Key]:
    """Public signature keys by ``kid`` (its thumbprint when absent). Keys of other kinds are left out (RFC 7517 §5)."""
    entries = jwks.get("keys")
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    found: dict[str, Key] = {}
    for entry in cast("list[object]", entries)[:max_keys]:
        if not isinstance(entry, dict):
            continue
        data = cast("dict[str, Any]", entry)
        try:
            key = public_key(data)
        except ValueError:
            continue
        kid = data.get("kid")
        found.setdefault(kid if isinstance(kid, str) and kid else key.thumbprint(), key)
    return found


class SigningKeys:
    """An issuer's signing key and its predecessors; also the `KeySource` of verifiers in the same process."""

    def __init__(self, current: ECKey, previous: Sequence[ECKey] = ()) -> None:
        if not current.is_private or current.curve_name != "P-256":
            raise ConfigError("a signing key must be a private EC key on P-256")
        self._current = current
        self._previous = tuple(previous)
        self._index()

    @classmethod
    def generate(cls) -> SigningKeys:
        return cls(new_key())

    @property
    def current(self) -> ECKey:
        return self._current

    @property
    def kid(self) -> str:
        return self._current.thumbprint()

    def rotate(self, new: ECKey | None = None) -> None:
        """Sign with a new key from now on and keep publishing the old one."""
        self._previous = (self._current, *self._previous)
        self._current = new or new_key()
        self._index()

    def jwks(self) -> dict[str, Any]:
        """The public key set, current key first."""
        return {"keys": [public_jwk(key, use="sig", alg="ES256") for key in (self._current, *self._previous)]}

    async def find(self, kid: str) -> Key | None:
        return self._by_kid.get(kid)

    def _index(self) -> None:
        self._by_kid: dict[str, Key] = {key.thumbprint(): key for key in (*self._previous, self._current)}


def new_key() -> ECKey:
    return ECKey.generate_key("P-256", auto_kid=True)


def load_or_create_key(path: Path) -> SigningKeys:
    """The issuer's keys in ``path`` (mode 0600), created with one new key when there is no such file.

    Raises `ConfigError` for a file that others can read, that is a link, or that does not hold keys.
    """
    entries = _load_or_create(path)
    current = _private(entries[0], path)
    now = time.time()
    previous = [_previous(entry, path) for entry in entries[1:] if entry.get("retired_at", now) > now - OVERLAP]
    return SigningKeys(current, previous)


def rotate_key(path: Path) -> SigningKeys:
    """Put a new signing key into ``path``. Earlier public keys stay for `OVERLAP` seconds; older ones are dropped.

    A running issuer signs with the new key after its next start, or when given it through `SigningKeys.rotate`.
    """
    entries = _load_or_create(path)
    now = time.time()
    retired = public_jwk(_private(entries[0], path)) | {"retired_at": now}
    kept = [entry for entry in entries[1:] if entry.get("retired_at", now) > now - OVERLAP]
    write_private(path, _dump([new_key().as_dict(private=True), retired, *kept]))
    return load_or_create_key(path)


def load_or_create_client_key(path: Path) -> ECKey:
    """The private key by which a local user is known as a client (RFC 7523), in ``path`` with mode 0600.

    Raises `ConfigError` like `load_or_create_key`.
    """
    return _private(_load_or_create(path)[0], path)


def _load_or_create(path: Path) -> list[dict[str, Any]]:
    for _ in range(2):
        try:
            check_private(path)
            return _parse(path.read_bytes(), path)
        except FileNotFoundError:
            ensure_private_dir(path.parent)
            create_private(path, _dump([new_key().as_dict(private=True)]))  # False: somebody else was first
    raise ConfigError(f"{path} cannot be created", hint="Check that its folder can be written.")


def _parse(data: bytes, path: Path) -> list[dict[str, Any]]:
    try:
        entries = strict_json.loads_object(data)["keys"]
    except (ValueError, KeyError):
        entries = None
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in cast("list[Any]", entries)):
        raise ConfigError(f"{path} does not hold keys", hint="Remove the file to have a new key made.")
    return cast("list[dict[str, Any]]", entries)


def _dump(keys: Iterable[Mapping[str, Any]]) -> bytes:
    return orjson.dumps({"keys": list(keys)}, option=orjson.OPT_INDENT_2)


def _private(entry: dict[str, Any], path: Path) -> ECKey:
    try:
        key = ECKey.import_key(entry)
        if not key.is_private or key.curve_name != "P-256":
            raise ValueError("not a private key on P-256")
    except (JoseError, ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} does not start with a private P-256 key", hint="Remove the file.") from None
    key.ensure_kid()
    return key


def _previous(entry: dict[str, Any], path: Path) -> ECKey:
    try:
        key = public_key({name: value for name, value in entry.items() if name != "retired_at"})
    except ValueError:
        key = None
    if not isinstance(key, ECKey):
        raise ConfigError(f"{path} holds an earlier key that is not a public EC key", hint="Remove that entry.")
    return key
