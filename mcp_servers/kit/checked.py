"""The SDK's server with our checks around each call.

The SDK dispatches every ``tools/call`` and ``resources/read``, in both protocol eras and on every transport, through
the public methods that are overridden here. So the scope is checked again after the guard, time and size are bounded,
and a failure becomes a text that is safe to send.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pydantic_core
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolResult,
    ContentBlock,
    GetPromptResult,
    InputRequiredResult,
    Resource,
    TextContent,
    Tool,
)
from pydantic import AnyUrl, ValidationError

from retinue.errors import RetinueError, UsageError
from retinue.protocol import SCOPE

from .caller import caller_of
from .failures import error_result, explain, explain_arguments
from .quiet import root_logger_untouched
from .resources import MAX_LISTED, ResourceEntry, ResourceSpec, declaration_of
from .tools import ToolSpec


class CheckedServer(MCPServer[Any]):
    """Not for use by itself: `ToolServer` fills ``tools`` and ``resources``."""

    def __init__(
        self,
        name: str,
        *,
        instructions: str | None,
        version: str,
        lifespan: Callable[[MCPServer[Any]], AbstractAsyncContextManager[Any]] | None,
        tools: Mapping[str, ToolSpec],
        resources: Sequence[ResourceSpec],
    ) -> None:
        with root_logger_untouched():
            super().__init__(name, instructions=instructions, version=version, lifespan=lifespan)
        self._tool_specs = tools
        self._resource_specs = resources

    async def list_tools(self) -> list[Tool]:
        """Unknown arguments are refused, so the schema says so: a model's typing error is not dropped in silence."""
        tools = await super().list_tools()
        return [
            tool.model_copy(update={"input_schema": {**tool.input_schema, "additionalProperties": False}})
            for tool in tools
        ]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        spec = self._tool_specs.get(name)
        if spec is None:
            return error_result(f"There is no tool named {name[:80]!r}.")
        try:
            caller_of(context).require([spec.scope], what=f"the tool `{name}`")
            if unknown := sorted(arguments.keys() - spec.arguments):
                return error_result(f"`{name}` has no argument named {', '.join(map(repr, unknown[:5]))}.")
            with anyio.move_on_after(spec.timeout):
                return _sized(spec, await super().call_tool(name, arguments, context))
            return error_result(_too_slow(spec))
        except MCPError:
            raise
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError) and type(error) is ToolError:
                return error_result(explain_arguments(error.__cause__))
            return error_result(explain(error, what=f"the tool `{name}`"))
        except RetinueError as error:
            return error_result(explain(error, what=f"the tool `{name}`"))

    async def list_resources(self) -> list[Resource]:
        listed = await super().list_resources()
        for spec in self._resource_specs:
            if spec.listed is not None and len(listed) < MAX_LISTED:
                try:
                    listed += [_listed(entry, spec.scope) for entry in await spec.listed()]
                except Exception as error:
                    raise MCPError(INTERNAL_ERROR, explain(error, what="listing the resources")) from error
        return listed[:MAX_LISTED]

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """The kit has no prompts of its own; without this, asking for one puts a traceback into the log."""
        try:
            return await super().get_prompt(name, arguments, context)
        except ValueError as error:
            raise MCPError(INVALID_PARAMS, f"There is no prompt {name[:80]!r} that takes these arguments.") from error

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        spec = declaration_of(str(uri), self._resource_specs)
        if spec is None:
            raise ResourceNotFoundError("There is no such resource.")
        try:
            caller_of(context).require([spec.scope], what="this resource")
            with anyio.move_on_after(spec.timeout):
                found = await super().read_resource(uri, context)
                if isinstance(found, InputRequiredResult):
                    return found
                contents = list(found)
                if sum(len(item.content) for item in contents) > spec.max_result:
                    raise ResourceError(f"This resource is larger than {spec.max_result} characters.")
                return contents
            raise ResourceError(f"Reading this resource took longer than {spec.timeout:g} seconds.")
        except RetinueError as error:
            raise ResourceError(explain(error, what="reading this resource")) from error
        except ResourceError as error:
            missing = isinstance(error, ResourceNotFoundError) or isinstance(error.__cause__, UsageError)
            kind = ResourceNotFoundError if missing else ResourceError
            raise kind(explain(error, what="reading a resource")) from error


def _sized(spec: ToolSpec, result: CallToolResult | InputRequiredResult) -> CallToolResult | InputRequiredResult:
    """Refuse a result that is too large; give a model the compact JSON of a structured one."""
    if isinstance(result, InputRequiredResult) or result.is_error:
        return result
    if result.structured_content is not None and spec.structured:
        text = pydantic_core.to_json(result.structured_content).decode()
        result = result.model_copy(update={"content": [TextContent(type="text", text=text)]})
        size = len(text)
    else:
        size = sum(_length(block) for block in result.content)
    if size <= spec.max_result:
        return result
    done = " The call itself was carried out." if spec.writes else ""
    return error_result(
        f"The result of `{spec.name}` has {size} characters; the limit is {spec.max_result}."
        f"{done} Ask for less of it at a time."
    )


def _length(block: ContentBlock) -> int:
    return len(block.text) if isinstance(block, TextContent) else len(block.model_dump_json(exclude_none=True))


def _too_slow(spec: ToolSpec) -> str:
    doubt = " Whether it took effect is not known." if spec.writes else ""
    return f"`{spec.name}` took longer than its {spec.timeout:g} seconds and was stopped.{doubt}"


def _listed(entry: ResourceEntry, scope: str) -> Resource:
    return Resource(
        uri=entry.uri,
        name=entry.name,
        title=entry.title,
        description=entry.description,
        mime_type=entry.mime_type,
        size=entry.size,
        _meta={SCOPE: scope},
    )
