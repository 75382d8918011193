"""The tools of an MCP server as a toolset."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..policy import Policy
from .base import Connections, Tool
from .wrappers import Wrappable

_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


class MCPToolset(Wrappable):
    """A server named in ``retinue.toml``, a built-in one (``knowledge``, ``workspace``), or the URL of one.

    ``ask``, ``allow`` and ``deny`` are globs over the server's own tool names, on top of what configuration says.
    """

    def __init__(
        self, server: str, *, ask: Sequence[str] = (), allow: Sequence[str] = (), deny: Sequence[str] = ()
    ) -> None:
        self._server = server
        self._policy = Policy(ask=ask, allow=allow, deny=deny)

    @property
    def name(self) -> str:
        return self._server

    async def open(self, connections: Connections) -> Sequence[Tool]:
        tools: list[Tool] = []
        for found in await connections.tools(self._server):
            rules, configured = self._policy, found.policy
            policy = Policy(
                deny=[*rules.deny, *configured.deny],
                ask=[*rules.ask, *configured.ask],
                allow=[*rules.allow, *configured.allow],
            )
            tools.append(
                Tool(
                    server=self._server,
                    name=found.name,
                    exposed=_NOT_A_NAME.sub("_", found.name)[:64],
                    description=found.description,
                    input_schema=found.input_schema,
                    effect=found.effect,
                    decision=policy.decide(self._server, found.name, found.effect),
                    call=found.call,
                    timeout=found.timeout,
                )
            )
        return tools
