"""The kit, in-process: what the decorator promises about a tool and about each call."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

import pytest
from mcp import Client, MCPError
from mcp_types import CallToolResult, TextContent, TextResourceContents
from pydantic import Field

from retinue.errors import ConfigError
from retinue.mcp_servers.kit import ResourceEntry, ToolContext, ToolServer
from retinue.protocol import IDEMPOTENCY_KEY, KEYED, SCOPE
from tests.mcp_servers.sample import SECRET, sample_server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with Client(sample_server().mcp) as client:
        yield client


def said(result: CallToolResult) -> str:
    return "".join(block.text for block in result.content if isinstance(block, TextContent))


async def failure(client: Client, name: str, arguments: dict[str, Any] | None = None) -> str:
    result = await client.call_tool(name, arguments or {})
    assert result.is_error
    return said(result)


# What clients are told


@pytest.mark.parametrize(
    ("name", "read_only", "destructive", "idempotent", "keyed", "scope"),
    [
        ("echo", True, False, True, False, "sample:read"),
        ("idempotent", False, False, True, False, "sample:write"),
        ("keyed", False, True, False, True, "sample:write"),
        ("unsafe", False, True, False, False, "sample:admin"),
    ],
)
async def test_an_effect_becomes_the_standard_annotations_and_our_meta(
    client: Client, name: str, read_only: bool, destructive: bool, idempotent: bool, keyed: bool, scope: str
) -> None:
    tool = next(tool for tool in (await client.list_tools()).tools if tool.name == name)
    assert tool.annotations is not None
    hints = tool.annotations
    assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == (read_only, destructive, idempotent)
    assert tool.meta == {KEYED: keyed, SCOPE: scope}


async def test_schemas_come_from_the_signature_without_the_context(client: Client) -> None:
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    echo = tools["echo"]
    assert echo.description == "Say it again."
    assert echo.title == "Echo"
    assert echo.input_schema["required"] == ["text"]
    assert echo.input_schema["properties"]["text"]["description"] == "What to say."
    assert echo.input_schema["additionalProperties"] is False
    assert echo.output_schema is not None
    assert set(echo.output_schema["properties"]) == {"text", "times"}
    assert tools["keyed"].input_schema["properties"] == {}


async def test_a_model_comes_back_as_structured_content_and_as_compact_json(client: Client) -> None:
    result = await client.call_tool("echo", {"text": "é", "times": 2})
    assert result.structured_content == {"text": "éé", "times": 2}
    assert said(result) == '{"text":"éé","times":2}'
    assert said(await client.call_tool("plain", {"text": "abc"})) == "ABC"


async def test_a_tool_learns_its_idempotency_key_and_reports_progress(client: Client) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    assert said(await client.call_tool("keyed", meta={IDEMPOTENCY_KEY: "run-1/intent:2.0"})) == "run-1/intent:2.0"
    assert said(await client.call_tool("keyed")) == "None"
    await client.call_tool("progress", progress_callback=note)
    assert seen == [(1, 2, "step 1"), (2, 2, "step 2")]


@pytest.mark.parametrize("key", ["", "x" * 257, "a\nb", 7])
async def test_what_cannot_be_an_idempotency_key_is_refused(client: Client, key: object) -> None:
    result = await client.call_tool("keyed", meta={IDEMPOTENCY_KEY: key})
    assert result.is_error
    assert "idempotency key" in said(result)


# What goes wrong


async def test_a_tool_that_takes_too_long_is_stopped_and_says_what_is_not_known(client: Client) -> None:
    assert await failure(client, "slow") == "`slow` took longer than its 0.05 seconds and was stopped."
    assert (await failure(client, "slow_write")).endswith("Whether it took effect is not known.")


async def test_a_result_over_the_limit_is_an_error_that_names_both_sizes(client: Client) -> None:
    assert not (await client.call_tool("large", {"size": 100})).is_error
    text = await failure(client, "large", {"size": 101})
    assert text == "The result of `large` has 101 characters; the limit is 100. Ask for less of it at a time."
    assert "carried out" in await failure(client, "large_write")


async def test_an_expected_failure_says_what_happened_and_what_to_do(client: Client) -> None:
    assert await failure(client, "refuse") == "the far side is down. Try again tomorrow."
    assert (await failure(client, "refuse_in_a_group")).startswith("one of several failed.")
    assert await failure(client, "refuse_plainly") == "not today"


async def test_an_unexpected_failure_tells_the_caller_an_id_and_the_log_the_place(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        text = await failure(client, "crash", {"argument": "bob"})
    assert "sample.py" not in text
    assert "Traceback" not in text
    error_id = text.split("(error ")[1][:8]
    assert error_id in caplog.text
    assert "RuntimeError at sample.py:" in caplog.text
    for hidden in (SECRET, "bob"):
        assert hidden not in text
        assert hidden not in caplog.text


async def test_arguments_that_do_not_fit_are_named_without_their_values(client: Client) -> None:
    text = await failure(client, "echo", {"text": "hello", "times": "many"})
    assert text.startswith("The arguments do not fit the tool's schema: times: ")
    assert "many" not in text
    assert "http" not in text
    assert "text: Field required" in await failure(client, "echo", {})
    assert await failure(client, "echo", {"text": "a", "tmies": 2}) == "`echo` has no argument named 'tmies'."


async def test_a_program_may_call_its_own_tools_without_a_client() -> None:
    result = await sample_server().mcp.call_tool("keyed", {})
    assert isinstance(result, CallToolResult)
    assert said(result) == "None"


async def test_an_unknown_tool_is_an_error(client: Client) -> None:
    assert await failure(client, "nothing") == "There is no tool named 'nothing'."


# Documents


async def test_documents_are_listed_and_read(client: Client) -> None:
    listed = {resource.uri: resource for resource in (await client.list_resources()).resources}
    assert listed["sample://doc/a"].size == 5
    assert listed["sample://doc/a"].meta == {SCOPE: "sample:read"}
    assert listed["sample://secret"].meta == {SCOPE: "sample:admin"}
    contents = (await client.read_resource("sample://doc/a")).contents[0]
    assert isinstance(contents, TextResourceContents)
    assert contents.text == "hello"


@pytest.mark.parametrize("uri", ["sample://doc/b", "sample://doc/..%2Fa", "other://x", "sample://doc/"])
async def test_a_document_that_is_not_there_is_an_invalid_parameter(client: Client, uri: str) -> None:
    with pytest.raises(MCPError) as raised:
        await client.read_resource(uri)
    assert raised.value.error.code == -32602


async def test_a_document_that_cannot_be_read_tells_an_id_only(client: Client) -> None:
    with pytest.raises(MCPError) as raised:
        await client.read_resource("sample://doc/broken")
    assert "(error " in raised.value.error.message
    assert SECRET not in raised.value.error.message


async def test_a_failing_list_and_a_prompt_that_is_not_there_leave_no_traceback(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    server = ToolServer("x")

    async def listed() -> list[ResourceEntry]:
        raise RuntimeError(SECRET)

    @server.resource("x://{name}", scope="x", listed=listed)
    async def document(name: str) -> str:
        """A document."""
        return name

    assert document is not None
    async with Client(server.mcp) as client:
        with pytest.raises(MCPError, match="listing the resources failed"):
            await client.list_resources()
        with pytest.raises(MCPError, match="no prompt"):
            await client.get_prompt("none")
    assert "Traceback" not in caplog.text
    assert SECRET not in caplog.text


# Scopes


def test_each_request_has_its_scopes_and_an_unknown_method_needs_them_all() -> None:
    server = sample_server()
    everything = frozenset({"sample:admin", "sample:read", "sample:write"})
    assert server.scopes_supported == tuple(sorted(everything))
    assert server.scope_for("tools/call", "echo") == {"sample:read"}
    assert server.scope_for("tools/call", "unsafe") == {"sample:admin"}
    assert server.scope_for("tools/call", "nothing") == frozenset()
    assert server.scope_for("tools/call", None) == frozenset()
    assert server.scope_for("resources/read", "sample://doc/a") == {"sample:read"}
    assert server.scope_for("resources/subscribe", "sample://secret") == {"sample:admin"}
    for open_method in ("initialize", "server/discover", "tools/list", "ping", "notifications/initialized", "GET", ""):
        assert server.scope_for(open_method, None) == frozenset()
    for unknown in ("prompts/get", "completion/complete", "tasks/get", "PUT"):
        assert server.scope_for(unknown, None) == everything


# What the decorator refuses


def test_a_tool_without_a_description_is_refused() -> None:
    server = ToolServer("x")

    async def bare() -> str:
        return ""

    with pytest.raises(ConfigError, match="no description"):
        server.tool(scope="x", effect="unsafe")(bare)


def test_declarations_that_cannot_work_are_refused() -> None:
    server = ToolServer("x")

    async def tool(text: Annotated[str, Field()]) -> str:
        """Say it."""
        return text

    async def untyped(text) -> str:  # type: ignore[no-untyped-def]  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]  # that is the case
        """Say it."""
        return ""

    async def many(*texts: str) -> str:
        """Say them."""
        return ""

    server.tool(scope="x", effect="unsafe")(tool)
    with pytest.raises(ConfigError, match="two tools"):
        server.tool(scope="x", effect="unsafe")(tool)
    with pytest.raises(ConfigError, match="read-only and destructive"):
        server.tool(scope="x", effect="read_only", destructive=True, name="y")(tool)
    with pytest.raises(ConfigError, match="exactly one scope"):
        server.tool(scope="a b", effect="unsafe", name="y")(tool)
    with pytest.raises(ConfigError, match="no type"):
        server.tool(scope="x", effect="unsafe")(untyped)  # pyright: ignore[reportUnknownArgumentType]
    with pytest.raises(ConfigError, match="by name"):
        server.tool(scope="x", effect="unsafe")(many)
    with pytest.raises(ConfigError, match="cannot be the name"):
        ToolServer("No Such/Name")


def test_a_server_leaves_the_logging_of_its_program_alone() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    ToolServer("x")
    assert (list(root.handlers), root.level) == before


async def test_the_lifespan_is_entered_before_the_first_request_and_left_after_the_last() -> None:
    seen: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncGenerator[None]:
        seen.append("open")
        yield
        seen.append("closed")

    server = ToolServer("x", lifespan=lifespan)

    @server.tool(scope="x", effect="read_only")
    async def look(*, ctx: ToolContext) -> str:
        """Look."""
        seen.append(ctx.tool)
        return ""

    async with Client(server.mcp) as client:
        await client.call_tool("look")
    assert look is not None
    assert seen == ["open", "look", "closed"]
