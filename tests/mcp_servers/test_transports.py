"""The same server over stdio and over Streamable HTTP, in both protocol eras."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent
from starlette.types import ASGIApp, Receive, Scope, Send

from retinue.auth.principal import Principal
from retinue.errors import ConfigError
from retinue.mcp_servers.kit import UnguardedWarning, bind, origin_of, serve_http, serving
from retinue.protocol import IDEMPOTENCY_KEY
from tests.mcp_servers.sample import sample_server

pytestmark = pytest.mark.anyio

Mode = Literal["auto", "legacy", "2026-07-28"]
MODES: list[Mode] = ["auto", "legacy", "2026-07-28"]
ROOT = Path(__file__).parents[2]


async def tour(client: Client, *, version: str) -> None:
    """Everything that a transport must carry."""
    with anyio.fail_after(20):
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"echo", "keyed", "progress"} <= names
        result = await client.call_tool("echo", {"text": "héllo ✓"})
        assert result.structured_content == {"text": "héllo ✓", "times": 1}
        keyed = await client.call_tool("keyed", meta={IDEMPOTENCY_KEY: "k-1"})
        assert isinstance(keyed.content[0], TextContent)
        assert keyed.content[0].text == "k-1"
        seen: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append(progress)

        await client.call_tool("progress", progress_callback=note)
        assert seen == [1, 2]
        assert (await client.call_tool("slow")).is_error
        who = await client.call_tool("who")
        assert who.structured_content == {"subject": None, "version": version}
        assert (await client.read_resource("sample://doc/a")).contents


VERSIONS = {"auto": "2026-07-28", "2026-07-28": "2026-07-28", "legacy": "2025-11-25"}


@pytest.mark.parametrize("mode", MODES)
async def test_in_process(mode: Mode) -> None:
    async with Client(sample_server().mcp, mode=mode) as client:
        await tour(client, version=VERSIONS[mode])


# stdio


def program() -> StdioServerParameters:
    env = {name: os.environ[name] for name in ("PYTHONPATH", "PATH") if name in os.environ}
    return StdioServerParameters(
        command=sys.executable, args=["-m", "tests.mcp_servers.sample"], cwd=str(ROOT), env=env
    )


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_over_stdio(mode: Mode) -> None:
    async with Client(program(), mode=mode) as client:
        await tour(client, version=VERSIONS[mode])
        assert not (await client.call_tool("prints")).is_error
        assert (await client.call_tool("plain", {"text": "still in step"})).structured_content is not None


def test_stdout_carries_nothing_but_the_protocol() -> None:
    call: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "prints", "arguments": {}},
    }
    hello: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
    }
    ready: dict[str, Any] = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.mcp_servers.sample"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in (hello, ready, call):
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, errors = process.communicate(timeout=20)
    assert [answer["id"] for answer in answers] == [1, 2]
    assert rest == ""
    assert "stray output" in errors
    assert "stray bytes" in errors
    assert process.returncode == 0


# Streamable HTTP


@contextlib.asynccontextmanager
async def unguarded() -> AsyncGenerator[str]:
    sock = bind("127.0.0.1", 0)
    url = f"{origin_of(sock)}/mcp"
    with pytest.warns(UnguardedWarning):
        endpoint = sample_server().asgi(guard=None)
    async with serving(endpoint, sock, beside=[endpoint.running()]):
        yield url


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with unguarded() as url:
        yield url


@pytest.mark.parametrize("mode", MODES)
async def test_over_http(url: str, mode: Mode) -> None:
    async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=20) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            await tour(client, version=VERSIONS[mode])


async def test_what_the_body_raises_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with unguarded():
            raise KeyError("mine")


async def test_cancelling_the_body_stops_the_server() -> None:
    url = ""
    with anyio.CancelScope() as scope:
        async with unguarded() as url:
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.post(url)


async def test_an_open_request_is_finished_before_the_server_stops() -> None:
    entered, release = anyio.Event(), anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    sock = bind("127.0.0.1", 0)
    answers: list[str] = []

    async def ask() -> None:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
            answers.append((await http.get(origin_of(sock))).text)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            async with serving(app, sock):
                group.start_soon(ask)
                await entered.wait()
                release.set()
    assert answers == ["done"]


async def test_a_request_that_does_not_end_is_cancelled_after_the_grace() -> None:
    entered = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await anyio.sleep_forever()

    sock = bind("127.0.0.1", 0)

    async def ask() -> None:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
            with contextlib.suppress(httpx2.TransportError):
                await http.get(origin_of(sock))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            async with serving(app, sock, grace=0.05):
                group.start_soon(ask)
                await entered.wait()


async def test_a_server_that_cannot_start_says_why() -> None:
    @contextlib.asynccontextmanager
    async def broken() -> AsyncGenerator[None]:
        raise ConfigError("no such folder")
        yield

    async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

    with pytest.raises(ConfigError, match="no such folder"):
        async with serving(app, bind("127.0.0.1", 0), beside=[broken()]):
            pass


# Without a guard


async def test_without_a_guard_only_a_loopback_address_is_served() -> None:
    with pytest.raises(ConfigError, match="without a guard"):
        await serve_http(sample_server(), "0.0.0.0", 0, guard=None)
    with pytest.warns(UnguardedWarning):
        endpoint = sample_server().asgi(guard=None)
    transport = httpx2.ASGITransport(app=endpoint)
    async with httpx2.AsyncClient(transport=transport, base_url="http://192.0.2.1") as http:
        answer = await http.post("/mcp", json={})
    assert answer.status_code == 403


READER = Principal(issuer="https://issuer.example", subject="reader", scopes=frozenset({"sample:read"}))


@pytest.mark.parametrize(("who", "tool", "scope"), [(None, "echo", "sample:read"), (READER, "unsafe", "sample:admin")])
async def test_the_tool_asks_for_its_scope_again(who: Principal | None, tool: str, scope: str) -> None:
    """A guard that lets too much through, or authenticates nobody, opens no tool in any era."""

    def broken(app: ASGIApp) -> ASGIApp:
        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "retinue.principal": who}, receive, send)

        return guard

    sock = bind("127.0.0.1", 0)
    endpoint = sample_server().asgi(guard=broken)
    async with serving(endpoint, sock, beside=[endpoint.running()]):
        async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=20) as http:
            for mode in MODES:
                transport = streamable_http_client(f"{origin_of(sock)}/mcp", http_client=http)
                async with Client(transport, mode=mode) as client:
                    result = await client.call_tool(tool, {"text": "x"} if tool == "echo" else {})
                    assert result.is_error
                    assert isinstance(result.content[0], TextContent)
                    assert f"needs the scope {scope}" in result.content[0].text
                    with pytest.raises(MCPError, match="needs the scope sample:admin"):
                        await client.read_resource("sample://secret")


async def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with bind("127.0.0.1", 0) as sock:
        with pytest.raises(ConfigError, match="cannot listen"):
            bind("127.0.0.1", sock.getsockname()[1])
    with pytest.raises(ConfigError):
        bind("192.0.2.1", 0)


# As a program


SERVE = """
import anyio, warnings
from retinue.mcp_servers.kit import serve_http
from tests.mcp_servers.sample import sample_server
warnings.simplefilter("ignore")
anyio.run(lambda: serve_http(sample_server(), "127.0.0.1", 0, guard=None))
print("stopped in order")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
def test_a_program_says_where_it_listens_and_stops_in_order_on_sigterm() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        assert line.endswith("/mcp\n")
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=20)
    assert out == "stopped in order\n"
    assert errors == ""
    assert process.returncode == 0
