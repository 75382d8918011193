"""What a tool may know about the call it serves."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from retinue.protocol import IDEMPOTENCY_KEY

from ...auth.principal import Principal
from .caller import Caller, caller_of, request_of

MAX_KEY_LENGTH: Final = 256


class Report(Protocol):
    def __call__(self, progress: float, total: float | None = None, message: str | None = None) -> Awaitable[None]: ...


async def _no_report(progress: float, total: float | None = None, message: str | None = None) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """Given to a tool whose parameter is annotated with it. Tests make their own: ``ToolContext(tool="search")``."""

    tool: str
    caller: Caller = field(default=Caller(principal=None, trusted=True))
    idempotency_key: str | None = None
    """From the request's ``_meta``: the same key is the same call, however often it arrives."""
    protocol_version: str | None = None
    report: Report = field(default=_no_report, repr=False)

    @property
    def principal(self) -> Principal | None:
        """Who asks; None on stdio and in-process, where the caller is the program that started the server."""
        return self.caller.principal

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the work is. Does nothing when the caller did not ask to be told."""
        await self.report(done, total, message)

    def require(self, *scopes: str) -> None:
        """Raise `SignInNeeded` unless the token grants these too: for what depends on the arguments."""
        self.caller.require(scopes, what=f"this call of `{self.tool}`")


def tool_context(tool: str, context: Context[Any, Any]) -> ToolContext:
    """Raises `ToolError` when the idempotency key is not one."""
    request = request_of(context)
    if request is None:
        return ToolContext(tool=tool)
    return ToolContext(
        tool=tool,
        caller=caller_of(context),
        idempotency_key=_key(cast("Mapping[str, object] | None", request.meta)),
        protocol_version=context.protocol_version,
        report=context.report_progress,
    )


def _key(meta: Mapping[str, object] | None) -> str | None:
    key = (meta or {}).get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise ToolError(f"The idempotency key must be 1 to {MAX_KEY_LENGTH} printable characters.")
    return key
