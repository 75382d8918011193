"""One tool: what was declared about it, and its function in the form that the SDK calls."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio.to_thread
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from retinue.errors import ConfigError

from .context import ToolContext, tool_context
from .effects import Effect

_SDK_CONTEXT: Final = "retinue_sdk_context"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What the decorator was told, and what the function's signature says."""

    name: str
    scope: str
    effect: Effect
    timeout: float
    max_result: int
    arguments: frozenset[str]
    structured: bool
    """The function returns a pydantic model: the text form of a result is then its JSON."""

    @property
    def writes(self) -> bool:
        return self.effect != "read_only"


def adapt(fn: Callable[..., Any], name: str) -> tuple[Callable[..., Any], frozenset[str], bool]:
    """A function with the signature that the SDK reads: our context parameter gone, the SDK's in its place.

    Also returns the names of the arguments and whether the result is a pydantic model. A plain (not ``async``)
    function runs on a worker thread, which is left behind when its time runs out.
    """
    hints = _hints(fn, name)
    ours: str | None = None
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(fn).parameters.values():
        if hints.get(parameter.name) is ToolContext:
            ours = parameter.name
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool `{name}`: the parameter `{parameter.name}` cannot be filled by name")
        if parameter.name not in hints:
            raise ConfigError(f"tool `{name}`: the parameter `{parameter.name}` has no type")
        parameters.append(parameter.replace(annotation=hints[parameter.name], kind=parameter.KEYWORD_ONLY))
    names = frozenset(parameter.name for parameter in parameters)
    parameters.append(inspect.Parameter(_SDK_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=Context))
    result = hints.get("return", inspect.Signature.empty)

    async def call(**arguments: Any) -> Any:
        context = tool_context(name, arguments.pop(_SDK_CONTEXT))
        if ours is not None:
            arguments[ours] = context
        if inspect.iscoroutinefunction(fn):
            return await fn(**arguments)
        return await anyio.to_thread.run_sync(functools.partial(fn, **arguments), abandon_on_cancel=True)

    call.__name__ = call.__qualname__ = fn.__name__
    call.__signature__ = inspect.Signature(parameters, return_annotation=result)  # pyright: ignore[reportFunctionMemberAccess]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    if result is not inspect.Signature.empty:
        call.__annotations__["return"] = result
    return call, names, isinstance(result, type) and issubclass(result, BaseModel)


def _hints(fn: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(fn, include_extras=True)
    except NameError as error:
        raise ConfigError(
            f"tool `{name}`: its annotations cannot be read ({error})",
            hint="Import the types at the top of the module, not under TYPE_CHECKING or inside a function.",
        ) from error
