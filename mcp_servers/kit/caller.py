"""Who makes a request, and whether that party may do what it asks for."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from starlette.requests import HTTPConnection

from retinue.errors import SignInNeeded

from ...auth.principal import Principal

PRINCIPAL: Final = "retinue.principal"
"""In an ASGI scope: the `Principal` that the guard has authenticated."""

UNGUARDED: Final = "retinue.unguarded"
"""In an ASGI scope: true when the endpoint was made without a guard, for tests."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The party behind one request.

    ``trusted`` is the program that started this server (stdio, in-process) or a test without a guard: it needs no
    scope. Everybody else is a principal with scopes, or nobody.
    """

    principal: Principal | None
    trusted: bool

    def missing(self, scopes: Iterable[str]) -> frozenset[str]:
        if self.trusted:
            return frozenset()
        granted = self.principal.scopes if self.principal else frozenset[str]()
        return frozenset(scopes) - granted

    def require(self, scopes: Iterable[str], *, what: str) -> None:
        if missing := self.missing(scopes):
            names = " ".join(sorted(missing))
            raise SignInNeeded(
                f"{what} needs the scope {names}, which this token does not grant",
                hint="Ask the authorization server for a token with this scope.",
                scopes=sorted(missing),
            )


def caller_of(context: Context[Any, Any] | None) -> Caller:
    """The caller of a request that the SDK handles. Only HTTP transports attach the request."""
    request = request_of(context)
    connection: object = request.request if request else None
    if not isinstance(connection, HTTPConnection):
        return Caller(principal=None, trusted=True)
    scope: MutableMapping[str, Any] = connection.scope
    principal = scope.get(PRINCIPAL)
    return Caller(
        principal=principal if isinstance(principal, Principal) else None,
        trusted=scope.get(UNGUARDED) is True,
    )


def request_of(context: Context[Any, Any] | None) -> ServerRequestContext[Any, Any] | None:
    """None for a call that the program makes itself, without a client."""
    if context is None:
        return None
    try:
        return context.request_context
    except ValueError:
        return None
