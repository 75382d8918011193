"""The client hub: policy against a server in this process, failures against a real one over stdio."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import StdioServerParameters

from retinue.agents.policy import Policy
from retinue.agents.tools.base import Effect, Tool, ToolCall
from retinue.agents.tools.hub import Hub, Known, ServerEntry
from retinue.agents.tools.mcp import MCPToolset
from retinue.errors import ConfigError, Timeout, Unreachable
from retinue.protocol import IDEMPOTENCY_KEY
from tests.agents.tools.server import server

pytestmark = pytest.mark.anyio

SERVER = Path(__file__).with_name("server.py")


def command() -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=[str(SERVER)])


Find = Callable[..., Hub]


@pytest.fixture
async def make_hub() -> AsyncIterator[Find]:
    hubs: list[Hub] = []

    def make(**entry: Any) -> Hub:
        async def find(name: str) -> ServerEntry:
            known: dict[str, Any] = {"target": lambda: server, **entry}
            return ServerEntry(**known)

        hubs.append(Hub(find))
        return hubs[-1]

    yield make
    for hub in hubs:
        await hub.close()


async def opened(hub: Hub, **rules: Any) -> dict[str, Tool]:
    return {tool.name: tool for tool in await MCPToolset("foreign", **rules).open(hub)}


def call(key: str = "k1", timeout: float = 20.0, **arguments: Any) -> ToolCall:
    return ToolCall(arguments=arguments, key=key, timeout=timeout)


async def test_the_annotations_of_a_foreign_server_relax_nothing(make_hub: Find) -> None:
    tools = await opened(make_hub())
    assert {tool.effect for tool in tools.values()} == {Effect()}
    assert {tool.decision for tool in tools.values()} == {"ask"}


async def test_the_annotations_of_a_trusted_server_count(make_hub: Find) -> None:
    tools = await opened(make_hub(trusted=True))
    assert tools["look"].effect == Effect(read_only=True, idempotent=True, destructive=False)
    assert tools["put"].effect == Effect(idempotent=True, destructive=False)
    assert tools["send"].effect == Effect()
    assert tools["look"].decision == "allow"
    assert tools["send"].decision == "ask"


async def test_configuration_says_what_a_tool_is_and_an_annotation_may_still_tighten_it(make_hub: Find) -> None:
    known = {"look": Known(effect="read_only"), "put": Known(effect="read_only")}
    tools = await opened(make_hub(known=known))
    assert tools["look"].effect.read_only
    assert tools["put"].effect == Effect(), "the server says that it is not read-only"


async def test_deny_beats_ask_beats_allow_over_code_and_configuration(make_hub: Find) -> None:
    hub = make_hub(policy=Policy(ask=["look"], allow=["send"]))
    tools = await opened(hub, allow=["*"], deny=["foreign/put"])
    assert tools["look"].decision == "ask"
    assert tools["send"].decision == "allow"
    assert tools["put"].decision == "deny"


async def test_a_prefixed_tool_is_judged_by_its_own_name(make_hub: Find) -> None:
    toolset = MCPToolset("foreign", allow=["look"], deny=["x_*"]).only("look").prefixed("x_")
    (tool,) = await toolset.open(make_hub())
    assert (tool.exposed, tool.name, tool.decision) == ("x_look", "look", "allow")


async def test_only_names_what_is_there(make_hub: Find) -> None:
    with pytest.raises(ConfigError, match="no tool 'lok'"):
        await MCPToolset("foreign").only("lok").open(make_hub())


async def test_a_call_carries_its_idempotency_key(make_hub: Find) -> None:
    tools = await opened(make_hub())
    result = await tools["put"].call(call(key="the-key", value="v"))
    assert IDEMPOTENCY_KEY in result.text
    assert "the-key" in result.text


async def test_an_error_of_a_tool_is_its_result(make_hub: Find) -> None:
    tools = await opened(make_hub())
    result = await tools["fail"].call(call())
    assert result.is_error
    assert "fail" in result.text


async def test_a_server_that_dies_in_a_call_gives_no_result_and_the_next_call_starts_it_again(make_hub: Find) -> None:
    tools = await opened(make_hub(target=command))
    with pytest.raises(Unreachable, match="foreign"):
        await tools["die"].call(call())
    assert (await tools["look"].call(call(word="bee"))).text == "bee: a word"


async def test_a_call_that_takes_too_long_is_a_timeout_and_the_connection_lives_on(make_hub: Find) -> None:
    tools = await opened(make_hub(target=command))
    with pytest.raises(Timeout, match="foreign"):
        await tools["hang"].call(call(timeout=0.2))
    assert (await tools["look"].call(call(word="bee"))).text == "bee: a word"


async def test_a_command_that_is_not_there_is_unreachable_and_says_so(make_hub: Find) -> None:
    hub = make_hub(target=lambda: StdioServerParameters(command="/nowhere/at-all"))
    with pytest.raises(Unreachable, match="/nowhere/at-all"):
        await hub.tools("foreign")


async def test_a_command_that_speaks_no_mcp_is_unreachable(make_hub: Find) -> None:
    hub = make_hub(target=lambda: StdioServerParameters(command=sys.executable, args=["-c", "print('hello')"]))
    with pytest.raises(Unreachable):
        await hub.tools("foreign")


async def test_a_server_that_could_not_be_opened_is_tried_again(make_hub: Find) -> None:
    targets = [lambda: StdioServerParameters(command="/nowhere/at-all"), command]
    hub = make_hub(target=lambda: targets.pop(0)())
    with pytest.raises(Unreachable):
        await hub.tools("foreign")
    assert {tool.name for tool in await hub.tools("foreign")} >= {"look", "send"}
