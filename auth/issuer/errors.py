"""Errors of the token endpoint (RFC 6749 §5.2, RFC 8707 §2, RFC 9449 §5 and §8)."""

from __future__ import annotations

from typing import Final, Literal

TokenErrorCode = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_scope",
    "invalid_target",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_dpop_proof",
    "use_dpop_nonce",
    "temporarily_unavailable",
    "server_error",
]

_STATUS: Final[dict[str, int]] = {"invalid_client": 401, "temporarily_unavailable": 429, "server_error": 503}


class TokenError(Exception):
    """A refusal. The description is fixed text: it never quotes the request."""

    def __init__(self, code: TokenErrorCode, description: str, *, status: int | None = None) -> None:
        super().__init__(description)
        self.code: TokenErrorCode = code
        self.description = description
        self.status = status or _STATUS.get(code, 400)
