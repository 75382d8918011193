"""What a refusal means to the one who was refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from retinue.errors import NotAllowed, RetinueError, SignInNeeded, Unreachable

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_SIGN_IN = frozenset({"", "invalid_token", "invalid_dpop_proof", "use_dpop_nonce"})


def plain(text: object, *, limit: int = 200) -> str:
    """A server's text, fit for a terminal and a log."""
    return _UNPRINTABLE.sub("?", text)[:limit] if isinstance(text, str) else ""


def from_token_endpoint(issuer: str, status: int, body: Mapping[str, Any]) -> RetinueError:
    """The error behind a refused token request (RFC 6749 §5.2)."""
    code, description = plain(body.get("error"), limit=64), plain(body.get("error_description"))
    said = f"{code}: {description}" if code and description else code or f"status {status}"
    if status >= 500 or status == 429 or code in ("temporarily_unavailable", "server_error"):
        return Unreachable(f"the issuer {issuer} does not answer now ({said})", hint="Try again in a moment.")
    if code in ("invalid_scope", "invalid_target", "access_denied", "unauthorized_client"):
        return NotAllowed(
            f"the issuer {issuer} does not grant this ({said})", hint="Ask whoever runs the issuer for this scope."
        )
    return SignInNeeded(
        f"the issuer {issuer} does not accept this client ({said})", hint="Check that its key is registered there."
    )


def refusal_in(data: object) -> RetinueError | None:
    """The error in the ``data`` of a JSON-RPC error that a guard sent, as an ``MCPError`` holds it; None for others."""
    if not isinstance(data, Mapping) or "resource_metadata" not in data:
        return None
    found = cast("Mapping[str, Any]", data)
    code, scopes = found.get("error", ""), plain(found.get("scope"), limit=4096).split()
    if code == "insufficient_scope":
        return SignInNeeded(
            f"the token lacks a scope that this needs: {' '.join(scopes)}",
            hint="Ask the issuer for a token with these scopes.",
            scopes=scopes,
        )
    if code in _SIGN_IN:
        return SignInNeeded("the server did not accept the token", scopes=scopes)
    return None
