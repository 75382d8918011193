"""Built-in servers in the run's own process: real HTTP, real tokens, the real guard, in both protocol eras."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from retinue.auth.guard import Decision
from retinue.errors import ConfigError, NotAllowed, Unreachable
from retinue.mcp_servers.builtin import BuiltIn, serve_builtin
from retinue.mcp_servers.kit import ToolServer
from retinue.mcp_servers.workspace import workspace_server
from retinue.protocol import IDEMPOTENCY_KEY
from tests.mcp_servers.sample import sample_server

pytestmark = pytest.mark.anyio

Mode = Literal["auto", "legacy", "2026-07-28"]
MODES: list[Mode] = ["auto", "legacy", "2026-07-28"]
READ = ["sample:read"]


@pytest.fixture
def decisions() -> list[Decision]:
    return []


@pytest.fixture
async def builtin(tmp_path: Path, decisions: list[Decision]) -> AsyncIterator[BuiltIn]:
    servers = {"sample": sample_server(), "workspace": workspace_server(tmp_path / "out")}
    async with serve_builtin(servers, subject="somebody", on_decision=decisions.append) as builtin:
        yield builtin


@contextlib.asynccontextmanager
async def connected(
    builtin: BuiltIn, server: str, scopes: Iterable[str], mode: Mode = "auto"
) -> AsyncGenerator[Client]:
    transport = streamable_http_client(builtin.urls[server], http_client=builtin.http_client(server, scopes))
    with anyio.fail_after(20):
        async with Client(transport, mode=mode) as client:
            yield client


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """A ``tools/call`` as a client of the handshake eras sends it."""
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


# What works


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_with_the_scopes_gets_through_in_every_era(builtin: BuiltIn, mode: Mode) -> None:
    async with connected(builtin, "sample", ["sample:read", "sample:write"], mode) as client:
        assert (await client.call_tool("echo", {"text": "hi"})).structured_content == {"text": "hi", "times": 1}
        who = await client.call_tool("who")
        assert who.structured_content is not None
        assert who.structured_content["subject"] == "somebody"
        keyed = await client.call_tool("keyed", meta={IDEMPOTENCY_KEY: "k"})
        assert isinstance(keyed.content[0], TextContent)
        assert keyed.content[0].text == "k"
        seen: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append(progress)

        await client.call_tool("progress", progress_callback=note)
        assert seen == [1, 2]
        assert (await client.read_resource("sample://doc/a")).contents


async def test_a_document_is_written_once_over_http(builtin: BuiltIn, tmp_path: Path) -> None:
    async with connected(builtin, "workspace", ["workspace:write", "workspace:read"]) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        hints = tools["write_document"].annotations
        assert hints is not None
        assert hints.destructive_hint
        arguments = {"path": "a/b.md", "text": "x"}
        first = await client.call_tool("write_document", arguments, meta={IDEMPOTENCY_KEY: "run-1"})
        (tmp_path / "out/a/b.md").write_text("edited")
        again = await client.call_tool("write_document", arguments, meta={IDEMPOTENCY_KEY: "run-1"})
        assert first.structured_content == again.structured_content
        read = await client.call_tool("read_document", {"path": "a/b.md"})
        assert read.structured_content is not None
        assert read.structured_content["text"] == "edited"
        outside = await client.call_tool("write_document", {"path": "../x", "text": "x"})
        assert outside.is_error
        assert sorted(os.listdir(tmp_path)) == ["out"]


async def test_calls_run_side_by_side(builtin: BuiltIn) -> None:
    async with connected(builtin, "sample", READ) as client:
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(client.call_tool, "echo", {"text": "x"})


async def test_no_request_has_to_be_sent_twice(builtin: BuiltIn, decisions: list[Decision]) -> None:
    async with connected(builtin, "sample", READ) as one, connected(builtin, "workspace", ["workspace:read"]) as two:
        await one.call_tool("echo", {"text": "x"})
        await two.call_tool("list_documents")
        await one.call_tool("echo", {"text": "x"})
    assert {decision.status for decision in decisions} == {200}


async def test_the_same_server_and_scopes_share_one_client(builtin: BuiltIn) -> None:
    one = builtin.http_client("sample", ["sample:read"])
    assert builtin.http_client(builtin.urls["sample"], ("sample:read",)) is one
    assert builtin.http_client("sample", ["sample:write"]) is not one
    await one.aclose()
    assert builtin.http_client("sample", ["sample:read"]) is not one
    with pytest.raises(ConfigError, match="none of the servers"):
        builtin.http_client("https://elsewhere.example/mcp", ["x"])
    with pytest.raises(ConfigError, match="at least one scope"):
        builtin.http_client("sample", [])


# What is refused


async def test_without_a_token_the_answer_says_where_to_get_one(builtin: BuiltIn, decisions: list[Decision]) -> None:
    url = builtin.urls["sample"]
    async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
        answer = await http.post(url, json=call("echo", text="x"), headers=HEADERS)
        assert answer.status_code == 401
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith("DPoP ")
        place = challenge.split('resource_metadata="')[1].split('"')[0]
        metadata = (await http.get(place)).json()
    assert metadata["resource"] == url
    assert metadata["authorization_servers"] == [builtin.issuer]
    assert metadata["scopes_supported"] == ["sample:admin", "sample:read", "sample:write"]
    assert metadata["dpop_bound_access_tokens_required"] is True
    assert [decision.allowed for decision in decisions] == [False]


@pytest.mark.parametrize("mode", MODES)
async def test_a_tool_outside_the_scope_is_refused_before_it_runs(
    builtin: BuiltIn, mode: Mode, decisions: list[Decision]
) -> None:
    async with connected(builtin, "sample", READ, mode) as client:
        assert not (await client.call_tool("echo", {"text": "x"})).is_error
        with pytest.raises(MCPError) as raised:
            await client.call_tool("unsafe")
        assert raised.value.error.data["error"] == "insufficient_scope"
        assert "sample:admin" in raised.value.error.data["scope"]
    refused = [decision for decision in decisions if not decision.allowed]
    assert {(decision.status, decision.name) for decision in refused} == {(403, "unsafe")}


@pytest.mark.parametrize("version", [None, "2025-11-25", "2026-07-28"])
async def test_the_status_of_a_missing_scope_is_403_in_both_eras(builtin: BuiltIn, version: str | None) -> None:
    headers, body = dict(HEADERS), call("unsafe")
    if version is not None:
        headers["mcp-protocol-version"] = version
    if version == "2026-07-28":
        headers |= {"mcp-method": "tools/call", "mcp-name": "unsafe"}
    answer = await builtin.http_client("sample", READ).post(builtin.urls["sample"], json=body, headers=headers)
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert 'scope="sample:admin"' in answer.headers["www-authenticate"]


async def test_a_scope_that_depends_on_the_arguments_is_asked_for_by_the_tool(builtin: BuiltIn) -> None:
    async with connected(builtin, "sample", READ) as client:
        result = await client.call_tool("admin_only")
        assert result.is_error
        assert isinstance(result.content[0], TextContent)
        assert "needs the scope sample:admin" in result.content[0].text


async def test_another_servers_token_is_refused(builtin: BuiltIn) -> None:
    """The sample server's token, with a proof made for the workspace: only the audience is wrong."""
    token = ""

    async def spy(request: httpx2.Request) -> None:
        nonlocal token
        token = request.headers["authorization"]

    sample = builtin.http_client("sample", READ)
    sample.event_hooks["request"].append(spy)
    await sample.post(builtin.urls["sample"], json=call("echo", text="x"), headers=HEADERS)
    assert token.startswith("DPoP ")

    async def swap(request: httpx2.Request) -> None:
        from retinue.auth import dpop

        request.headers["authorization"] = token
        oauth = builtin._oauth  # pyright: ignore[reportPrivateUsage]  # the key that both tokens are bound to
        request.headers["dpop"] = dpop.create(
            oauth._key,  # pyright: ignore[reportPrivateUsage]  # as above
            method="POST",
            url=str(request.url),
            access_token=token.removeprefix("DPoP "),
            nonce=oauth._nonces[builtin.issuer.removesuffix("/issuer")],  # pyright: ignore[reportPrivateUsage]  # as above
        )

    workspace = builtin.http_client("workspace", ["workspace:read"])
    workspace.event_hooks["request"].append(swap)
    answer = await workspace.post(builtin.urls["workspace"], json=call("list_documents"), headers=HEADERS)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert "audience" in answer.headers["www-authenticate"]


