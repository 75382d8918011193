"""Requests with a good token and a good proof, and something else that is not as it should be."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.security.attacker import LEGACY, META, Attacker, of_a_run

pytestmark = pytest.mark.anyio


# The body


GOOD = {"name": "search", "arguments": {"query": "effect"}, "_meta": META}
SEARCH = json.dumps(GOOD)

TWO_WAYS = {
    "the method twice": f'{{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{SEARCH}}}',
    "the tool twice": (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nothing","name":"search","arguments":{}}}'
    ),
    "the params twice": f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{}},"params":{SEARCH}}}',
    "an argument twice": (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":'
        '{"name":"search","arguments":{"query":"a","query":"effect"}}}'
    ),
    "an escaped key twice": (
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":'
        '{"name":"nothing","n\\u0061me":"search","arguments":{"query":"effect"}}}'
    ),
    "not a number": '{"jsonrpc":"2.0","id":NaN,"method":"tools/call","params":{"name":"search"}}',
    "infinity": '{"jsonrpc":"2.0","id":1e999,"method":"tools/call","params":{"name":"search"}}',
    "half a character": f'{{"jsonrpc":"2.0","id":"\\ud800","method":"tools/call","params":{SEARCH}}}',
    "two messages": f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{SEARCH}}}{{"a":1}}',
    "two lines": f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{SEARCH}}}\n{{"jsonrpc":"2.0"}}',
    "a comment": f'{{"jsonrpc":"2.0",/**/"id":1,"method":"tools/call","params":{SEARCH}}}',
    "a comma too many": f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{SEARCH},}}',
    "single quotes": "{'jsonrpc':'2.0','id':1,'method':'tools/call'}",
    "half a message": '{"jsonrpc":"2.0","id":1,"method":"tools/call"',
    "nothing": "",
    "a null character": f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{SEARCH}}}\x00',
    "nesting without end": '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + "[" * 5000 + "]" * 5000 + "}",
    "a million objects": '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[' + "{}," * 200_000 + "{}]}",
}


@pytest.mark.parametrize("text", TWO_WAYS.values(), ids=TWO_WAYS)
async def test_a_body_that_can_be_read_in_two_ways_is_not_read(attacker: Attacker, text: str) -> None:
    for headers in (attacker.routing(), attacker.legacy(None)):
        response = await attacker.send(body=text.encode(), headers=headers)
        attacker.refused(response, 400, "invalid_request")
        assert response.json()["error"]["code"] == -32700


BATCHES = ["[]", "[{}]", f'[{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{SEARCH}}}]']
NO_REQUESTS = [
    "1",
    "null",
    '"tools/call"',
    "{}",
    '{"jsonrpc":"2.0","id":1}',
    '{"jsonrpc":"2.0","id":1,"method":""}',
    '{"jsonrpc":"2.0","id":1,"method":["tools/call"]}',
    f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{SEARCH},"result":{{}}}}',
    '{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}',
    '{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}',
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":""}}',
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["search"]}}',
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":{"name":"search"}}}',
    '{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"name":"search"}}',
]


@pytest.mark.parametrize("text", [*BATCHES, *NO_REQUESTS])
async def test_a_batch_or_anything_else_that_is_not_one_request_is_refused(attacker: Attacker, text: str) -> None:
    for headers in (attacker.routing(), attacker.legacy(None)):
        attacker.refused(await attacker.send(body=text.encode(), headers=headers), 400, "invalid_request")


@pytest.mark.parametrize("text", [f'{{"id":1,"method":"tools/call","params":{SEARCH}}}', '{"method":"tools/call"}'])
async def test_what_is_json_and_no_json_rpc_does_not_get_to_a_tool(attacker: Attacker, text: str) -> None:
    for headers in (attacker.routing(), attacker.legacy(None)):
        assert (await attacker.send(body=text.encode(), headers=headers)).status_code == 400
    assert attacker.reached == []


ENCODED: dict[str, Callable[[str], bytes]] = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "UTF-8 after a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-7": lambda text: text.replace("{", "+AHs-").encode(),
    "Latin-1": lambda text: text.replace("side", "sidé").encode("latin-1"),
    "EBCDIC": lambda text: text.encode("cp500"),
    "overlong UTF-8": lambda text: text.encode().replace(b"/call", b"\xc0\xafcall"),
    "surrogates as UTF-8": lambda text: text.replace("side", "\ud800").encode("utf-8", "surrogatepass"),
    "gzip, untold": lambda text: gzip.compress(text.encode()),
}


@pytest.mark.parametrize("encode", ENCODED.values(), ids=ENCODED)
async def test_a_body_in_any_encoding_but_utf_8_is_refused(attacker: Attacker, encode: Callable[[str], bytes]) -> None:
    body = encode(attacker.message().decode())
    for charset in ("", "; charset=utf-8"):
        headers = {"content-type": f"application/json{charset}"}
        attacker.refused(await attacker.send(body=body, headers=headers), 400, "invalid_request")


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "application/json-seq",
        "application/jsonx",
        "application/vnd.api+json",
        "application/json, text/plain",
        "application/json; charset=utf-16",
        'application/json; charset="utf-16"',
        "application/json; charset=utf-8; charset=utf-16",
        "application/json;charset=iso-8859-1",
        "application/json ; Charset = UTF-16",
    ],
)
async def test_a_body_of_any_other_kind_is_refused(attacker: Attacker, content_type: str | None) -> None:
    attacker.refused(await attacker.send(headers={"content-type": content_type}), 400, "invalid_request")


async def test_two_kinds_of_one_body_are_refused(attacker: Attacker) -> None:
    response = await attacker.send(also=[("content-type", "text/plain")])
    attacker.refused(response, 400, "invalid_request")


COMPRESSED = {"gzip": gzip.compress, "deflate": zlib.compress, "br": bytes, "x-gzip": gzip.compress, "zstd": bytes}


@pytest.mark.parametrize("name", [*COMPRESSED, "gzip, identity", "identity, gzip", "GZIP", "utf-8", ""])
async def test_a_compressed_body_is_refused_before_it_is_read(attacker: Attacker, name: str) -> None:
    body = COMPRESSED.get(name, gzip.compress)(attacker.message())
    response = await attacker.send(body=body, headers={"content-encoding": name})
    attacker.refused(response, 400, "invalid_request")


async def test_a_compressed_and_a_plain_body_in_one_are_refused(attacker: Attacker) -> None:
    response = await attacker.send(also=[("content-encoding", "identity"), ("content-encoding", "gzip")])
    attacker.refused(response, 400, "invalid_request")


# The routing headers of 2026-07-28


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp-name": "read"},
        {"mcp-name": "list_documents"},
        {"mcp-name": "Search"},
        {"mcp-name": "search/"},
        {"mcp-name": "search,read"},
        {"mcp-name": "=?base64?cmVhZA==?="},
        {"mcp-name": "=?base64?c2VhcmNo"},
        {"mcp-name": "=?base64?c2VhcmNo=?="},
        {"mcp-name": "=?base64??="},
        {"mcp-name": ""},
        {"mcp-name": None},
        {"mcp-method": "ping"},
        {"mcp-method": "tools/list"},
        {"mcp-method": "TOOLS/CALL"},
        {"mcp-method": "tools/call, ping"},
        {"mcp-method": None},
        {"mcp-method": None, "mcp-name": None},
        {"mcp-protocol-version": "2027-01-01", "mcp-method": None, "mcp-name": None},
        {"mcp-protocol-version": "", "mcp-method": None, "mcp-name": None},
        # A handshake-era version does not excuse headers that lie.
        {"mcp-protocol-version": LEGACY, "mcp-name": "read"},
        {"mcp-protocol-version": None, "mcp-method": "ping", "mcp-name": None},
    ],
)
async def test_headers_that_say_something_else_than_the_body_are_refused(
    attacker: Attacker, headers: dict[str, str | None]
) -> None:
    response = await attacker.send(headers=headers)
    attacker.refused(response, 400, "invalid_request")
    assert response.json()["error"]["code"] == -32020


@pytest.mark.parametrize("name", ["mcp-name", "mcp-method", "mcp-protocol-version"])
async def test_a_routing_header_twice_is_refused(attacker: Attacker, name: str) -> None:
    value = {"mcp-name": "search", "mcp-method": "tools/call", "mcp-protocol-version": LEGACY}[name]
    attacker.refused(await attacker.send(also=[(name, value)]), 400, "invalid_request")


async def test_a_wrapped_name_that_says_the_same_is_let_through(attacker: Attacker) -> None:
    assert (await attacker.send(headers={"mcp-name": "=?base64?c2VhcmNo?="})).status_code == 200
    assert attacker.reached == ["call_tool search"]


# The scope


LESS = {
    "a scope of another server": "workspace:read",
    "a longer scope": "knowledge:readx",
    "in capitals": "KNOWLEDGE:READ",
}


@pytest.mark.parametrize("scope", [*LESS.values(), "", "knowledge", "knowledge:*", "*"])
async def test_a_tool_outside_the_scope_is_refused_in_both_eras(attacker: Attacker, scope: str) -> None:
    session = await attacker.session(scope=scope)  # to look is what any token of this server may do
    attacker.reached.clear()
    modern = await attacker.send(token=attacker.token(scope=scope))
    attacker.refused(modern, 403, "insufficient_scope")
    old = await attacker.send(
        token=attacker.token(scope=scope), body=attacker.message(_meta=None), headers=attacker.legacy(session)
    )
    attacker.refused(old, 403, "insufficient_scope")
    hidden = attacker.legacy(session) | {"mcp-protocol-version": None}
    older = await attacker.send(token=attacker.token(scope=scope), body=attacker.message(_meta=None), headers=hidden)
    attacker.refused(older, 403, "insufficient_scope")


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/read", {"uri": "knowledge:///effects.md"}),
        ("resources/subscribe", {"uri": "knowledge:///effects.md"}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "knowledge:///{+path}"}}),
        ("logging/setLevel", {"level": "debug"}),
        ("tasks/get", {"taskId": "x"}),
        ("x/unknown", {}),
        ("TOOLS/CALL", {"name": "search"}),
        ("tools/call ", {"name": "search"}),
    ],
)
async def test_whatever_is_not_known_to_be_harmless_needs_every_scope(
    attacker: Attacker, method: str, params: dict[str, Any]
) -> None:
    body = attacker.message(method, **{"name": None, "arguments": None, **params})
    token = attacker.token(scope="other")
    for headers in (attacker.legacy(None), attacker.routing(method.strip(), params.get("uri", params.get("name")))):
        response = await attacker.send(token=token, body=body, headers=headers)
        assert response.status_code in (400, 403)
        attacker.refused(response, response.status_code, response.json()["error"]["data"]["error"])
    legacy = await attacker.send(token=token, body=body, headers=attacker.legacy(None))
    attacker.refused(legacy, 403, "insufficient_scope")


@pytest.mark.parametrize(
    "uri", ["KNOWLEDGE:///effects.md", "knowledge:/effects.md", "knowledge://x/effects.md", "knowledge:///%65ffects.md"]
)
async def test_a_document_by_another_spelling_of_its_address_needs_the_scope_too(attacker: Attacker, uri: str) -> None:
    body = attacker.message("resources/read", name=None, arguments=None, uri=uri)
    response = await attacker.send(
        token=attacker.token(scope="other"), body=body, headers=attacker.routing("resources/read", uri)
    )
    assert "kept from happening" not in response.text
    assert response.status_code == 403 or "error" in response.json()


async def test_a_tool_that_there_is_not_costs_nothing_and_says_so(attacker: Attacker) -> None:
    body = attacker.message(name="delete_everything")
    response = await attacker.send(body=body, headers=attacker.routing(name="delete_everything"))
    assert response.status_code == 200
    assert "There is no tool named" in response.text


# Sessions of the handshake era


async def test_a_session_belongs_to_who_opened_it(attacker: Attacker) -> None:
    session = await attacker.session()
    other: dict[str, Any] = {"sub": "thief", "client_id": "thief"}
    others: list[dict[str, Any]] = [other, {"sub": "thief"}, {"client_id": "thief"}, {"tenant": "elsewhere"}]
    body = attacker.message(_meta=None)
    for changes in others:
        for method in ("POST", "GET", "DELETE"):
            response = await attacker.send(
                token=attacker.token(**changes),
                method=method,
                body=body if method == "POST" else None,
                headers=attacker.legacy(session),
            )
            assert response.status_code == 404, (changes, method, response.text)
    assert attacker.reached == []
    mine = await attacker.send(body=body, headers=attacker.legacy(session))
    assert mine.status_code == 200
    assert attacker.reached == ["call_tool search"]


@pytest.mark.parametrize("session", ["", "x", "0" * 32, "../../session", "x" * 5000])
async def test_a_session_that_there_is_not_is_not_made_up(attacker: Attacker, session: str) -> None:
    response = await attacker.send(body=attacker.message(_meta=None), headers=attacker.legacy(session))
    assert response.status_code in (400, 404)
    assert attacker.reached == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_to_listen_and_to_end_a_session_take_a_token_too(attacker: Attacker, method: str) -> None:
    session = await attacker.session()
    headers = attacker.legacy(session)
    attacker.refused(await attacker.send(method=method, token=None, proof=None, headers=headers), 401)
    elsewhere = attacker.token(aud=attacker.other)
    attacker.refused(await attacker.send(method=method, token=elsewhere, headers=headers), 401, "invalid_token")
    token = attacker.token()
    posted = attacker.proof(token, htm="POST")
    attacker.refused(
        await attacker.send(method=method, token=token, proof=posted, headers=headers), 401, "invalid_dpop_proof"
    )
    body = attacker.message()
    attacker.refused(await attacker.send(method=method, body=body, headers=headers), 400, "invalid_request")
    mine = await attacker.send(body=attacker.message(_meta=None), headers=headers)
    assert mine.status_code == 200


# Methods, hosts, origins


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "SEARCH", "post", "POSTS"])
async def test_any_other_method_is_refused(attacker: Attacker, method: str) -> None:
    status, answer = await attacker.raw(attacker.raw_headers(method=method), attacker.message(), method=method)
    assert status in (400, 405)
    assert b"allow: POST, GET, DELETE" in answer or status == 400
    assert attacker.reached == []


@pytest.mark.parametrize("header", ["x-http-method-override", "x-http-method", "x-method-override", "_method"])
async def test_no_header_makes_one_method_another(attacker: Attacker, header: str) -> None:
    session = await attacker.session()
    body = attacker.message(_meta=None)
    posted = await attacker.send(body=body, headers=attacker.legacy(session) | {header: "DELETE"})
    assert posted.status_code == 200
    attacker.reached.clear()
    got = await attacker.send(method="GET", token=None, proof=None, headers=attacker.legacy(session) | {header: "POST"})
    attacker.refused(got, 401)
    alive = await attacker.send(body=body, headers=attacker.legacy(session))
    assert alive.status_code == 200, "the session was ended by a header"


HOSTS = ["evil.example", "localhost", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example", "[::1]", "", "127.1", "*"]


@pytest.mark.parametrize("host", HOSTS)
async def test_another_host_is_refused_before_anything_else_is_read(attacker: Attacker, host: str) -> None:
    headers = [(name, host if name == "host" else value) for name, value in attacker.raw_headers()]
    status, answer = await attacker.raw(headers, attacker.message())
    assert status in (400, 421)
    assert b"www-authenticate" not in answer.lower() or status == 400
    assert attacker.reached == []


async def test_a_host_that_begins_or_ends_like_ours_is_another_one(attacker: Attacker) -> None:
    for host in (f"me@{attacker.host}", f"{attacker.host}.evil.example", f"evil.{attacker.host}", f"{attacker.host}0"):
        attacker.refused(await attacker.send(headers={"host": host}), 421)


async def test_what_a_proxy_would_say_of_the_host_is_not_believed(attacker: Attacker) -> None:
    lies = [
        ("x-forwarded-host", attacker.host),
        ("forwarded", f"host={attacker.host}"),
        ("x-original-host", attacker.host),
    ]
    attacker.refused(await attacker.send(headers={"host": "evil.example"}, also=lies), 421)
    elsewhere = attacker.token()
    proof = attacker.proof(elsewhere, htu=attacker.url.replace(attacker.host, "evil.example"))
    told = [("x-forwarded-host", "evil.example"), ("x-forwarded-proto", "http"), ("x-forwarded-prefix", "/a")]
    attacker.refused(await attacker.send(token=elsewhere, proof=proof, also=told), 401, "invalid_dpop_proof")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "http://localhost", "file://"])
async def test_a_web_page_gets_nothing(attacker: Attacker, origin: str) -> None:
    for method in ("POST", "GET", "DELETE", "OPTIONS"):
        response = await attacker.send(method=method, headers={"origin": origin})
        attacker.refused(response, 403)
        assert "access-control-allow-origin" not in response.headers
    attacker.refused(await attacker.send(headers={"origin": attacker.origin}), 403)


async def test_a_flood_of_refused_requests_leaves_the_server_working(attacker: Attacker) -> None:
    answers = await asyncio.gather(*(attacker.send(token=None, proof=None) for _ in range(300)))
    assert {answer.status_code for answer in answers} == {401}
    assert (await attacker.send()).status_code == 200


async def test_a_token_that_may_read_the_workspace_writes_nothing_to_it(tmp_path: Path) -> None:
    async with of_a_run(tmp_path) as attacker:
        attacker.url, attacker.scope = attacker.other, "workspace:read"
        arguments = {"path": "owned.md", "text": "owned"}
        for version in (attacker.routing(name="write_document"), attacker.legacy(None)):
            body = attacker.message(name="write_document", arguments=arguments)
            refused = await attacker.send(body=body, headers=version)
            if refused.status_code == 401:  # the first answer brings the nonce
                refused = await attacker.send(body=body, headers=version)
            attacker.refused(refused, 403, "insufficient_scope", scope="workspace:write")
        assert list((tmp_path / "out").iterdir()) == []
        attacker.scope = "workspace:read workspace:write"
        good = await attacker.send(
            body=attacker.message(name="write_document", arguments=arguments),
            headers=attacker.routing(name="write_document"),
        )
        assert good.status_code == 200
        assert (tmp_path / "out" / "owned.md").read_text() == "owned"
