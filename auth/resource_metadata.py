"""Protected resource metadata (RFC 9728): where a client learns who issues tokens for a server, and of what kind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from .dpop import ADVERTISED_ALGORITHMS
from .urls import split, well_known

NAME: Final = "oauth-protected-resource"


def url_of(resource: str) -> str:
    """The metadata's address: the resource's path follows the well-known name (§3.1)."""
    return well_known(resource, NAME)


def path_of(resource: str) -> str:
    return split(url_of(resource)).path


def document(
    resource: str,
    *,
    authorization_servers: Sequence[str],
    scopes_supported: Collection[str],
    dpop_required: bool,
) -> dict[str, Any]:
    """The metadata document (§2)."""
    return {
        "resource": resource,
        "authorization_servers": list(authorization_servers),
        "scopes_supported": sorted(scopes_supported),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(ADVERTISED_ALGORITHMS),
        "dpop_bound_access_tokens_required": dpop_required,
    }
