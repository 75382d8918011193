"""Servers that somebody else wrote: what they get to see of this process, and what they may answer over HTTP."""

from __future__ import annotations

import gzip
import json
import os
import socket
import stat
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from retinue.agents.tools import bounded as bounds
from retinue.agents.tools.base import ServerTool, ToolCall
from retinue.auth.principal import Principal
from retinue.config import load_settings
from retinue.errors import ConfigError, NotAllowed, RetinueError, ToolFailed, Unreachable
from retinue.servers import MAX_LOG, Servers
from tests.auth.world import serving

pytestmark = pytest.mark.anyio

SCRIPT = Path(__file__).with_name("plain_server.py")
ME = Principal(issuer="urn:test", subject="user:me")


@asynccontextmanager
async def configured(folder: Path, **server: Any) -> AsyncGenerator[Servers]:
    """The servers of a configuration with one command, ``plain``."""
    lines = ['state = "state"', "[servers.plain]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in server.items() if name != "env"]
    lines += [
        "[servers.plain.env]",
        *(f"{name} = {json.dumps(value)}" for name, value in server.get("env", {}).items()),
    ]
    (folder / "retinue.toml").write_text("\n".join(lines if server.get("env") else lines[:-1]), encoding="utf-8")
    servers = Servers(load_settings(cwd=folder, env={}), ME, library=[], workspace=folder)
    try:
        yield servers
    finally:
        await servers.close()


def command() -> dict[str, Any]:
    return {"command": sys.executable, "args": ["-S", "-E", str(SCRIPT)]}


async def looked(servers: Servers) -> dict[str, Any]:
    with anyio.fail_after(20):
        (tool,) = await servers.hub.tools("plain")
        result = await tool.call(ToolCall(arguments={}, key="k", timeout=10))
    return json.loads(result.text)


KEYS = {
    "ANTHROPIC_API_KEY": "canary-key",
    "ANTHROPIC_AUTH_TOKEN": "canary-token",
    "RETINUE_DATABASE": "canary-database",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "SSH_AUTH_SOCK": "/canary/agent",
    "GITHUB_TOKEN": "canary-github",
    "LD_LIBRARY_PATH": "/canary/lib",
    "HTTPS_PROXY": "http://user:canary@proxy",
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("keys")
async def test_a_command_inherits_no_key_of_ours(tmp_path: Path) -> None:
    async with configured(tmp_path, **command()) as servers:
        seen = await looked(servers)
    assert not KEYS.keys() & seen["env"].keys()
    assert "canary" not in json.dumps(seen)
    assert seen["env"]["PATH"] == os.environ["PATH"]


@pytest.mark.usefixtures("keys")
async def test_a_command_inherits_what_is_passed_on_and_gets_what_is_set(tmp_path: Path) -> None:
    options = {**command(), "pass_env": ["GITHUB_TOKEN", "NOT_THERE"], "env": {"SECRET": "canary-env"}}
    async with configured(tmp_path, **options) as servers:
        seen = (await looked(servers))["env"]
    assert seen["GITHUB_TOKEN"] == "canary-github"
    assert seen["SECRET"] == "canary-env"
    assert not (KEYS.keys() - {"GITHUB_TOKEN"}) & seen.keys()


async def test_a_command_inherits_no_open_file_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as ours, socket.socket() as listening:
        for fd in (ours.fileno(), listening.fileno()):
            assert not os.get_inheritable(fd)
        async with configured(tmp_path, **command()) as servers:
            assert len((await looked(servers))["files"]) <= 4  # three streams, and the listing itself


async def test_what_a_command_says_on_stderr_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    async with configured(tmp_path, **command(), env={"SECRET": "canary-env"}) as servers:
        await looked(servers)
    log = tmp_path / "state" / "logs" / "plain.log"
    assert log.read_text() == "stderr of canary-env\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


async def test_a_log_that_others_can_read_or_that_leads_elsewhere_is_not_written(tmp_path: Path) -> None:
    log = tmp_path / "state" / "logs" / "plain.log"
    log.parent.mkdir(parents=True)
    log.touch(mode=0o644)
    async with configured(tmp_path, **command()) as servers:
        with pytest.raises(ConfigError, match="other users can reach it"):
            await looked(servers)
    log.unlink()
    log.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").touch(mode=0o600)
    async with configured(tmp_path, **command()) as servers:
        with pytest.raises(ConfigError, match="symbolic link"):
            await looked(servers)
    assert (tmp_path / "elsewhere").read_text() == ""


async def test_a_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "state" / "logs" / "plain.log"
    log.parent.mkdir(parents=True)
    log.touch(mode=0o600)
    os.truncate(log, MAX_LOG + 1)
    async with configured(tmp_path, **command()) as servers:
        await looked(servers)
    assert log.read_text() == "stderr of nobody\n"
    aside = log.with_suffix(".log.1")
    assert aside.stat().st_size == MAX_LOG + 1
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


# Over HTTP

Respond = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]


class Web:
    """An MCP server of the handshake era over HTTP, which answers calls as a test says."""

    def __init__(self) -> None:
        self.answer: Respond = lambda message: (200, {}, b"")
        self.authorizations: list[str] = []
        self.requests = 0
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.authorizations += [headers[name] for name in ("authorization", "dpop", "cookie") if name in headers]
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        message: dict[str, Any] = json.loads(body) if body else {}
        status, fields, content = self._respond(scope["method"], message)
        fields = {"content-type": "application/json", **fields}
        await send({"type": "http.response.start", "status": status, "headers": [
            (name.encode(), value.encode()) for name, value in fields.items()
        ]})  # fmt: skip
        for start in range(0, max(len(content), 1), 1_000_000):
            more = start + 1_000_000 < len(content)
            await send({"type": "http.response.body", "body": content[start : start + 1_000_000], "more_body": more})

    def _respond(self, method: str, message: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        if method != "POST":
            return 405, {}, b""
        info = {"name": "web", "version": "0"}
        results: dict[str, Any] = {
            "initialize": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info},
            "tools/list": {"tools": [{"name": "look", "inputSchema": {"type": "object"}}]},
        }
        if "id" not in message:
            return 202, {}, b""
        if message["method"] == "tools/call":
            return self.answer(message)
        if message["method"] not in results:
            error = {"code": -32601, "message": "no"}
            return 404, {}, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode()
        return 200, {}, said(message, results[message["method"]])


def said(message: dict[str, Any], result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


@asynccontextmanager
async def the_web(folder: Path) -> AsyncGenerator[tuple[Web, ServerTool]]:
    """A server over HTTP, and its one tool as our client sees it."""
    web = Web()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    web.url = url = f"http://127.0.0.1:{sock.getsockname()[1]}/mcp"
    servers = Servers(
        load_settings(cwd=folder, env={}, overrides={"state": str(folder)}), ME, library=[], workspace=folder
    )
    async with serving((web, sock)):
        try:
            with anyio.fail_after(20):
                (tool,) = await servers.hub.tools(url)
                yield web, tool
        finally:
            await servers.close()


async def call(tool: ServerTool) -> str:
    return (await tool.call(ToolCall(arguments={}, key="k", timeout=10))).text


TEXT = {"content": [{"type": "text", "text": "seen"}]}


async def test_an_answer_without_end_is_given_up_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_ANSWER", 1_000_000)
    async with the_web(tmp_path) as (web, tool):
        web.answer = lambda message: (200, {}, said(message, {"content": [{"type": "text", "text": "x" * 3_000_000}]}))
        with pytest.raises(ToolFailed, match="more than 1000000 bytes"):
            await call(tool)
        web.answer = lambda message: (200, {}, said(message, TEXT))
        assert await call(tool) == "seen"


async def test_an_answer_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    async with the_web(tmp_path) as (web, tool):
        bomb = gzip.compress(b" " * 50_000_000)
        web.answer = lambda message: (200, {"content-encoding": "gzip"}, bomb)
        with pytest.raises(ToolFailed, match="encoded"):
            await call(tool)
        web.answer = lambda message: (200, {}, said(message, TEXT))
        assert await call(tool) == "seen"


async def test_an_event_without_end_is_given_up(tmp_path: Path) -> None:
    async with the_web(tmp_path) as (web, tool):
        web.answer = lambda message: (200, {"content-type": "text/event-stream"}, b"data: " + b"x" * 5_000_000)
        with pytest.raises((ToolFailed, Unreachable)):
            await call(tool)
        web.answer = lambda message: (200, {}, said(message, TEXT))
        assert await call(tool) == "seen"


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe", b"[]", b'{"jsonrpc":"2.0"}', b"[" * 100_000])
async def test_an_answer_that_is_no_json_rpc_is_a_typed_error(tmp_path: Path, content: bytes) -> None:
    async with the_web(tmp_path) as (web, tool):
        web.answer = lambda message: (200, {}, content)
        with pytest.raises(RetinueError) as raised:
            await call(tool)
        assert len(raised.value.message) < 700
        assert raised.value.message.isprintable()


async def test_a_redirect_takes_no_credentials_anywhere(tmp_path: Path) -> None:
    async with the_web(tmp_path) as (web, tool), the_web(tmp_path) as (other, _):
        before = other.requests
        for status in (301, 302, 303, 307, 308):
            web.answer = redirecting(status, other.url)
            with pytest.raises(RetinueError):
                await call(tool)
        assert other.requests == before


def redirecting(status: int, place: str) -> Respond:
    return lambda message: (status, {"location": place}, b"")


async def test_a_server_that_names_a_stranger_as_its_issuer_gets_no_proof_of_who_we_are(tmp_path: Path) -> None:
    """Our key signs for the issuer beside the server that was configured, and for no other."""
    async with the_web(tmp_path) as (web, tool):
        challenge = 'DPoP scope="everything", resource_metadata="https://evil.example/meta"'
        web.answer = lambda message: (401, {"www-authenticate": challenge}, b"{}")
        with pytest.raises(RetinueError):
            await call(tool)
        assert web.authorizations == []


async def test_plain_http_to_another_machine_is_refused(tmp_path: Path) -> None:
    servers = Servers(load_settings(cwd=tmp_path, env={}), ME, library=[], workspace=tmp_path)
    with pytest.raises((ConfigError, NotAllowed), match="https"):
        await servers.hub.tools("http://server.example/mcp")
    await servers.close()


@pytest.mark.parametrize(
    "url", ["https://me:canary-pw@server.example/mcp", "https://server.example/mcp?api_key=canary-key"]
)
async def test_an_address_that_holds_a_secret_is_refused_without_saying_it(tmp_path: Path, url: str) -> None:
    (tmp_path / "retinue.toml").write_text(f'[servers.far]\nurl = "{url}"\n')
    servers = Servers(load_settings(cwd=tmp_path, env={}), ME, library=[], workspace=tmp_path)
    for name in ("far", url):
        with pytest.raises(ConfigError) as raised:
            await servers.hub.tools(name)
        assert "canary" not in raised.value.message + raised.value.hint
    await servers.close()


async def test_a_stream_that_is_read_twice_or_not_asynchronously_is_refused() -> None:
    response = httpx2.Response(200, content=b"x")
    response.stream = httpx2.SyncByteStream()
    with pytest.raises(httpx2.StreamError):
        await bounds.bounded(response)


async def test_connections_to_servers_are_closed_with_them(tmp_path: Path) -> None:
    servers = Servers(load_settings(cwd=tmp_path, env={}), ME, library=[], workspace=tmp_path)
    client = await servers._client_for("http://127.0.0.1:9/mcp")  # pyright: ignore[reportPrivateUsage]
    await servers.close()
    assert client.is_closed
