"""Members as tools of an agent: one to ask, and one to give the work to."""

from __future__ import annotations

from typing import Any

from retinue.errors import ConfigError, ToolFailed

from .member import Member
from .tools.base import Effect, Tool, ToolCall, ToolResult

SERVER = "agents"
"""What stands in the place of a server for tools that are members."""


def delegate_tool(member: Member) -> Tool:
    """Ask the member, and go on with its answer."""
    return _tool(member, member.name, f"Ask {member.name}: {member.description}", handoff=False)


def handoff_tool(member: Member, *, output: type[Any] | None, giver: str) -> Tool:
    """Give the work to the member: its output becomes the output of the one who gives."""
    if member.output is not output:
        raise ConfigError(
            f"{giver} cannot hand over to {member.name}, whose output has another type",
            hint="Give both the same output type, or make it a delegate.",
        )
    return _tool(member, f"hand_over_to_{member.name}", f"Hand all of the work over to {member.name}: "
                 f"{member.description} Call nothing else beside it.", handoff=True)  # fmt: skip


def _tool(member: Member, exposed: str, description: str, *, handoff: bool) -> Tool:
    return Tool(
        server=SERVER,
        name=member.name,
        exposed=exposed,
        description=description,
        input_schema=dict(member.input_schema),
        # Everything inside is journaled where it happens, so asking again repeats nothing.
        effect=Effect(idempotent=True, destructive=False),
        decision="allow",
        call=_never,
        member=member,
        handoff=handoff,
    )


async def _never(call: ToolCall) -> ToolResult:
    raise ToolFailed("a member is run, not called")
