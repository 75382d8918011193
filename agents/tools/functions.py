"""Python functions as tools."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio
import anyio.to_thread
import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from retinue.errors import ConfigError, RetinueError, Timeout

from ..policy import Policy
from .base import Connections, Effect, EffectClass, Tool, ToolCall, ToolResult
from .wrappers import Wrappable

KEY_PARAMETER = "idempotency_key"
"""A function of effect ``keyed`` receives the call's key under this name; the model never sees the parameter."""


class FunctionToolset(Wrappable):
    """Functions of this process as tools; the docstring is the description, the annotations are the schema.

    ``effect`` must be said for them all: ``read_only``, ``idempotent``, ``keyed`` (takes ``idempotency_key``) or
    ``unsafe``, which asks a person unless ``allow`` says otherwise. Functions with other effects go in another toolset.
    """

    def __init__(
        self,
        functions: Callable[..., Any] | Sequence[Callable[..., Any]],
        *,
        effect: EffectClass,
        name: str = "functions",
        ask: Sequence[str] = (),
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        timeout: float = 60.0,
    ) -> None:
        listed = [functions] if callable(functions) else list(functions)
        self._name = name
        policy = Policy(ask=ask, allow=allow, deny=deny)
        self._tools = [_tool(f, name, Effect.of(effect), policy, timeout) for f in listed]

    @property
    def name(self) -> str:
        return self._name

    async def open(self, connections: Connections) -> Sequence[Tool]:
        return self._tools


def _tool(function: Callable[..., Any], server: str, effect: Effect, policy: Policy, timeout: float) -> Tool:
    name = getattr(function, "__name__", type(function).__name__)
    description = inspect.getdoc(function)
    if not description:
        raise ConfigError(f"the tool function {name} has no docstring", hint="The model chooses tools by it.")
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise ConfigError(f"an annotation of the tool function {name} names nothing: {error}") from None
    fields: dict[str, Any] = {}
    names: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.name == KEY_PARAMETER:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigError(f"the tool function {name} takes {parameter}", hint="Use named, annotated parameters.")
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        default = ... if parameter.default is parameter.empty else parameter.default
        # Under an alias: a name such as copy or model_x is the function's to choose, but means something to pydantic.
        fields[f"p{len(fields)}"] = (annotation, Field(default=default, alias=parameter.name))
        names.append(parameter.name)
    takes_key = KEY_PARAMETER in signature.parameters
    if effect.keyed and not takes_key:
        raise ConfigError(f"the keyed tool function {name} has no parameter {KEY_PARAMETER}")
    arguments = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    schema = arguments.model_json_schema()
    schema.pop("title", None)
    returned = TypeAdapter[Any](Any if signature.return_annotation is signature.empty else signature.return_annotation)
    is_async = inspect.iscoroutinefunction(function)

    async def call(request: ToolCall) -> ToolResult:
        try:
            parsed = arguments.model_validate(request.arguments)
        except ValidationError as error:
            return ToolResult.error(f"Invalid arguments: {error.error_count()} problem(s): {_first(error)}")
        values = {name: getattr(parsed, field) for name, field in zip(names, fields, strict=True)}
        if takes_key:
            values[KEY_PARAMETER] = request.key
        try:
            with anyio.move_on_after(request.timeout):
                if is_async:
                    result = await function(**values)
                else:
                    result = await anyio.to_thread.run_sync(lambda: function(**values), abandon_on_cancel=True)
                if inspect.isawaitable(result):  # an object whose __call__ is async
                    result = await result
                return _result(result, returned)
        except RetinueError:
            raise
        except TimeoutError as error:  # its own: what it waited for may have happened
            raise Timeout(f"the tool {server}/{name} timed out: {error}") from None
        except Exception as error:
            return ToolResult.error(f"{type(error).__name__}: {error}")
        raise Timeout(f"the tool {server}/{name} took longer than {request.timeout:g} s")

    return Tool(
        server=server,
        name=name,
        exposed=name,
        description=description,
        input_schema=schema,
        effect=effect,
        decision=policy.decide(server, name, effect),
        call=call,
        timeout=timeout,
    )


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'/'.join(map(str, first['loc']))}: {first['msg']}"


def _result(value: Any, adapter: TypeAdapter[Any]) -> ToolResult:
    if isinstance(value, ToolResult):
        return value
    if isinstance(value, str):
        return ToolResult(content=[{"type": "text", "text": value}])
    try:
        model = isinstance(value, BaseModel)
        data = value.model_dump(mode="json") if model else adapter.dump_python(value, mode="json")
        text = orjson.dumps(data).decode()
    except (ValueError, TypeError) as error:  # the call was made: it is not the one to fail
        return ToolResult.error(f"The tool answered with a {type(value).__name__}, which has no JSON form: {error}")
    return ToolResult(content=[{"type": "text", "text": text}], structured=cast(Any, data))
