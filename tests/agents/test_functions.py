"""Python functions as tools: what a model sees of them, and what becomes of what they return and raise."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, cast

import pytest
from pydantic import BaseModel, Field

from retinue.agents.tools.base import Tool, ToolCall, ToolResult
from retinue.agents.tools.functions import FunctionToolset
from retinue.errors import ConfigError, Timeout, ToolFailed, Unreachable
from tests.support.people import NOBODY

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    city: str


@dataclass
class Point:
    x: int


async def made(function: Any, effect: Any = "read_only", **options: Any) -> Tool:
    (tool,) = await FunctionToolset(function, effect=effect, **options).open(NOBODY)
    return tool


async def call(tool: Tool, timeout: float = 20.0, **arguments: Any) -> ToolResult:
    return await tool.call(ToolCall(arguments=arguments, key="k", timeout=timeout))


async def test_the_docstring_describes_it_and_the_annotations_are_its_schema() -> None:
    def weather(place: Place, unit: Literal["C", "F"] = "C", days: Annotated[int, Field(le=3)] = 1) -> str:
        """Say the weather.

        In some place.
        """
        return f"{place.city} {unit} {days}"

    tool = await made(weather)
    assert tool.description == "Say the weather.\n\nIn some place."
    assert tool.input_schema["required"] == ["place"]
    assert tool.input_schema["additionalProperties"] is False
    assert tool.input_schema["properties"]["unit"]["enum"] == ["C", "F"]
    assert (await call(tool, place={"city": "Bern"}, days=2)).text == "Bern C 2"
    assert tool.problems({"place": {"city": "Bern"}, "days": 9}) != []


@pytest.mark.parametrize(
    ("value", "text", "structured"),
    [
        ("plain", "plain", None),
        (Place(city="Bern"), '{"city":"Bern"}', {"city": "Bern"}),
        ([Place(city="a")], '[{"city":"a"}]', [{"city": "a"}]),
        (Point(x=1), '{"x":1}', {"x": 1}),
        (None, "null", None),
        (3, "3", 3),
        ({"a": {1, 2}}, '{"a":[1,2]}', {"a": [1, 2]}),
    ],
    ids=repr,
)
async def test_what_it_returns_is_text_and_json(value: Any, text: str, structured: Any) -> None:
    def give() -> Any:
        """Give."""
        return value

    result = await call(await made(give))
    assert (result.text, result.structured, result.is_error) == (text, structured, False)


@pytest.mark.parametrize("value", [object(), 2**80, {"x": lambda: None}], ids=["object", "huge", "function"])
async def test_what_has_no_json_form_is_said_so_after_the_call_was_made(value: Any) -> None:
    def give() -> Any:
        """Give."""
        return value

    result = await call(await made(give, "unsafe"))
    assert result.is_error
    assert "has no JSON form" in result.text


async def test_what_it_raises_is_an_error_that_the_model_sees() -> None:
    def broken() -> str:
        """Break."""
        raise KeyError("x")

    result = await call(await made(broken))
    assert (result.is_error, result.text) == (True, "KeyError: 'x'")


async def test_our_own_errors_pass_as_they_are() -> None:
    async def broken() -> str:
        """Break."""
        raise Unreachable("gone")

    with pytest.raises(Unreachable):
        await call(await made(broken))


async def test_arguments_are_checked_by_its_own_types_too() -> None:
    def add(a: int) -> int:
        """Add."""
        return a

    result = await call(await made(add), a="no number")
    assert result.is_error
    assert "Invalid arguments" in result.text


async def test_one_that_takes_too_long_is_given_up_on() -> None:
    async def slow() -> str:
        """Be slow."""
        await asyncio.Event().wait()
        return ""

    release = threading.Event()

    def slow_thread() -> str:
        """Be slow."""
        release.wait(20)
        return ""

    for function in (slow, slow_thread):
        with pytest.raises(Timeout, match="took longer than 0"):
            await call(await made(function), timeout=0.05)
    release.set()


async def test_a_timeout_of_its_own_is_not_called_ours() -> None:
    def late() -> str:
        """Be late."""
        raise TimeoutError("the mail server did not answer")

    with pytest.raises(Timeout, match="timed out: the mail server"):
        await call(await made(late, "unsafe"))


async def test_a_keyed_function_gets_the_key_and_the_model_does_not_see_it() -> None:
    def put(text: str, idempotency_key: str) -> str:
        """Put."""
        return f"{text} {idempotency_key}"

    tool = await made(put, "keyed")
    assert list(tool.input_schema["properties"]) == ["text"]
    assert tool.effect.repeatable
    assert (await call(tool, text="a")).text == "a k"


async def test_parameters_may_have_any_name() -> None:
    def odd(copy: bool, model_name: str, _hidden: int = 1, schema: str = "s") -> str:
        """Be odd."""
        return f"{copy} {model_name} {_hidden} {schema}"

    tool = await made(odd)
    assert list(tool.input_schema["properties"]) == ["copy", "model_name", "_hidden", "schema"]
    assert tool.input_schema["properties"]["model_name"]["title"] == "Model Name"
    assert (await call(tool, copy=True, model_name="m", _hidden=2)).text == "True m 2 s"
    assert "model_name: " in (await call(tool, copy=True, model_name=3)).text


async def test_objects_and_partials_that_are_callable_are_functions() -> None:
    class Asker:
        """Ask it."""

        async def __call__(self, q: str) -> str:
            return f"{q}!"

    assert (await call(await made(Asker()), q="x")).text == "x!"

    def look(q: str, where: str) -> str:
        """Look."""
        return q + where

    partial = functools.partial(look, where="here")
    functools.update_wrapper(partial, look)
    del partial.__wrapped__  # pyright: ignore[reportAttributeAccessIssue]  set by update_wrapper
    assert (await call(await made(partial), q="x")).text == "xhere"


def _undocumented(q: str) -> str:
    return q


def _variadic(*q: str) -> str:
    """Take many."""
    return ""


def _positional(q: str, /) -> str:
    """Take one."""
    return q


def _lost(q: NoSuchType) -> str:  # type: ignore[name-defined] # noqa: F821 # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]
    """Take what is not there."""
    return ""


def _keyless(q: str) -> str:
    """Have no key."""
    return q


@pytest.mark.parametrize(
    ("function", "effect", "said"),
    [
        (_undocumented, "read_only", "no docstring"),
        (_variadic, "read_only", "takes \\*q"),
        (_positional, "read_only", "takes q"),
        (cast(Any, _lost), "read_only", "NoSuchType"),
        (_keyless, "keyed", "no parameter idempotency_key"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_when_it_is_written_down(
    function: Any, effect: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        FunctionToolset(function, effect=effect)


@pytest.mark.parametrize(
    ("effect", "decision"),
    [("read_only", "allow"), ("idempotent", "allow"), ("keyed", "allow"), ("unsafe", "ask")],
)
async def test_only_an_unsafe_function_asks_by_itself(effect: Any, decision: str) -> None:
    def put(text: str, idempotency_key: str = "") -> str:
        """Put."""
        return text

    assert (await made(put, effect)).decision == decision
    assert (await made(put, effect, ask=["put"])).decision == "ask"
    assert (await made(put, effect, allow=["put"])).decision == "allow"
    assert (await made(put, effect, ask=["put"], deny=["p*"])).decision == "deny"


async def test_a_schema_does_not_make_anybody_fetch_anything() -> None:
    def look(q: str) -> str:
        """Look."""
        return q

    tool = replace(await made(look), input_schema={"$ref": "http://127.0.0.1:9/schema.json"})
    with contextlib.suppress(ToolFailed):
        assert tool.problems({}) == []
