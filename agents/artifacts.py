"""Reading on in a result that was too long to show: a tool that an agent is offered once it has such a result."""

from __future__ import annotations

from typing import Any

from .scope import Scope
from .tools.base import Effect, Tool, ToolCall, ToolResult

NAME = "read_artifact"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "artifact": {"type": "string", "pattern": "^[0-9a-f]{12,64}$", "description": "As the cut result named it."},
        "start": {"type": "integer", "minimum": 0, "description": "Offset in characters of the whole text."},
    },
    "required": ["artifact", "start"],
    "additionalProperties": False,
}


def artifact_tool(scope: Scope, *, limit: int) -> Tool:
    """Reads at most ``limit`` characters of an artifact of this run."""

    async def read(call: ToolCall) -> ToolResult:
        data = await scope.artifact(call.arguments["artifact"])
        if data is None:
            return ToolResult.error("There is no such artifact in this run.")
        text, start = data.decode(), call.arguments["start"]
        part = text[start : start + limit]
        return ToolResult(content=[{"type": "text", "text": part or f"(The text ends at {len(text)}.)"}])

    return Tool(
        server="run",
        name=NAME,
        exposed=NAME,
        description="Read on in a result that was cut, from an offset.",
        input_schema=SCHEMA,
        effect=Effect(read_only=True, idempotent=True, destructive=False),
        decision="allow",
        call=read,
    )
