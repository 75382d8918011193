"""Discovery: from a resource to its issuers (RFC 9728), from an issuer to its endpoints (RFC 8414, OpenID Connect).

Each document must name exactly the identifier that it was asked about; one that names another is somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import httpx2

from retinue.errors import ConfigError, NotAllowed, Unreachable

from ..resource_metadata import NAME as PROTECTED_RESOURCE
from ..urls import origin, require_secure, split, well_known
from .http import exchange

Observe = Callable[[str, Mapping[str, str]], None]
"""Told of each answer's address and headers: any of them may bring a DPoP nonce."""


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    resource: str
    authorization_servers: tuple[str, ...]
    scopes_supported: frozenset[str]


@dataclass(frozen=True, slots=True)
class IssuerMetadata:
    issuer: str
    token_endpoint: str


async def find_resource(
    http: httpx2.AsyncClient, resource: str, *, advertised: str | None, observe: Observe
) -> ResourceMetadata:
    """Metadata of a resource: where its challenge says (on its own origin), else at the well-known places.

    Raises `Unreachable` when there is none, and `NotAllowed` when it is another resource's.
    """
    places = [well_known(resource, PROTECTED_RESOURCE), f"{origin(resource)}/.well-known/{PROTECTED_RESOURCE}"]
    if advertised is not None and _same_origin(advertised, resource):
        places.insert(0, advertised)
    found = await _first(http, places, observe)
    if found is None:
        raise Unreachable(f"{resource} does not say which issuer it trusts (RFC 9728)")
    if found.get("resource") != resource:
        raise NotAllowed(
            f"the metadata of {resource} is about another resource", hint="Use the server's address as it states it."
        )
    return ResourceMetadata(
        resource, _strings(found, "authorization_servers"), frozenset(_strings(found, "scopes_supported"))
    )


async def find_issuer(http: httpx2.AsyncClient, issuer: str, *, observe: Observe) -> IssuerMetadata:
    """Metadata of an issuer, at the places that the MCP authorization specification lists, in its order.

    Raises `Unreachable` when there is none, and `NotAllowed` when it is another issuer's or names an unsafe endpoint.
    """
    places = [
        well_known(issuer, "oauth-authorization-server"),
        well_known(issuer, "openid-configuration"),
        f"{issuer.rstrip('/')}/.well-known/openid-configuration",
    ]
    found = await _first(http, places, observe)
    if found is None:
        raise Unreachable(f"the issuer {issuer} has no metadata (RFC 8414)")
    if found.get("issuer") != issuer:
        raise NotAllowed(
            f"the metadata of {issuer} is about another issuer", hint="Check the issuer's URL, to the letter."
        )
    endpoint = found.get("token_endpoint")
    try:
        safe = isinstance(endpoint, str) and bool(require_secure(endpoint, "a token endpoint"))
    except ConfigError:
        safe = False
    if not safe or (split(issuer).scheme == "https" and not str(endpoint).startswith("https:")):
        raise NotAllowed(f"the token endpoint of {issuer} is missing or not secure")
    return IssuerMetadata(issuer, str(endpoint))


async def _first(http: httpx2.AsyncClient, places: list[str], observe: Observe) -> dict[str, Any] | None:
    for place in dict.fromkeys(places):
        status, headers, body = await exchange(http, "GET", place)
        observe(place, headers)
        if status == 200 and body:
            return body
    return None


def _same_origin(url: str, other: str) -> bool:
    try:
        return origin(url) == origin(other)
    except ValueError:
        return False


def _strings(found: dict[str, Any], name: str) -> tuple[str, ...]:
    values = found.get(name)
    if not isinstance(values, list):
        return ()
    return tuple(value for value in cast("list[object]", values) if isinstance(value, str))
