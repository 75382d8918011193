"""The test's server is as strict as the real one, and its answers are what the SDK understands."""

from __future__ import annotations

import copy
import ssl
from collections.abc import Callable
from typing import Any

import anthropic
import anyio
import httpx2
import pytest

from retinue.agents.models import ClaudeModel
from tests.models.conftest import ask
from tests.support.messages_server import (
    Gate,
    MessagesServer,
    calls,
    fails,
    messages_server,
    messages_server_aside,
    says,
)

pytestmark = pytest.mark.anyio

HEADERS = {"authorization": "Bearer k", "anthropic-version": "2026-10-21", "content-type": "application/json"}
USE: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "search", "input": {}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"}
MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
TOOL: dict[str, Any] = {"name": "search", "description": "", "input_schema": {"type": "object", "properties": {}}}


TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Making one for each client is what takes the time in tests."""


def client_of(server: MessagesServer) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, verify=TLS)


def good() -> dict[str, Any]:
    return {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be brief.", **MARK}],
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": [{"type": "text", "text": "Let me look."}, USE]},
            {"role": "user", "content": [RESULT, {"type": "text", "text": "And?"}]},
        ],
    }


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def output(schema: Any) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def named(**change: Any) -> dict[str, Any]:
    return {"tools": [{**TOOL, **change}]}


WHY = {"role": "user", "content": "Why?"}
NO_SIZE: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 3}},
    "additionalProperties": False,
}

BAD_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.2}, "temperature: Extra inputs are not permitted"),
    ({"top_p": 1}, "top_p: Extra inputs are not permitted"),
    ({"output_format": {}}, "output_format: Extra inputs are not permitted"),
    ({"model": None}, "model: "),
    ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
    ({"max_tokens": 200_000}, "max_tokens: 200000 > 128000"),
    ({"max_tokens": "many"}, "max_tokens: Input should be a valid integer"),
    ({"stream": "yes"}, "stream: Input should be a valid boolean"),
    ({"system": 7}, "system: "),
    ({"system": [{"type": "text", "text": ""}]}, "system.0: text content blocks must be non-empty"),
    ({"system": [{"type": "image"}]}, "system.0: Input should be a text block"),
    (named(name="no spaces"), "should match pattern"),
    (named(name=""), "should match pattern"),
    (named(colour="red"), "tools.0.custom.colour: Extra inputs"),
    ({"tools": [TOOL, TOOL]}, "Tool names must be unique"),
    (named(input_schema={"properties": {}}), "input_schema.type: Input should be 'object'"),
    (named(input_schema={"type": "object", "anyOf": []}), "at the top level"),
    (named(input_schema={"type": "object", "properties": {"a": {"type": "text"}}}), "JSON schema is invalid"),
    ({"tool_choice": {"type": "tool", "name": "search"}}, "does not support forced tool use"),
    ({"tools": [], "tool_choice": {"type": "auto"}}, "may only be specified while providing tools"),
    ({"output_config": {"effort": "huge"}}, "output_config.effort"),
    ({"output_config": {"style": "x"}}, "output_config.style: Extra inputs"),
    (output({"type": "object", "properties": {}}), "must be explicitly set to false"),
    (output(NO_SIZE), "For 'integer' type, properties maximum are not supported"),
    (output({"type": "string"}), "the root must be an object"),
    (output({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}), "Recursive schemas are not supported"),
    ({"messages": []}, "at least one message is required"),
    ({"messages": [assistant("x"), WHY]}, "messages.0.content.0: Input should be a valid dictionary"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
    ({"messages": [{"role": "user", "content": []}]}, "non-empty content"),
    ({"messages": [{**WHY, "name": "x"}]}, "messages.0.name: Extra inputs"),
    ({"messages": [user({"type": "text", "text": " \n"})]}, "non-whitespace"),
    ({"messages": [user({"type": "text", "text": "x", "mood": "y"})]}, "mood: Extra inputs"),
    ({"messages": [user({"type": "hologram"})]}, "does not match any of the expected tags"),
    ({"messages": [user(USE)]}, "`tool_use` blocks can not be in user messages"),
    ({"messages": [WHY, assistant(RESULT)]}, "`tool_result` blocks can not be in assistant messages"),
    ({"messages": [{"role": "assistant", "content": "x"}, WHY]}, 'first message must use the "user" role'),
    ({"messages": [WHY, {"role": "assistant", "content": "Because"}]}, "does not support assistant message prefill"),
    ({"messages": [WHY, assistant(USE), WHY]}, "without `tool_result` blocks immediately after: toolu_1"),
    ({"messages": [WHY, assistant(USE), assistant(USE), user(RESULT)]}, "ids must be unique"),
    ({"messages": [user(RESULT)]}, "unexpected `tool_use_id`"),
    (
        {"messages": [WHY, assistant(USE), user(RESULT), {"role": "assistant", "content": "x"}, user(RESULT)]},
        "unexpected",
    ),
    ({"messages": [WHY, assistant(USE), user(RESULT, RESULT)]}, "must have a single result"),
    (
        {"messages": [WHY, assistant(USE), user({"type": "text", "text": "x"}, RESULT)]},
        "must come before other content",
    ),
    ({"messages": [WHY, assistant({**USE, "id": "a b"}), user(RESULT)]}, "tool_use.id"),
    ({"messages": [WHY, assistant({**USE, "input": "x"}), user(RESULT)]}, "tool_use.input"),
    (
        {"messages": [WHY, assistant(USE), user({**RESULT, "content": [{"type": "text", "text": ""}]})]},
        "text content blocks must be non-empty",
    ),
    (
        {"messages": [WHY, assistant({"type": "thinking", "thinking": "x", "signature": "y"}), WHY]},
        "`thinking` blocks cannot be modified",
    ),
    ({"messages": [user(*({"type": "text", "text": "x", **MARK} for _ in range(4)))]}, "A maximum of 4 blocks"),
    ({"messages": [user({"type": "text", "text": "x", "cache_control": {"type": "forever"}})]}, "cache_control"),
]


@pytest.mark.parametrize(("change", "says_"), BAD_BODIES)
async def test_a_body_that_the_real_service_refuses_is_refused(change: dict[str, Any], says_: str) -> None:
    body = {**good(), **copy.deepcopy(change)}
    async with messages_server([says("never")]) as server, client_of(server) as client:
        response = await client.post("/v1/messages", headers=HEADERS, json=body)
        assert server.requests == []
    assert response.status_code == 400
    told = response.json()
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert says_ in told["error"]["message"]
    assert told["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"authorization": ""}, 401, "authentication_error"),
        ({"authorization": "Bearer wrong"}, 401, "authentication_error"),
        ({"anthropic-version": "1999-01-01"}, 400, "invalid_request_error"),
        ({"anthropic-version": ""}, 400, "invalid_request_error"),
        ({"content-type": "text/plain"}, 400, "invalid_request_error"),
    ],
)
async def test_headers_that_the_real_service_refuses_are_refused(
    change: dict[str, str], status: int, kind: str
) -> None:
    async with messages_server([says("never")], key="k") as server, client_of(server) as client:
        response = await client.post("/v1/messages", headers={**HEADERS, **change}, json=good())
        assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
        assert [refusal.kind for refusal in server.refused] == [kind]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "m"}'])
async def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    async with messages_server([]) as server, client_of(server) as client:
        response = await client.post("/v1/messages", headers=HEADERS, content=body)
    assert response.status_code == 400


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/messages", 405), ("POST", "/v1/complete", 404)])
async def test_there_is_one_way_in(method: str, path: str, status: int) -> None:
    async with messages_server([]) as server, client_of(server) as client:
        response = await client.request(method, path, headers=HEADERS)
    assert response.status_code == status


async def test_turns_of_one_role_in_a_row_count_as_one_as_in_the_real_service() -> None:
    body = {**good(), "messages": [WHY, WHY, assistant(USE), user(RESULT), WHY]}
    async with messages_server([says("Fine.")]) as server, client_of(server) as client:
        response = await client.post("/v1/messages", headers=HEADERS, json=body)
    assert response.status_code == 200


async def test_a_good_request_is_good() -> None:
    async with messages_server([says("Fine.")]) as server, client_of(server) as client:
        response = await client.post("/v1/messages", headers=HEADERS, json=good())
        assert server.refused == []
    assert response.json()["content"] == [{"type": "text", "text": "Fine."}]
    assert server.requests[0].results == ["found"]
    assert server.requests[0].task == "Why?"
    assert server.requests[0].tools == ["search"]
    assert server.requests[0].system == "Be brief."


async def test_the_sdk_reads_the_same_message_from_an_answer_and_from_a_stream() -> None:
    thinking = {"type": "thinking", "thinking": "Let me see about it.", "signature": "c2ln"}
    step = says("It is so.", thinking, *calls(("search", {"query": "réfund"})).content, stop_reason="tool_use")
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [WHY]}
    async with (
        messages_server([step, step]) as server,
        anthropic.AsyncAnthropic(api_key="k", base_url=server.url, max_retries=0) as sdk,
    ):
        create: Any = sdk.messages.create
        whole = await create(**asked)
        async with sdk.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
    exclude = {"id": True, "content": {"__all__": {"parsed_output"}}}
    assert streamed.model_dump(exclude=exclude, exclude_none=True) == whole.model_dump(
        exclude={"id"}, exclude_none=True
    )


async def test_the_script_may_be_a_function_of_the_request(claude: Callable[..., ClaudeModel]) -> None:
    async with messages_server(lambda request: says(request.task[::-1])) as server:
        reply = await claude(server).complete(ask("abc"))
        assert server.left == 0
    assert reply.content[0]["text"] == "cba"


async def test_a_script_that_is_used_up_is_an_error_that_nobody_retries(claude: Callable[..., ClaudeModel]) -> None:
    async with messages_server([]) as server:
        with pytest.raises(Exception, match="no step left"):
            await claude(server).complete(ask())
        assert len(server.requests) == 1


async def test_steps_that_were_not_asked_for_are_counted() -> None:
    async with messages_server([says("a"), fails(500)]) as server:
        assert server.left == 2


async def test_a_server_that_holds_an_answer_ends_with_its_test(claude: Callable[..., ClaudeModel]) -> None:
    gate = Gate()
    with anyio.fail_after(5):
        async with messages_server([says("late").held(gate)]) as server, anyio.create_task_group() as group:
            group.start_soon(claude(server).complete, ask())
            await gate.reached.wait()
            group.cancel_scope.cancel()


def test_a_test_that_blocks_has_the_server_in_a_thread() -> None:
    with messages_server_aside([says("Fine.")]) as server:
        response = httpx2.post(f"{server.url}/v1/messages", headers=HEADERS, json=good())
    assert response.json()["stop_reason"] == "end_turn"
