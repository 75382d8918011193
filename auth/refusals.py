"""Why a token, a proof or a request was not accepted.

These stay inside a server: the guard and the issuer turn them into status codes and challenges. A message names what
was wrong, never what was sent.
"""

from __future__ import annotations

from retinue.errors import NotAllowed


class InvalidToken(NotAllowed):
    """RFC 6750 §3.1: expired, forged, for somebody else, or malformed."""

    code = "invalid_token"


class InvalidProof(NotAllowed):
    """RFC 9449 §7.1: the DPoP proof is missing, malformed, stale, replayed, or made for another request or key."""

    code = "invalid_dpop_proof"


class NonceNeeded(InvalidProof):
    """RFC 9449 §8 and §9: the proof must carry a nonce of this server's making."""

    code = "use_dpop_nonce"


class InsufficientScope(NotAllowed):
    """RFC 6750 §3.1: the token is good, and for less than this."""

    code = "insufficient_scope"


class Malformed(NotAllowed):
    """The request cannot be read in one way only, so it is not judged and not forwarded."""

    code = "invalid_request"

    def __init__(self, message: str, *, rpc_code: int = -32600, status: int = 400) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code
        """JSON-RPC error code of the answer's body (JSON-RPC 2.0 §5.1; -32020 is MCP 2026-07-28's HeaderMismatch)."""
        self.status = status
