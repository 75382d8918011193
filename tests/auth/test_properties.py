"""Readers of strangers' input, on any input: they agree with a plain definition, and never fail otherwise."""

from __future__ import annotations

import contextlib
import json
import string
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retinue.auth import challenges, jose, operation, strict_json
from retinue.auth.challenges import Challenge
from retinue.auth.dpop import DPoPKey, check
from retinue.auth.refusals import InvalidProof, Malformed
from retinue.auth.request_head import Head, host_allowed, path_of
from retinue.auth.urls import target, under

tokens = st.text(string.ascii_letters + string.digits + "-._~", min_size=1, max_size=12)
quotable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
challenge = st.builds(Challenge, tokens, st.dictionaries(tokens.map(str.lower), quotable, max_size=5))

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
values: st.SearchStrategy[Any] = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


# WWW-Authenticate


@given(st.lists(challenge, max_size=4))
def test_challenges_are_read_as_they_were_written(written: list[Challenge]) -> None:
    assert challenges.parse([str(each) for each in written]) == written


@given(st.lists(challenge, min_size=1, max_size=4))
def test_challenges_in_one_header_are_told_apart(written: list[Challenge]) -> None:
    assert challenges.parse([", ".join(str(each) for each in written)]) == written


@given(st.text(max_size=200) | st.text(',="\\ \tDPoPa', max_size=200))
@example('DPoP error="')
@example('DPoP a="\\')
@example("DPoP = , =")
def test_any_header_at_all_is_read_without_failing(header: str) -> None:
    for found in challenges.parse([header]):
        assert found.scheme
        assert all(name == name.lower() for name in found.parameters)
        assert isinstance(found.scopes, frozenset)


@given(st.dictionaries(tokens.map(str.lower), st.text(max_size=20), max_size=3))
def test_a_written_challenge_is_one_line_of_ascii(parameters: dict[str, str]) -> None:
    line = str(Challenge("DPoP", parameters))
    assert line.isascii()
    assert "\r" not in line
    assert "\n" not in line


# Strict JSON


@given(values)
def test_strict_json_reads_what_plain_json_writes(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError:
            continue
        if "\\ud" in text:  # an escaped lone surrogate, which is refused
            continue
        assert strict_json.loads(data) == value


@given(st.binary(max_size=200))
def test_strict_json_accepts_only_what_both_readers_read_alike(data: bytes) -> None:
    try:
        value = strict_json.loads(data)
    except strict_json.InvalidJSON:
        return
    assert json.dumps(value) == json.dumps(json.loads(data))
    assert orjson.loads(data) == value


@given(st.dictionaries(st.text(max_size=5), values, min_size=1, max_size=3), st.data())
def test_a_repeated_key_is_found_anywhere(value: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    twice = json.dumps(value)[:-1] + f", {json.dumps(key)}: 0}}"
    for text in (twice, f"[[{twice}]]", f'{{"a": [{twice}]}}'):
        with pytest.raises(strict_json.InvalidJSON):
            strict_json.loads(text.encode("utf-8", "surrogatepass"))


@given(st.integers(1, 200), st.sampled_from(['{"a":', "["]), st.text('[]{}"\\', max_size=30))
def test_nesting_is_counted_outside_strings_alone(depth: int, opening: str, inside: str) -> None:
    closing = "}" if opening == '{"a":' else "]"
    text = opening * depth + json.dumps(inside) + closing * depth
    if depth <= strict_json.MAX_DEPTH:
        strict_json.loads(text.encode())
    else:
        with pytest.raises(strict_json.InvalidJSON, match="deep"):
            strict_json.loads(text.encode())


# Messages, tokens, proofs, addresses


@given(st.binary(max_size=100) | values.map(lambda value: json.dumps(value).encode()))
def test_any_body_at_all_is_one_operation_or_malformed(body: bytes) -> None:
    try:
        found = operation.read(body)
    except Malformed:
        return
    assert found.method == json.loads(body).get("method", "")


@given(st.text(max_size=60))
def test_a_header_value_survives_its_wrapping(name: str) -> None:
    from mcp.shared.inbound import encode_header_value

    try:
        wrapped = encode_header_value(name)
    except UnicodeEncodeError:
        return
    assert operation.decode_header(wrapped) == name


@given(st.text(max_size=300) | st.lists(st.text("AQIDeyJ_-", max_size=40), min_size=3, max_size=3).map(".".join))
def test_any_text_at_all_is_no_token_and_no_proof(text: str) -> None:
    with pytest.raises(jose.Unreadable):
        jose.read(text, max_length=8192)
    with pytest.raises(InvalidProof):
        check(text, method="GET", url="http://127.0.0.1/")


KEY = DPoPKey.generate()


claims = st.dictionaries(st.sampled_from(["jti", "htm", "htu", "iat", "ath", "nonce", "x"]), values)
jwks = st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "d", "kid"]), values | st.sampled_from(["EC", "P-256"]))


@given(claims, jwks)
def test_any_claims_and_key_at_all_are_judged_without_failing(claims: dict[str, Any], jwk: dict[str, Any]) -> None:
    try:
        payload = json.dumps(claims).encode()
    except UnicodeEncodeError:
        return
    proof = jose.sign({"typ": "dpop+jwt", "jwk": KEY.public_jwk}, payload, KEY.key, "ES256")
    with pytest.raises(InvalidProof):
        check(proof, method="GET", url="http://127.0.0.1/")
    other = jose.sign({"typ": "dpop+jwt", "jwk": jwk}, payload, KEY.key, "ES256")
    with pytest.raises(InvalidProof):
        check(other, method="GET", url="http://127.0.0.1/")


@given(st.text(max_size=40))
def test_an_address_is_under_another_only_on_its_origin(path: str) -> None:
    url = f"http://127.0.0.1:80/mcp{path}"
    try:
        found = target(url)
    except ValueError:
        assert not under(url, "http://127.0.0.1/mcp")
        return
    assert found.startswith("http://127.0.0.1/mcp")
    assert under(url, "http://127.0.0.1/mcp") == (found == "http://127.0.0.1/mcp" or found[20:21] == "/")
    assert not under(url, "http://127.0.0.1:8080/mcp")


@given(st.binary(max_size=40))
def test_any_path_and_header_at_all_is_read_or_malformed(raw: bytes) -> None:
    for read in (
        lambda: path_of({"raw_path": raw, "path": ""}),
        lambda: Head([(b"authorization", raw)]).credentials(),
        lambda: Head([(b"content-length", raw), (b"content-type", raw)]).check_body_headers(10),
        lambda: Head([(b"content-type", raw)]).check_json(),
    ):
        with contextlib.suppress(Malformed):
            read()


@given(st.text("abc.:*0123456789", max_size=12))
def test_a_host_is_allowed_as_it_is_or_on_any_port(host: str) -> None:
    assert host_allowed(host, ["a.b:1"]) == (host == "a.b:1")
    head, _, port = host.rpartition(":")
    assert host_allowed(host, ["a.b:*"]) == (host == "a.b:*" or (head == "a.b" and port.isdigit()))
