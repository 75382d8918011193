"""Requests that no HTTP library would send: paths, headers, lengths and times that a parser may take in two ways."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import anyio
import pytest

from tests.security.attacker import Attacker

pytestmark = pytest.mark.anyio


# Paths


PATHS = [
    "/{}",
    "{}/",
    "{}/.",
    "{}/..",
    "{}/../mcp",
    "/.{}",
    "/..{}",
    "/x/..{}",
    "{};x",
    "{}%00",
    "{}%20",
    "{}%0d%0ax",
    "{}%2f",
    "{}#x",
    "{}\\",
    "/%2e%2e{}",
    "http://evil.example{}",
    "//evil.example{}",
    "*",
    "",
]


def spellings(path: str) -> list[str]:
    """Other spellings of a path: in capitals, with its letters and slashes encoded."""
    letters = "".join(f"%{ord(c):02x}" if c.isalpha() else c for c in path)
    return [path.upper(), path.replace("/mcp", "%2fmcp"), path.replace("/mcp", "%2Fmcp"), letters, f"{path[:-1]}%70"]


async def test_a_path_by_any_other_spelling_leads_nowhere(attacker: Attacker) -> None:
    for path in [*(shape.format(attacker.path) for shape in PATHS), *spellings(attacker.path)]:
        token = attacker.token()
        for aim in (attacker.url, f"{attacker.origin}{path}"):
            headers = attacker.raw_headers(token, attacker.proof(token, htu=aim))
            status, _ = await attacker.raw(headers, attacker.message(), target=path)
            assert status in (400, 401, 404), path
            assert attacker.reached == [], path


async def test_below_the_endpoint_is_nothing_either(attacker: Attacker) -> None:
    for path in ("/x", "/tools/call", "/.well-known/oauth-protected-resource"):
        url = attacker.url + path
        token = attacker.token()
        response = await attacker.send(url=url, token=token, proof=attacker.proof(token, htu=url))
        assert response.status_code == 404
        assert attacker.reached == []


async def test_a_token_in_the_address_is_refused(attacker: Attacker) -> None:
    url = f"{attacker.url}?access_token={attacker.token()}"
    for token in (None, attacker.token()):
        response = await attacker.send(url=url, token=token, proof=attacker.proof(token or ""))
        attacker.refused(response, 400, "invalid_request")


async def test_a_token_in_the_body_or_a_cookie_is_none(attacker: Attacker) -> None:
    token = attacker.token()
    body = attacker.message(access_token=token)
    attacker.refused(await attacker.send(token=None, proof=attacker.proof(token), body=body), 401)
    cookie = [("cookie", f"access_token={token}; Authorization=DPoP {token}"), ("proxy-authorization", f"DPoP {token}")]
    attacker.refused(await attacker.send(token=None, proof=attacker.proof(token), also=cookie), 401)


@pytest.mark.parametrize("path", ["/issuer/token/", "/issuer/jwks/", "/issuer", "/issuer/"])
async def test_no_address_redirects_to_where_a_request_says(attacker: Attacker, path: str) -> None:
    for method in ("GET", "POST"):
        status, answer = await attacker.raw([("host", "evil.example")], method=method, target=path)
        assert status in (404, 421)
        assert b"evil.example" not in answer


# The Authorization header


CREDENTIALS = {
    "twice in one": "DPoP {0}, DPoP {0}",
    "joined with a comma": "DPoP {0},{0}",
    "two schemes": "DPoP {0}, Bearer {0}",
    "a parameter": 'DPoP token="{0}"',
    "a tab between": "DPoP\t{0}",
    "a space inside": "DPoP {0} x",
    "a quote": 'DPoP "{0}"',
    "the scheme alone": "DPoP",
    "the scheme and a space": "DPoP ",
    "no scheme": "{0}",
    "a scheme too many": "DPoP DPoP {0}",
    "non-ASCII": "DPoP {0}é",
    "Basic": "Basic {0}",
    "Token": "Token {0}",
    "DPoP in other letters": "DРoP {0}",
    "a vertical tab": "DPoP \x0b{0}",
}


@pytest.mark.parametrize("value", CREDENTIALS.values(), ids=CREDENTIALS)
async def test_credentials_that_are_not_one_token_are_refused(attacker: Attacker, value: str) -> None:
    token = attacker.token()
    headers = [(n, v) for n, v in attacker.raw_headers(token) if n != "authorization"]
    said = value.format(token).encode("utf-8").decode("latin-1")
    status, answer = await attacker.raw([*headers, ("authorization", said)], attacker.message())
    assert status in (400, 401)
    assert token.encode() not in answer
    assert attacker.reached == []


async def test_two_authorization_headers_are_refused_whichever_is_good(attacker: Attacker) -> None:
    token = attacker.token()
    for second in (f"DPoP {token}", "DPoP x", "", "Basic eA=="):
        for first in (True, False):
            headers = attacker.raw_headers(token)
            headers.insert(0 if first else len(headers), ("authorization", second))
            status, _ = await attacker.raw(headers, attacker.message())
            assert status == 400
            assert attacker.reached == []


async def test_the_scheme_may_be_written_in_any_case(attacker: Attacker) -> None:
    for scheme in ("dpop", "DPOP", "dPoP"):
        assert (await attacker.send(scheme=scheme)).status_code == 200


@pytest.mark.parametrize("length", [9_000, 30_000, 60_000, 300_000])
async def test_a_header_without_end_is_refused_before_any_cryptography(attacker: Attacker, length: int) -> None:
    headers = [(n, v) for n, v in attacker.raw_headers() if n != "authorization"]
    before = time.process_time()
    status, _ = await attacker.raw([*headers, ("authorization", "DPoP " + "A" * length)], attacker.message())
    assert status in (0, 400, 401, 431)  # 0: hung up on
    assert time.process_time() - before < 0.5
    assert attacker.reached == []


async def test_ten_thousand_headers_are_refused(attacker: Attacker) -> None:
    many = [(f"x-{number}", "x") for number in range(10_000)]
    status, _ = await attacker.raw([*attacker.raw_headers(), *many], attacker.message())
    assert status in (0, 400, 431)
    assert attacker.reached == []


# Lengths: what one program takes for the end of a request, another may take for the beginning of the next


def chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


SMUGGLED = {
    "both lengths": [("content-length", "{n}"), ("transfer-encoding", "chunked")],
    "both lengths, the other way round": [("transfer-encoding", "chunked"), ("content-length", "{n}")],
    "chunked twice": [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
    "chunked and something": [("transfer-encoding", "gzip, chunked")],
    "something and identity": [("transfer-encoding", "chunked, identity")],
    "a space before the colon": [("transfer-encoding ", "chunked")],
    "a tab in the value": [("transfer-encoding", "\tchunked"), ("content-length", "{n}")],
    "capitals": [("Transfer-Encoding", "CHUNKED"), ("content-length", "{n}")],
    "xchunked": [("transfer-encoding", "xchunked")],
    "two different lengths": [("content-length", "{n}"), ("content-length", "1")],
    "two lengths in one": [("content-length", "{n}, 1")],
    "a signed length": [("content-length", "+{n}")],
    "a hexadecimal length": [("content-length", "0x10")],
    "a length with an underscore": [("content-length", "1_0")],
    "a length in other digits": [("content-length", "\u0661")],
    "a negative length": [("content-length", "-1")],
    "no length": [],
    "a folded header": [("x-a", "b\r\n folded: c"), ("content-length", "{n}"), ("transfer-encoding", "chunked")],
}


@pytest.mark.parametrize("shape", SMUGGLED.values(), ids=SMUGGLED)
async def test_a_body_of_doubtful_length_reaches_nothing(attacker: Attacker, shape: list[tuple[str, str]]) -> None:
    body = chunked(attacker.message())
    lengths = [(name, value.format(n=len(body)).encode().decode("latin-1")) for name, value in shape]
    status, _ = await attacker.raw([*attacker.raw_headers(), *lengths], body, length=False)
    assert status in (0, 400, 501)
    assert attacker.reached == []


async def test_a_chunked_body_is_as_good_as_any(attacker: Attacker) -> None:
    headers = [*attacker.raw_headers(), ("transfer-encoding", "chunked")]
    status, answer = await attacker.raw(headers, chunked(attacker.message()), length=False)
    assert status == 200, answer
    assert attacker.reached == ["call_tool search"]


async def test_a_second_request_in_the_first_ones_body_is_never_one_of_its_own(attacker: Attacker) -> None:
    """After a request whose length is told short, what follows is judged alone, and has no token."""
    inner = (
        f"POST {attacker.path} HTTP/1.1\r\nhost: {attacker.host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    ).encode()
    lines = [f"POST {attacker.path} HTTP/1.1", f"host: {attacker.host}", "content-length: 0"]
    status, answer = await attacker.exchange(("\r\n".join(lines) + "\r\n\r\n").encode() + inner)
    assert status == 401
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 401")
    good = attacker.raw_headers()
    head = "\r\n".join([f"POST {attacker.path} HTTP/1.1", *(f"{n}: {v}" for n, v in good), "content-length: 0"])
    _, answer = await attacker.exchange(head.encode("latin-1") + b"\r\n\r\n" + inner)
    assert b"HTTP/1.1 200" not in answer
    assert attacker.reached == []


@pytest.mark.parametrize(
    "line",
    [
        "POST {} HTTP/1.0",
        "POST {} HTTP/2.0",
        "POST {} HTTP/0.9",
        "POST {}",
        "POST  {} HTTP/1.1",
        "POST {} HTTP/1.1 x",
        "POST\t{} HTTP/1.1",
        "POST {}\rX HTTP/1.1",
        "PRI * HTTP/2.0",
        "CONNECT {} HTTP/1.1",
    ],
)
async def test_a_request_line_of_another_kind_is_judged_or_refused(attacker: Attacker, line: str) -> None:
    headers = attacker.raw_headers(None, None)
    status, _ = await attacker.raw(headers, attacker.message(), line=line.format(attacker.path))
    assert status in (0, 400, 401, 404, 405)
    assert attacker.reached == []


async def test_an_upgrade_is_not_made(attacker: Attacker) -> None:
    for upgrade in ("websocket", "h2c"):
        headers = [*attacker.raw_headers(None, None, method="GET"), ("upgrade", upgrade), ("connection", "upgrade")]
        status, _ = await attacker.raw(headers, method="GET")
        assert status in (400, 401)
        assert attacker.reached == []


# Sizes and times


@pytest.mark.parametrize("how", ["told", "untold", "in chunks"])
async def test_a_huge_body_is_refused(attacker: Attacker, how: str) -> None:
    huge = 5 * 1024 * 1024
    headers = attacker.raw_headers()
    if how == "told":
        status, _ = await attacker.raw([*headers, ("content-length", str(huge))], b"{", length=False)
    elif how == "untold":
        status, _ = await attacker.raw([*headers, ("content-length", "9" * 30)], b"{", length=False)
    else:
        body = chunked(b" " * huge)
        status, _ = await attacker.raw([*headers, ("transfer-encoding", "chunked")], body, length=False)
    assert status == (400 if how == "untold" else 413)
    assert attacker.reached == []


async def test_the_body_of_nobody_is_not_read(attacker: Attacker) -> None:
    """Without a token the answer comes at once, though the body never does."""
    headers = [*attacker.raw_headers(None, None), ("content-length", "1000")]
    status, _ = await attacker.raw(headers, b"", length=False)
    assert status == 401


async def test_a_body_that_does_not_come_is_waited_for_only_so_long(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue.auth.judgement.BODY_TIMEOUT", 0.1)
    headers = [*attacker.raw_headers(), ("content-length", "1000")]
    status, _ = await attacker.raw(headers, b'{"jsonrpc"', length=False)
    assert status == 408
    assert attacker.reached == []


async def test_a_head_that_does_not_come_is_waited_for_only_so_long(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue.mcp_servers.kit.http.HEAD_TIMEOUT", 0.1)
    host, _, port = attacker.host.partition(":")
    for sent in (b"", b"POST", f"POST {attacker.path} HTTP/1.1\r\nhost:".encode()):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        with anyio.fail_after(5):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
    assert attacker.reached == []


async def test_a_head_that_comes_a_byte_at_a_time_has_no_more_time(
    attacker: Attacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue.mcp_servers.kit.http.HEAD_TIMEOUT", 0.1)
    host, _, port = attacker.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    trickled = 0
    with anyio.fail_after(5):
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                trickled += 1
                with anyio.move_on_after(0.01):
                    await reader.read(1)
    assert trickled < 1000
    writer.close()


async def test_a_client_that_goes_away_in_its_body_leaves_nothing_behind(attacker: Attacker) -> None:
    host, _, port = attacker.host.partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = "\r\n".join(
        [f"POST {attacker.path} HTTP/1.1", *(f"{n}: {v}" for n, v in attacker.raw_headers()), "content-length: 1000"]
    )
    writer.write(head.encode("latin-1") + b'\r\n\r\n{"jsonrpc"')
    await writer.drain()
    writer.transport.abort()
    assert (await attacker.send()).status_code == 200
    assert attacker.reached == ["call_tool search"]
