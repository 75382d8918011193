"""What a tool does to the world, in one word, and how that is told to clients.

The word becomes the standard tool annotations (MCP 2026-07-28, ``ToolAnnotations``) and our two ``_meta`` keys.
"""

from __future__ import annotations

from typing import Any, Literal

from mcp_types import ToolAnnotations

from retinue.errors import ConfigError
from retinue.protocol import KEYED, SCOPE

Effect = Literal["read_only", "idempotent", "keyed", "unsafe"]
"""``read_only``: changes nothing. ``idempotent``: the same arguments twice is the same as once.
``keyed``: the same idempotency key twice is the same as once. ``unsafe``: every call counts."""


def tool_annotations(effect: Effect, destructive: bool | None, *, title: str | None = None) -> ToolAnnotations:
    """The hints of a tool. ``destructive=None`` takes the careful default: whatever writes may destroy."""
    if effect == "read_only" and destructive:
        raise ConfigError("a tool cannot be read-only and destructive", hint="Choose another effect.")
    reads = effect == "read_only"
    return ToolAnnotations(
        title=title,
        read_only_hint=reads,
        destructive_hint=(not reads) if destructive is None else destructive,
        # A keyed tool is idempotent only for callers that send the key, which the standard hint cannot say.
        idempotent_hint=effect in ("read_only", "idempotent"),
    )


def tool_meta(effect: Effect, scope: str) -> dict[str, Any]:
    """The ``_meta`` of a tool in ``tools/list``."""
    return {SCOPE: scope, KEYED: effect == "keyed"}
