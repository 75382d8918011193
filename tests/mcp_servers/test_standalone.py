"""One server over HTTP as a program: keys and clients in files, and nothing but loopback unless told how."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from retinue.auth.client import Credentials, DPoPAuth, OAuthClient, public_jwks
from retinue.auth.keys import new_key
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import ConfigError, SignInNeeded
from retinue.mcp_servers.kit import Tls
from retinue.mcp_servers.standalone import AuthFiles, local_credentials, serve_one_http
from tests.mcp_servers.sample import sample_server

pytestmark = pytest.mark.anyio

HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
ECHO = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}}


@contextlib.asynccontextmanager
async def served(state: Path, port: int = 0, **options: Any) -> AsyncGenerator[str]:
    """The URL of the sample server, served until the body ends."""
    found: list[str] = []
    up = anyio.Event()

    def announce(url: str) -> None:
        found.append(url)
        up.set()

    async with anyio.create_task_group() as group:

        async def serve() -> None:
            await serve_one_http(
                sample_server(), "127.0.0.1", options.pop("port", 0), state, announce=announce, **options
            )

        group.start_soon(serve)
        with anyio.fail_after(20):
            await up.wait()
        yield found[0]
        group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def http_for(
    credentials: Credentials, url: str, scope: str = "sample:read"
) -> AsyncGenerator[httpx2.AsyncClient]:
    async with OAuthClient(credentials) as oauth:
        auth = DPoPAuth(oauth, url, scopes=[scope])
        async with httpx2.AsyncClient(auth=auth, trust_env=False, verify=False, timeout=20) as http:
            yield http


async def echo(http: httpx2.AsyncClient, url: str) -> None:
    async with Client(streamable_http_client(url, http_client=http)) as client:
        assert not (await client.call_tool("echo", {"text": "x"})).is_error


async def test_the_local_user_gets_through_by_the_key_file(tmp_path: Path) -> None:
    async with served(tmp_path) as url, http_for(local_credentials(tmp_path, url), url) as http:
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/mcp")
        await echo(http, url)


async def test_loopback_is_no_identity(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
            assert (await http.post(url, json=ECHO, headers=HEADERS)).status_code == 401
        stranger = Credentials(local_credentials(tmp_path, url).issuer, "local", new_key())
        async with http_for(stranger, url) as http:
            with pytest.raises(SignInNeeded):
                await http.post(url, json=ECHO, headers=HEADERS)


def register(state: Path, client_id: str, url: str) -> Credentials:
    """Write a client into the registry's file, as a person would."""
    key = new_key()
    entry = {"id": client_id, "jwks": public_jwks(key), "scopes": {url: ["sample:read"]}}
    registry = AuthFiles(state).clients
    registry.touch(mode=0o600)
    registry.write_text(json.dumps({"clients": [entry]}))
    return Credentials(local_credentials(state, url).issuer, client_id, key)


async def test_a_client_in_the_registry_gets_what_it_was_given(tmp_path: Path) -> None:
    async with served(tmp_path) as url, http_for(register(tmp_path, "robot", url), url) as http:
        await echo(http, url)


async def test_a_session_belongs_to_the_client_that_opened_it(tmp_path: Path) -> None:
    session = ""

    async def watch(response: httpx2.Response) -> None:
        nonlocal session
        session = response.headers.get("mcp-session-id") or session

    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    async with (
        served(tmp_path) as url,
        http_for(local_credentials(tmp_path, url), url) as mine,
        http_for(register(tmp_path, "robot", url), url) as other,
    ):
        mine.event_hooks["response"].append(watch)
        async with Client(streamable_http_client(url, http_client=mine), mode="legacy"):
            assert session
            headers = {**HEADERS, "mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
            assert (await mine.post(url, json=body, headers=headers)).status_code == 200
            assert (await other.post(url, json=body, headers=headers)).status_code == 404


async def test_keys_are_private_files_that_outlive_the_server(tmp_path: Path) -> None:
    async def kid(url: str) -> str:
        async with httpx2.AsyncClient(trust_env=False, verify=False) as http:
            return (await http.get(url.removesuffix("/mcp") + "/issuer/jwks")).json()["keys"][0]["kid"]

    async with served(tmp_path) as url:
        first = await kid(url)
    async with served(tmp_path) as url:
        assert await kid(url) == first
    folder = AuthFiles(tmp_path).folder
    assert sorted(os.listdir(folder)) == ["client-key.json", "issuer-key.json"]
    if os.name != "nt":
        assert {stat.S_IMODE(os.stat(folder / name).st_mode) for name in os.listdir(folder)} == {0o600}
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


async def test_with_a_database_a_proof_is_used_up_for_every_process(tmp_path: Path) -> None:
    database = await SQLiteDatabase.open(str(tmp_path / "x.db"))
    try:
        async with served(tmp_path, database=database) as url:
            async with http_for(local_credentials(tmp_path, url), url) as http:
                await echo(http, url)
        rows = await database.read(lambda tx: tx.all("SELECT id FROM proofs_seen"))
    finally:
        await database.close()
    assert len(rows) >= 3, "an assertion, the proof for the token, the proof for the call"


@pytest.mark.parametrize(
    ("host", "external_url", "tls", "message"),
    [
        ("0.0.0.0", None, None, "without TLS"),
        ("", None, None, "every address"),
        ("::", None, Tls("c.pem", "k.pem"), "without TLS and a name"),
        ("192.0.2.1", None, None, "without TLS"),
        ("127.0.0.1", "http://tools.example", None, "must use https"),
        ("127.0.0.1", "https://tools.example/path", None, "has a path"),
    ],
)
async def test_an_address_that_others_reach_needs_tls_and_a_name(
    tmp_path: Path, host: str, external_url: str | None, tls: Tls | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        await serve_one_http(sample_server(), host, 0, tmp_path, external_url=external_url, tls=tls)
    assert os.listdir(tmp_path) == [], "refused before anything was made"


async def test_behind_a_proxy_the_external_address_is_the_audience(tmp_path: Path) -> None:
    async with served(tmp_path, external_url="https://tools.example") as url:
        assert url == "https://tools.example/mcp"
