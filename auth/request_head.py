"""What the guard needs from a request before its body: headers, credentials, and where it was sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from .refusals import Malformed

MAX_HEADERS: Final = 32 * 1024

_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z0-9!#$%&'*+\-.^_`|~]+)(?: +(?P<rest>.*))?", re.DOTALL)
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_PATH = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]*)+")
_UNSAFE_PATH = re.compile(r"//|/\.{1,2}(?:/|$)|%(?![0-9A-Fa-f]{2})|%(?:2[eEfF]|5[cC]|[01][0-9A-Fa-f]|7[fF])")

_STRIPPED: Final = frozenset(
    {b"authorization", b"proxy-authorization", b"dpop", b"cookie", b"client-cert", b"client-cert-chain"}
    | {b"x-forwarded-client-cert", b"x-forwarded-tls-client-cert", b"x-forwarded-tls-client-cert-info"}
)
_STRIPPED_PREFIXES: Final = (b"x-client-cert", b"x-ssl-client", b"ssl-client", b"x-ssl-cert", b"x-amzn-mtls-")

Scheme = Literal["dpop", "bearer"]


@dataclass(frozen=True, slots=True)
class Credentials:
    scheme: Scheme
    token: str


class Head:
    """The headers of one request by lower-case name, all values kept."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self.values: dict[str, list[str]] = {}
        size = 0
        for name, value in raw:
            size += len(name) + len(value) + 4
            self.values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        self.size = size

    def one(self, name: str) -> str | None:
        """The value of a header that may be there once. Raises `Malformed`."""
        values = self.values.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise Malformed(f"the {name} header appears more than once")
        return values[0]

    def credentials(self) -> Credentials | None:
        """The token that was sent; None when there is none, or a scheme that is not ours (RFC 6750 §3.1)."""
        if (value := self.one("authorization")) is None:
            return None
        match = _CREDENTIALS.fullmatch(value)
        if match is None:
            raise Malformed("the Authorization header cannot be read")
        name = match.group("scheme").lower()
        if name == "dpop":
            scheme: Scheme = "dpop"
        elif name == "bearer":
            scheme = "bearer"
        else:
            return None
        token = match.group("rest") or ""
        if not _TOKEN68.fullmatch(token):
            raise Malformed("the Authorization header does not hold one token")
        return Credentials(scheme, token)

    def check_body_headers(self, max_body: int) -> None:
        """Refuse, before anything is read, a body that is too large or not plain UTF-8 JSON. Raises `Malformed`."""
        if (length := self.one("content-length")) is not None:
            if "transfer-encoding" in self.values:  # RFC 9112 §6.3: a proxy may have seen another request in it
                raise Malformed("the body has two lengths (Content-Length and Transfer-Encoding)")
            if not length.isascii() or not length.isdigit():
                raise Malformed("the Content-Length header is not a number")
            if len(length) > 18 or int(length) > max_body:
                raise Malformed("the body is too large", status=413)
        if self.values.get("content-encoding", ["identity"]) != ["identity"]:
            raise Malformed("an encoded body is not accepted (Content-Encoding)")

    def check_json(self) -> None:
        """A message is ``application/json``, with no charset but UTF-8. Raises `Malformed`."""
        kind, *parameters = (self.one("content-type") or "").lower().split(";")
        if kind.strip() != "application/json":
            raise Malformed("the body is not application/json")
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
                raise Malformed("the body is not UTF-8 (charset)")


def forwarded_headers(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers without anything that would let the program behind the guard act as the caller, or as a proxy."""
    return [
        (name, value)
        for name, value in raw
        if (lower := name.lower()) not in _STRIPPED and not lower.startswith(_STRIPPED_PREFIXES)
    ]


def path_of(scope: Mapping[str, Any]) -> str:
    """The path as it was sent. Raises `Malformed` for one that two programs could resolve differently."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if isinstance(raw, bytes) else str(scope["path"])
    path = path.partition("?")[0]
    if not _PATH.fullmatch(path) or _UNSAFE_PATH.search(path):
        raise Malformed("the path is ambiguous")
    return path


def host_allowed(host: str | None, allowed: Sequence[str]) -> bool:
    """Whether a ``Host`` value (or an origin) is in the list; ``name:*`` stands for any port."""
    if host is None:
        return False
    host = host.lower()
    return any(
        host == entry or (entry.endswith(":*") and host.startswith(entry[:-1]) and host[len(entry) - 1 :].isdigit())
        for entry in allowed
    )
