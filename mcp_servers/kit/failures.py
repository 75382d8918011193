"""What a caller is told when something goes wrong, and what the server's own log keeps.

The caller gets a message that was written for callers, or an error id. The log gets the id, the kind of exception and
the place, never its text: that may hold arguments, paths or secrets. At level DEBUG it gets the traceback as well.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from pathlib import Path
from typing import cast

from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp_types import CallToolResult, TextContent
from pydantic import ValidationError

from retinue.errors import RetinueError

log = logging.getLogger("retinue.mcp_servers")

_SHOWN_ARGUMENTS = 5


def error_result(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def explain(error: BaseException, *, what: str) -> str:
    """The text for the caller. An error that was not raised on purpose is logged and becomes an id."""
    error = _original(error)
    if isinstance(error, RetinueError):
        return f"{error.message.rstrip('.')}. {error.hint}".strip()
    if isinstance(error, (ToolError, ResourceError)):
        return str(error)
    return unexpected(error, what=what)


def unexpected(error: BaseException, *, what: str) -> str:
    error_id = secrets.token_hex(4)
    log.error("%s failed (error %s): %s at %s", what, error_id, type(error).__name__, _place(error))
    log.debug("error %s", error_id, exc_info=error)
    return f"{what} failed for a reason of the server's own (error {error_id}; the server's log says where)."


def explain_arguments(error: ValidationError) -> str:
    """Which arguments do not fit and why, without the values: they are long, and the caller has them."""
    problems = [
        f"{'.'.join(str(part) for part in item['loc']) or 'arguments'}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    shown = "; ".join(problems[:_SHOWN_ARGUMENTS])
    more = len(problems) - _SHOWN_ARGUMENTS
    return f"The arguments do not fit the tool's schema: {shown}{f'; and {more} more' if more > 0 else ''}."


def _original(error: BaseException) -> BaseException:
    """Look behind the SDK's wrappers and behind task groups that failed for one reason."""
    while True:
        if isinstance(error, (ToolError, ResourceError)) and error.__cause__:
            error = error.__cause__
        elif isinstance(error, BaseExceptionGroup):
            members = cast("BaseExceptionGroup[BaseException]", error).exceptions
            if len(members) != 1:
                return cast(BaseException, error)
            error = members[0]
        else:
            return error


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "an unknown place"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"