async def test_a_client_cannot_be_talked_into_sending_its_token_elsewhere(builtin: BuiltIn) -> None:
    with pytest.raises(NotAllowed):
        await builtin.http_client("sample", READ).get(builtin.urls["workspace"])


@pytest.mark.parametrize(
    "path", ["/", "/sample", "/sample/mcp/", "/%73ample/mcp", "/sample%2Fmcp", "/other/mcp", "/mcp"]
)
async def test_paths_that_only_look_like_a_servers_are_not_served(builtin: BuiltIn, path: str) -> None:
    origin = builtin.urls["sample"].removesuffix("/sample/mcp")
    async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
        answer = await http.post(httpx2.URL(origin).copy_with(raw_path=path.encode()), json={}, headers=HEADERS)
    assert answer.status_code in (400, 404)


@pytest.mark.parametrize(
    ("name", "message"), [("issuer", "is taken"), ("a/b", "cannot be the name"), ("..", "cannot be the name")]
)
async def test_a_name_that_would_hide_something_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        async with serve_builtin({name: ToolServer("x")}):
            pass


async def test_an_audit_that_fails_lets_nothing_through(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the audit cannot be written")

    async with serve_builtin({"sample": sample_server()}, on_decision=fail) as builtin:
        answer = await builtin.http_client("sample", READ).post(builtin.urls["sample"], json={}, headers=HEADERS)
        assert answer.status_code == 500
    async with serve_builtin({"sample": sample_server()}, on_token=fail) as builtin:
        with pytest.raises(Unreachable):
            await builtin.http_client("sample", READ).post(builtin.urls["sample"], json={}, headers=HEADERS)
    assert "Traceback" not in caplog.text
    assert "the audit cannot be written" not in caplog.text


# The run around it


async def test_what_the_run_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with serve_builtin({"sample": sample_server()}):
            raise KeyError("mine")


async def test_two_runs_in_one_process_have_nothing_in_common() -> None:
    async with serve_builtin({"sample": sample_server()}) as one, serve_builtin({"sample": sample_server()}) as two:
        assert one.urls["sample"] != two.urls["sample"]
        async with connected(one, "sample", READ) as a, connected(two, "sample", READ) as b:
            assert not (await a.call_tool("echo", {"text": "x"})).is_error
            assert not (await b.call_tool("echo", {"text": "x"})).is_error


COST = """
import json, time, anyio, sys
from pathlib import Path
from retinue.mcp_servers.builtin import serve_builtin
from retinue.mcp_servers.workspace import workspace_server
from tests.mcp_servers.sample import sample_server

async def main():
    start = time.process_time()
    servers = {"sample": sample_server(), "workspace": workspace_server(Path(sys.argv[1]))}
    async with serve_builtin(servers) as builtin:
        http = builtin.http_client("sample", ["sample:read"])
        await http.post(builtin.urls["sample"], json={})
    print(json.dumps(time.process_time() - start))

anyio.run(main)
"""


def test_starting_two_servers_with_their_issuer_costs_less_than_half_a_second(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COST, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) < 0.5
