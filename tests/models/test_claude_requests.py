"""What is sent: every request here passed the strict server's checks, unless the test says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import orjson
import pytest
from pydantic import BaseModel, Field

from retinue.agents.models import ClaudeModel, Profile, Request, ToolSpec
from retinue.errors import ModelError, SignInNeeded
from tests.models.conftest import KEY, Time, ask
from tests.support.messages_server import MessagesServer, calls, messages_server, says

pytestmark = pytest.mark.anyio
Claude = Callable[..., ClaudeModel]

SEARCH: ToolSpec = {
    "name": "search",
    "description": "Search the library.",
    "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
}


class Finding(BaseModel):
    quote: str = Field(min_length=40)
    sure: float = Field(ge=0, le=1)
    pages: list[int] = Field(max_length=3)
    note: str | None = None


def marks(server: MessagesServer) -> int:
    return str(server.requests[-1].body).count("cache_control")


async def test_a_request_carries_prompt_conversation_and_limit_and_nothing_that_was_not_asked_for(
    claude: Claude,
) -> None:
    async with messages_server([says("Because.")]) as server:
        await claude(server, profile=Profile(cache=False)).complete(ask(max_tokens=99))
    assert server.requests[0].body == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 99,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Why?"}],
    }


async def test_no_sampling_parameter_and_no_agent_name_is_sent(claude: Claude) -> None:
    async with messages_server([says("Because.")]) as server:
        await claude(server).complete(ask(agent="secret-scout"))
    assert "temperature" not in server.requests[0].body
    assert "secret-scout" not in str(server.requests[0].body)


async def test_a_plain_request_is_made_unless_somebody_listens(claude: Claude) -> None:
    async with messages_server([says("a"), says("b")]) as server:
        model = claude(server)
        await model.complete(ask())
        await model.complete(ask(), on_text=lambda _: None)
    assert [request.streamed for request in server.requests] == [False, True]


async def test_an_answer_that_may_take_long_is_streamed_though_nobody_listens(claude: Claude) -> None:
    async with messages_server([says("a"), says("b")]) as server:
        model = claude(server)
        await model.complete(ask(max_tokens=21_333))
        reply = await model.complete(ask(max_tokens=21_334))
    assert [request.streamed for request in server.requests] == [False, True]
    assert reply.content == [{"type": "text", "text": "b"}]


async def test_the_headers_are_those_that_the_sdk_itself_sends(claude: Claude) -> None:
    async with messages_server([says("a"), says("b")]) as server:
        async with anthropic.AsyncAnthropic(
            api_key=KEY, base_url=server.url, http_client=anthropic.DefaultAioHttpClient()
        ) as sdk:
            await sdk.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}])
        await claude(server).complete(ask())
    theirs, ours = (dict(request.headers) for request in server.requests)
    for name in ("content-length", "x-stainless-retry-count", "x-stainless-timeout", "x-stainless-read-timeout"):
        theirs.pop(name, None)
    ours.pop("content-length")
    assert ours == theirs
    assert ours["authorization"] == f"Bearer {KEY}"
    assert ours["anthropic-version"] == "2026-10-21"


async def test_a_path_in_the_base_url_is_kept(claude: Claude) -> None:
    async with messages_server([]) as server:
        with pytest.raises(ModelError):
            await claude(f"{server.url}/proxy/").complete(ask())
    assert server.refused[0].message == "Not found: /proxy/v1/messages"


async def test_a_server_without_credentials_gets_none_even_if_the_environment_has_some(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-for-this-server")
    async with messages_server([]) as server:
        with pytest.raises(Exception, match="refused the credentials"):
            await claude(server, api_key=None).complete(ask())
    assert server.refused[0].kind == "authentication_error"
    assert server.refused[0].message == "x-api-key header is required"


async def test_a_bearer_token_is_used_where_there_is_no_key(claude: Claude) -> None:
    async with messages_server([says("a")], key="token-1") as server:
        await claude(server, api_key=None, auth_token="token-1").complete(ask())
    assert server.requests[0].headers["authorization"] == "Bearer token-1"


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
async def test_a_model_written_without_credentials_uses_those_of_the_environment(
    time: Time, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with messages_server([says("a")], key="from-env") as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv(name, "from-env")
        await ClaudeModel(retry=time.policy()).complete(ask())


@pytest.mark.parametrize("signed_in", [True, False])
async def test_a_profile_of_the_sdk_signs_the_calls(
    time: Time, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signed_in: bool
) -> None:
    async with messages_server([says("a")], key="minted") as server:
        for folder, content in (
            ("configs", {"authentication": {"type": "user_oauth"}, "base_url": server.url}),
            ("credentials", {"access_token": "minted", "expires_at": 4_000_000_000}),
        ):
            (tmp_path / folder).mkdir()
            file = tmp_path / folder / "work.json"
            if signed_in or folder == "configs":
                file.write_bytes(orjson.dumps(content))
                file.chmod(0o600)
        monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
        monkeypatch.setenv("ANTHROPIC_PROFILE", "work")
        model = ClaudeModel(retry=time.policy())
        if signed_in:
            await model.complete(ask())
            assert server.requests[0].headers["authorization"] == "Bearer minted"
        else:
            with pytest.raises(SignInNeeded, match="cannot be used"):
                await model.complete(ask())


async def test_user_and_password_of_the_base_url_are_sent_where_there_is_no_key(claude: Claude) -> None:
    async with messages_server([says("a"), says("b")]) as server:
        url = server.url.replace("://", "://me:word@")
        await claude(url, api_key=None).complete(ask())
        await claude(url).complete(ask())
    assert [request.headers["authorization"] for request in server.requests] == ["Basic bWU6d29yZA==", f"Bearer {KEY}"]


async def test_the_prompt_with_the_tools_and_the_last_two_turns_end_in_a_cache_breakpoint(claude: Claude) -> None:
    conversation: list[Any] = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "search", "input": {"query": "x"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "found"}]},
    ]
    before = str(conversation)
    async with messages_server([says("a"), says("b"), says("c")]) as server:
        model = claude(server)
        await model.complete(ask(messages=conversation, tools=[SEARCH]))
        body = server.requests[0].body
        mark = {"cache_control": {"type": "ephemeral"}}
        assert body["system"] == [{"type": "text", "text": "Be brief.", **mark}]
        assert body["messages"][0]["content"] == [{"type": "text", "text": "Why?", **mark}]
        assert body["messages"][2]["content"] == [{**conversation[2]["content"][0], **mark}]
        assert marks(server) == 3
        await model.complete(ask(system="", tools=[SEARCH]))
        assert server.requests[1].body["tools"] == [{**SEARCH, **mark}]
        await claude(server, profile=Profile(cache=False)).complete(ask(messages=conversation))
        assert marks(server) == 0
    assert str(conversation) == before, "the caller's conversation is not changed"


async def test_a_long_conversation_keeps_to_the_four_breakpoints_that_are_allowed(claude: Claude) -> None:
    turns: list[Any] = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(21)]
    async with messages_server([says("a")]) as server:
        await claude(server).complete(ask(messages=turns, tools=[SEARCH]))
    assert marks(server) == 3
    assert server.refused == []


@pytest.mark.parametrize("empty", ["", " \n "])
async def test_empty_texts_that_may_not_be_sent_are_left_out(claude: Claude, empty: str) -> None:
    blank = {"type": "text", "text": empty}
    conversation: list[Any] = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [blank, {"type": "tool_use", "id": "a", "name": "search", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [blank]}]},
        {"role": "assistant", "content": []},
        {"role": "user", "content": "Again, please."},
    ]
    async with messages_server([says("a")]) as server:
        await claude(server, profile=Profile(cache=False)).complete(ask(messages=conversation))
    assert [message["content"] for message in server.requests[0].body["messages"]] == [
        "Why?",
        [{"type": "tool_use", "id": "a", "name": "search", "input": {}}],
        [{"type": "tool_result", "tool_use_id": "a", "content": []}],
        "Again, please.",
    ]


async def test_an_output_schema_is_enforced_in_the_dialect_of_the_service(claude: Claude) -> None:
    schema = Finding.model_json_schema()
    async with messages_server([says("{}")]) as server:
        await claude(server).complete(ask(output=schema, tools=[SEARCH]))
    form = server.requests[0].body["output_config"]["format"]
    assert form["type"] == "json_schema"
    assert form["schema"]["additionalProperties"] is False
    assert "minimum: 0" in form["schema"]["properties"]["sure"]["description"], (
        "a limit is told where it cannot be held"
    )
    assert server.requests[0].system == "Be brief."
    assert schema == Finding.model_json_schema()


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "object", "additionalProperties": {"type": "string"}}, id="an open map"),
        pytest.param({"type": "array", "items": {"type": "string"}}, id="a list at the root"),
        pytest.param(
            {"type": "object", "properties": {"any": {}}, "additionalProperties": False}, id="an untyped value"
        ),
        pytest.param(
            {
                "$defs": {
                    "Tree": {
                        "type": "object",
                        "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
                    }
                },
                "$ref": "#/$defs/Tree",
            },
            id="a recursive type",
        ),
    ],
)
async def test_a_schema_that_the_service_cannot_enforce_is_asked_for_in_words(
    claude: Claude, schema: dict[str, Any]
) -> None:
    async with messages_server([says("{}")]) as server:
        await claude(server).complete(ask(output=schema))
    assert "output_config" not in server.requests[0].body
    assert "one JSON value that fits this JSON Schema" in server.requests[0].system
    assert server.requests[0].system.startswith("Be brief.")


async def test_a_server_without_structured_output_is_asked_in_words(claude: Claude) -> None:
    async with messages_server([says("{}")]) as server:
        await claude(server, profile=Profile(structured=False)).complete(ask(output=Finding.model_json_schema()))
    assert "output_config" not in server.requests[0].body
    assert '"quote"' in server.requests[0].system


async def test_effort_is_sent_where_the_server_knows_it(claude: Claude) -> None:
    async with messages_server([says("a"), says("b")]) as server:
        await claude(server, effort="low").complete(ask())
        await claude(server, effort="low", profile=Profile(effort=False)).complete(ask())
    assert server.requests[0].body["output_config"] == {"effort": "low"}
    assert "output_config" not in server.requests[1].body


async def test_a_tool_schema_with_branches_at_its_top_is_sent_without_them(claude: Claude) -> None:
    awkward: ToolSpec = {
        "name": "either",
        "description": "Takes one of two.",
        "input_schema": {"properties": {"a": {"type": "string"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    }
    async with messages_server([calls(("either", {"a": "1"}))]) as server:
        await claude(server).complete(ask(tools=[awkward]))
    assert server.requests[0].body["tools"][0]["input_schema"] == {
        "type": "object",
        "properties": {"a": {"type": "string"}},
    }
    assert "anyOf" in awkward["input_schema"]


async def test_a_whole_exchange_with_parallel_tools_is_accepted_by_the_service(claude: Claude) -> None:
    async with messages_server(
        [calls(("search", {"query": "a"}), ("search", {"query": "b"}), text="Let me look."), says("Done.")]
    ) as server:
        model = claude(server)
        request = ask(tools=[SEARCH])
        first = await model.complete(request)
        uses = [block for block in first.content if block["type"] == "tool_use"]
        results = [
            {
                "type": "tool_result",
                "tool_use_id": use["id"],
                "content": [{"type": "text", "text": use["input"]["query"]}],
            }
            for use in uses
        ]
        conversation: list[Any] = [
            *request.messages,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": results},
        ]
        second = await model.complete(Request(system="Be brief.", messages=conversation, tools=[SEARCH]))
    assert second.content == [{"type": "text", "text": "Done."}]
    assert server.requests[1].results == ["a", "b"]
    assert server.refused == []
