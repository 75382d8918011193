"""Who acts in tests."""

from __future__ import annotations

from collections.abc import Sequence

from retinue.agents.tools.base import Connections, ServerTool
from retinue.auth.principal import Principal
from retinue.errors import Unreachable

ME = Principal(issuer="local", subject="user:me", scopes=frozenset({"runs:approve"}))
"""A person who may answer."""
OTHER = Principal(issuer="local", subject="user:other", scopes=frozenset({"runs:approve"}))
READER = Principal(issuer="local", subject="user:me")
"""The same person, by a token that may not approve."""
DELEGATE = Principal(issuer="local", subject="user:me", actors=("agent:x",), scopes=frozenset({"runs:approve"}))
"""An agent that acts for the person."""


class _Nobody:
    async def tools(self, server: str) -> Sequence[ServerTool]:
        raise Unreachable(f"there is no server {server} in this test")


NOBODY: Connections = _Nobody()
"""No server can be reached."""
