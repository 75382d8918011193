"""Names that travel in protocol metadata between Retinue's own parts (MCP ``_meta`` keys, spec 2026-07-28 §_meta)."""

from typing import Final

IDEMPOTENCY_KEY: Final = "io.retinue/idempotency-key"
"""On a ``tools/call`` request: the same key is the same call, however often it is sent."""

KEYED: Final = "io.retinue/keyed"
"""On a tool in ``tools/list``: true when the tool honours `IDEMPOTENCY_KEY`."""

SCOPE: Final = "io.retinue/scope"
"""On a tool in ``tools/list``: the OAuth scope it needs over HTTP."""
