"""What a request says and where it was sent: judged on the exact bytes that are forwarded."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import AsyncGenerator

import anyio
import httpx2
import orjson
import pytest

from retinue.auth import challenges
from tests.auth.world import SCOPES, World, message, new_world, routing

pytestmark = pytest.mark.anyio


def refused(world: World, response: httpx2.Response, status: int, code: int | None = None) -> None:
    assert response.status_code == status, response.text
    assert world.app.seen == []
    if code is not None:
        assert response.json()["error"]["code"] == code


# Exact bytes


async def test_the_app_gets_the_bytes_that_were_judged(world: World) -> None:
    body = b' {"method" : "tools/call",\n"jsonrpc":"2.0", "id":1, "params":{"name":"se\\u0061rch", "a":"\xc3\xa9"}}\r\n'
    assert (await world.send(body=body, headers=routing())).status_code == 200
    assert world.app.seen[0].body == body
    assert world.decisions[0].name == "search"


async def test_a_body_in_pieces_is_judged_whole(world: World) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for byte in message():
            yield bytes([byte])

    token = world.token()
    headers = {"authorization": f"DPoP {token}", "dpop": world.proof(token), "content-type": "application/json"}
    response = await world.http.post(world.resource, headers=headers, content=pieces())
    assert response.status_code == 200
    assert world.app.seen[0].body == message()


async def test_credentials_stay_at_the_guard(world: World) -> None:
    stripped = {
        "cookie": "session=1",
        "client-cert": ":AAAA:",
        "client-cert-chain": ":AAAA:",
        "x-client-cert": "a",
        "x-forwarded-client-cert": "a",
        "x-ssl-client-cert": "a",
        "ssl-client-verify": "SUCCESS",
        "x-amzn-mtls-clientcert": "a",
        "proxy-authorization": "Basic a",
    }
    token = world.token()
    assert (await world.send(token=token, headers={**stripped, "x-kept": "1", **routing()})).status_code == 200
    seen = world.app.seen[0]
    assert not {"authorization", "dpop", *stripped} & seen.headers.keys()
    assert seen.headers["x-kept"] == "1"
    assert seen.headers["mcp-name"] == "search"
    assert token not in repr(seen.scope)
    assert seen.scope["user"].access_token.token == ""


async def test_the_app_learns_who_is_calling(world: World) -> None:
    await world.send()
    scope = world.app.seen[0].scope
    principal = scope["retinue.principal"]
    assert (principal.key, principal.scopes) == (f"{world.issuer.url}||local", {"library:read"})
    assert scope["retinue.grant"].client_id == "local"
    assert scope["user"].access_token.subject == "local"
    assert scope["user"].access_token.claims["iss"] == world.issuer.url


# Reading in one way only


AMBIGUOUS: dict[str, bytes] = {
    "a method twice": b'{"id":1,"method":"tools/list","method":"tools/call","params":{"name":"search"}}',
    "a name twice": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","name":"write"}}',
    "a name twice, once escaped": b'{"id":1,"method":"tools/call","params":{"n\\u0061me":"search","name":"write"}}',
    "an argument twice": b'{"id":1,"method":"tools/call","params":{"name":"search","arguments":{"a":1,"a":2}}}',
    "utf-16": message().decode().encode("utf-16"),
    "utf-16 without a mark": message().decode().encode("utf-16-le"),
    "utf-32": message().decode().encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + message(),
    "latin-1": b'{"method":"tools/call","params":{"name":"s\xe9arch"}}',
    "an overlong encoding": b'{"method":"tools/call","params":{"name":"\xc0\xafsearch"}}',
    "a lone surrogate": b'{"method":"tools/call","params":{"name":"\\ud800"}}',
    "not a number": b'{"id":NaN,"method":"tools/call","params":{"name":"search"}}',
    "infinity": b'{"id":1,"method":"tools/call","params":{"name":"search","arguments":{"a":Infinity}}}',
    "two texts": message() + message(),
    "a comment": message() + b"// x",
    "half a text": message()[:-1],
    "nothing": b"",
    "deep nesting": b'{"method":"tools/call","params":{"name":"search","arguments":'
    + b"[" * 5000
    + b"]" * 5000
    + b"}}",
    "many containers": b'{"a":[' + b"[]," * 20_000 + b"[]" + b"[" * 70 + b"]}",
}


@pytest.mark.parametrize("body", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_a_body_that_could_be_read_in_two_ways_is_refused(world: World, body: bytes) -> None:
    response = await world.send(body=body)
    refused(world, response, 400, -32700)
    challenge = challenges.pick(challenges.parse(response.headers.get_list("www-authenticate")), "DPoP")
    assert challenge is not None
    assert challenge.error == "invalid_request"


UNCLEAR: dict[str, bytes] = {
    "a batch": b"[" + message() + b"]",
    "an empty batch": b"[]",
    "text": b'"tools/call"',
    "neither request nor answer": b'{"jsonrpc":"2.0","id":1}',
    "a request that is an answer": b'{"jsonrpc":"2.0","id":1,"method":"tools/list","result":{}}',
    "an answer and an error": b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}',
    "a method that is a list": b'{"id":1,"method":["tools/call"]}',
    "a call without parameters": b'{"id":1,"method":"tools/call"}',
    "a call of nothing": b'{"id":1,"method":"tools/call","params":{"name":""}}',
    "a call of a list": b'{"id":1,"method":"tools/call","params":{"name":["search"]}}',
    "parameters in a list": b'{"id":1,"method":"tools/call","params":["search"]}',
}


@pytest.mark.parametrize("body", UNCLEAR.values(), ids=UNCLEAR.keys())
async def test_a_message_that_does_not_say_what_it_wants_is_refused(world: World, body: bytes) -> None:
    refused(world, await world.send(body=body), 400)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "gzip"},
        {"content-encoding": "identity, gzip"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "text/plain"},
        {"content-type": "application/json-seq"},
        {"content-type": None},
        {"mcp-name": "=?base64?!?="},
    ],
    ids=str,
)
async def test_another_encoding_is_refused(world: World, headers: dict[str, str | None]) -> None:
    body = gzip.compress(message()) if "gzip" in str(headers) else message()
    refused(world, await world.send(body=body, headers=headers), 400)


# Routing headers


async def test_routing_headers_that_agree_with_the_body_pass(world: World) -> None:
    assert (await world.send(headers=routing())).status_code == 200
    encoded = {**routing(), "mcp-name": "=?base64?c2VhcmNo?="}
    assert (await world.send(headers=encoded)).status_code == 200
    listing = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    assert (
        await world.send(body=listing, headers={**routing(), "mcp-method": "tools/list", "mcp-name": None})
    ).is_success


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp-name": "write"},
        {"mcp-name": "Search"},
        {"mcp-name": None},
        {"mcp-method": "tools/list"},
        {"mcp-method": None},
        {"mcp-protocol-version": None, "mcp-name": "write"},
        {"mcp-protocol-version": "2025-06-18", "mcp-method": "tools/list"},
        {"mcp-protocol-version": "2099-01-01", "mcp-name": None},
    ],
    ids=str,
)
async def test_routing_headers_unlike_the_body_are_refused(world: World, headers: dict[str, str | None]) -> None:
    refused(world, await world.send(headers={**routing(), **headers}), 400, -32020)


async def test_routing_headers_that_are_there_twice_are_refused(world: World) -> None:
    for name, value in routing().items():
        refused(world, await world.send(headers=routing(), also=[(name, value)]), 400, -32020)


async def test_a_name_for_a_message_without_one_is_refused(world: World) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    refused(world, await world.send(body=body, headers={"mcp-name": "search"}), 400, -32020)


# Scopes


@pytest.mark.parametrize("headers", [{}, routing("write")], ids=["handshake era", "2026-07-28"])
async def test_a_tool_outside_the_scope_is_refused_with_all_scopes_to_ask_for(
    world: World, headers: dict[str, str]
) -> None:
    response = await world.send(body=message("write"), headers=headers)
    refused(world, response, 403)
    challenge = challenges.pick(challenges.parse(response.headers.get_list("www-authenticate")), "DPoP")
    assert challenge is not None
    assert (challenge.error, challenge.scopes) == ("insufficient_scope", SCOPES)
    assert challenge.parameters["resource_metadata"].endswith("/.well-known/oauth-protected-resource/mcp")
    assert response.json()["error"]["data"]["scope"] == "library:read library:write"
    assert (await world.send(body=message("write"), headers=headers, token=world.token(scopes=SCOPES))).is_success


async def test_an_answer_and_the_stream_of_a_session_are_guarded_too(world: World) -> None:
    answer = b'{"jsonrpc":"2.0","id":1,"result":{}}'
    assert (await world.send(body=answer)).is_success
    assert (await world.send(method="GET", headers={"content-type": None})).is_success
    assert (await world.send(method="DELETE", headers={"content-type": None})).is_success
    assert [decision.method for decision in world.decisions] == ["", "GET", "DELETE"]
    world.app.seen.clear()
    for method in ("GET", "DELETE"):
        refused(world, await world.send(method=method, headers={"authorization": None}), 401)
        refused(world, await world.send(method=method, body=message()), 400)
    refused(world, await world.send(body=answer, headers={"authorization": None}), 401)


# Where it was sent


async def test_another_host_is_not_served(world: World) -> None:
    own = world.resource.split("/")[2]
    for host in ("evil.example", "localhost", own.split(":")[0], f"{own}.evil.example", f"evil.example:{own}"):
        refused(world, await world.send(headers={"host": host}), 421)


async def test_an_origin_has_to_be_allowed() -> None:
    async with new_world(origins=("https://console.example",)) as world:
        for origin in ("https://evil.example", "null", "https://console.example.evil", "http://console.example"):
            refused(world, await world.send(headers={"origin": origin}), 403)
        assert (await world.send(headers={"origin": "https://console.example"})).is_success


@pytest.mark.parametrize("path", ["", "/other", "/mcpx", "/.well-known/oauth-protected-resource", "/MCP"])
async def test_other_paths_are_not_served(world: World, path: str) -> None:
    url = world.resource.removesuffix("/mcp") + path
    refused(world, await world.send(url=url), 404)


@pytest.mark.parametrize("path", ["/mcp/../mcp", "/mcp/%2e%2e/x", "/mcp%2Fx", "//mcp", "/mcp/%00", "/mcp/%5c"])
async def test_a_path_that_could_be_resolved_in_two_ways_is_refused(world: World, path: str) -> None:
    host, port = world.resource.split("/")[2].split(":")
    token = world.token()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}:{port}",
        f"Authorization: DPoP {token}",
        f"DPoP: {world.proof(token)}",
        "Content-Type: application/json",
        f"Content-Length: {len(message())}",
        "Connection: close",
    ]
    answer = await anyio.to_thread.run_sync(
        _raw, host, int(port), "\r\n".join(lines).encode() + b"\r\n\r\n" + message()
    )
    assert answer.split()[1] in (b"400", b"404")
    assert world.app.seen == []


def _raw(host: str, port: int, request: bytes) -> bytes:
    """Send bytes as they are: HTTP libraries tidy paths up."""
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(request)
        return connection.makefile("rb").read()


async def test_other_methods_are_not_served(world: World) -> None:
    for method in ("PUT", "OPTIONS", "PATCH", "HEAD"):
        response = await world.send(method=method)
        assert (response.status_code, response.headers["allow"]) == (405, "POST, GET, DELETE")
    assert world.app.seen == []


# Sizes


async def test_a_body_that_is_too_large_is_refused_before_and_while_it_is_read(world: World) -> None:
    large = message(text="x" * 100_000)
    refused(world, await world.send(body=large), 413)

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000]

    token = world.token()
    headers = {"authorization": f"DPoP {token}", "dpop": world.proof(token), "content-type": "application/json"}
    response = await world.http.post(world.resource, headers=headers, content=pieces())
    refused(world, response, 413)


async def test_huge_headers_are_refused(world: World) -> None:
    refused(world, await world.send(headers={"x-large": "x" * 40_000}), 431)
    refused(world, await world.send(token="x" * 9000), 401)


# Metadata


async def test_the_metadata_is_served_to_everybody(world: World) -> None:
    url = world.resource.removesuffix("/mcp") + "/.well-known/oauth-protected-resource/mcp"
    response = await world.http.get(url)
    assert response.json() == {
        "resource": world.resource,
        "authorization_servers": [world.issuer.url],
        "scopes_supported": sorted(SCOPES),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "Ed25519"],
        "dpop_bound_access_tokens_required": True,
    }
    assert (await world.http.head(url)).content == b""
    assert (await world.http.get(url, headers={"host": "evil.example"})).status_code == 421
    assert world.app.seen == []


async def test_a_resource_with_bearer_tokens_says_so() -> None:
    async with new_world(kinds="dpop+bearer", nonces=True) as world:
        url = world.resource.removesuffix("/mcp") + "/.well-known/oauth-protected-resource/mcp"
        response = await world.http.get(url)
        assert response.json()["dpop_bound_access_tokens_required"] is False
        assert world.nonces is not None
        assert world.nonces.accepts(response.headers["dpop-nonce"])
        refusal = await world.send(headers={"authorization": None})
        found = challenges.parse(refusal.headers.get_list("www-authenticate"))
        assert [each.scheme for each in found] == ["DPoP", "Bearer"]


async def test_a_refusal_has_a_body_that_an_mcp_client_understands(world: World) -> None:
    response = await world.send(headers={"authorization": None})
    body = orjson.loads(response.content)
    assert (body["jsonrpc"], body["id"], body["error"]["code"]) == ("2.0", None, -32010)
    assert json.dumps(body["error"]["data"]).count("scope") >= 1
