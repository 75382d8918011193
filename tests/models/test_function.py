"""Functions in place of a model."""

from __future__ import annotations

from time import monotonic
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from retinue.agents.models import FREE, FunctionCall, FunctionModel, Model, Reply, Request, ToolUse, Usage
from retinue.errors import ModelError, PolicyDenied, Timeout
from tests.models.conftest import ask

pytestmark = pytest.mark.anyio

TOOLS: list[Any] = [
    {"name": "search", "description": "", "input_schema": {"type": "object"}},
    {"name": "read", "description": "", "input_schema": {"type": "object"}},
]


class Finding(BaseModel):
    quote: str
    pages: tuple[int, ...] = ()


def conversation(*turns: Any, **fields: Any) -> Request:
    """Turns after the task: the assistant's and the user's in alternation."""
    messages: list[Any] = [{"role": "user", "content": "Find it."}]
    messages += [{"role": ("assistant", "user")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return ask(messages=messages, tools=TOOLS, **fields)


def used(id_: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": name, "input": arguments}


def result(id_: str, *texts: str, is_error: bool = False) -> dict[str, Any]:
    blocks = [{"type": "text", "text": text} for text in texts]
    return {"type": "tool_result", "tool_use_id": id_, "content": blocks, **({"is_error": True} if is_error else {})}


async def answer(given: Any, request: Request | None = None) -> Reply:
    return await FunctionModel(lambda _: given, name="f").complete(request or conversation())


async def test_a_function_model_says_that_it_is_no_language_model_and_costs_nothing() -> None:
    def scout(_: FunctionCall) -> str:
        return "x"

    model: Model = FunctionModel(scout)
    assert (model.name, model.language_model, model.price) == ("function:scout", False, FREE)
    assert (await model.complete(conversation())).usage == Usage()


async def test_text_is_an_answer() -> None:
    reply = await answer("Because.")
    assert reply == Reply(
        content=[{"type": "text", "text": "Because."}], stop_reason="end_turn", model="function:f", usage=Usage()
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Finding(quote="so", pages=(1, 2)), '{"quote":"so","pages":[1,2]}'),
        ({"found": Finding(quote="so")}, '{"found":{"quote":"so","pages":[]}}'),
        ([Finding(quote="so")], '[{"quote":"so","pages":[]}]'),
        ([], "[]"),
        (7, "7"),
    ],
)
async def test_structured_output_becomes_json(given: Any, text: str) -> None:
    assert (await answer(given)).content == [{"type": "text", "text": text}]


async def test_calls_of_tools_have_ids_that_follow_from_turn_and_place() -> None:
    both = [ToolUse("search", {"query": "a"}), ToolUse("read", {"document": "b"})]
    first = await answer(both)
    assert first.stop_reason == "tool_use"
    assert first.content == [
        used("toolu_fn_0_0", "search", query="a"),
        used("toolu_fn_0_1", "read", document="b"),
    ]
    later = conversation(first.content, [result("toolu_fn_0_0"), result("toolu_fn_0_1")])
    assert (await answer(ToolUse("read", {}), later)).content == [used("toolu_fn_1_0", "read")]
    assert await answer(both) == first


async def test_a_function_asks_for_tools_that_the_agent_has() -> None:
    model = FunctionModel(lambda call: call.use("search", query=call.task))
    assert (await model.complete(conversation())).content == [used("toolu_fn_0_0", "search", query="Find it.")]
    with pytest.raises(ModelError, match="there is no tool 'search'; there are: none"):
        await model.complete(ask())


async def test_a_reply_is_handed_on_with_the_models_name() -> None:
    reply = await answer(Reply(content=[], stop_reason="refusal", model=""))
    assert (reply.stop_reason, reply.model) == ("refusal", "function:f")
    assert (await answer(Reply(content=[], stop_reason="refusal", model="x"))).model == "x"


async def test_a_function_sees_task_turn_tools_and_output() -> None:
    call = FunctionCall(conversation([used("a", "search")], [result("a", "x")], output={"type": "object"}))
    assert (call.task, call.turn, list(call.tools), call.output) == (
        "Find it.",
        1,
        ["search", "read"],
        {"type": "object"},
    )
    assert FunctionCall(Request(system="", messages=[])).task == ""


async def test_results_come_with_the_call_that_they_answer() -> None:
    call = FunctionCall(
        conversation(
            [used("a", "search", query="x"), used("b", "read", document="d"), used("c", "read", document="e")],
            [result("a", '{"hits": [1]}'), result("b", "plain", "text"), result("c", "gone", is_error=True)],
            [used("d", "search", query="y")],
            [result("d", '{"n": 1}', '{"n": 2}')],
        )
    )
    search, read, failed, again = call.results
    assert (search.name, search.arguments, search.data) == ("search", {"query": "x"}, {"hits": [1]})
    assert (read.text, read.data, read.is_error) == ("plain\ntext", None, False)
    assert failed.is_error
    assert again.data == [{"n": 1}, {"n": 2}]
    assert call.results_of("read") == [read]


async def test_a_result_may_be_a_plain_string_or_empty_or_hold_an_image() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    call = FunctionCall(
        conversation(
            [used("a", "search"), used("b", "search"), used("c", "search")],
            [
                {"type": "tool_result", "tool_use_id": "a", "content": "[1]"},
                {"type": "tool_result", "tool_use_id": "b"},
                {"type": "tool_result", "tool_use_id": "c", "content": [image]},
            ],
        )
    )
    assert [(r.text, r.data) for r in call.results] == [("[1]", [1]), ("", None), ("", None)]


async def test_corrections_are_told_apart_from_results() -> None:
    call = FunctionCall(
        conversation(
            [used("a", "search")],
            [result("a", "x"), {"type": "text", "text": "Mind the quotes."}],
            "a draft",
            "Your answer is not valid.",
        )
    )
    assert call.feedback == ["Mind the quotes.", "Your answer is not valid."]
    assert FunctionCall(conversation()).feedback == []


async def test_a_function_may_be_async_and_ends_at_the_deadline() -> None:
    async def slow(call: FunctionCall) -> str:
        await anyio.lowlevel.checkpoint()
        return call.task

    async def endless(_: FunctionCall) -> str:
        await anyio.sleep_forever()
        return ""

    assert (await FunctionModel(slow).complete(conversation(), deadline=monotonic() + 60)).content[0][
        "text"
    ] == "Find it."
    with anyio.fail_after(5), pytest.raises(Timeout, match="function:endless"):
        await FunctionModel(endless).complete(conversation(), deadline=monotonic() + 0.02)


async def test_text_is_heard() -> None:
    heard: list[str] = []
    await FunctionModel(lambda _: "Because.").complete(conversation(), on_text=heard.append)
    await FunctionModel(lambda _: ToolUse("search", {})).complete(conversation(), on_text=heard.append)
    assert heard == ["Because."]


async def test_a_mistake_in_a_function_names_the_function_and_is_a_model_error() -> None:
    def broken(_: FunctionCall) -> str:
        raise KeyError("quote")

    with pytest.raises(ModelError, match=r"function:broken failed: KeyError: 'quote'") as caught:
        await FunctionModel(broken).complete(conversation())
    assert isinstance(caught.value.__cause__, KeyError)


async def test_an_error_of_ours_passes_through_a_function() -> None:
    def deny(_: FunctionCall) -> str:
        raise PolicyDenied("no")

    with pytest.raises(PolicyDenied):
        await FunctionModel(deny).complete(conversation())


@pytest.mark.parametrize("given", [None, object(), [ToolUse("search", {}), "text"], {"a": object()}])
async def test_what_is_no_answer_is_a_model_error(given: Any) -> None:
    with pytest.raises(ModelError, match="function:f failed: TypeError"):
        await answer(given)
