"""Requests with a bad token, or none: each is refused with the right challenge, and nothing reaches the app."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import httpx2
import orjson
import pytest
from joserfc.jwk import ECKey

from retinue.auth import challenges, jose
from retinue.auth.keys import new_key
from tests.auth.world import In, World, new_world, resolved

pytestmark = pytest.mark.anyio


def refused(world: World, response: httpx2.Response, status: int, error: str) -> challenges.Challenge:
    """Check a refusal whole: status, challenge, and that the app saw nothing."""
    assert response.status_code == status, response.text
    assert world.app.seen == []
    challenge = challenges.pick(challenges.parse(response.headers.get_list("www-authenticate")), "DPoP")
    assert challenge is not None
    assert challenge.error == error
    assert challenge.parameters["resource_metadata"].endswith("/.well-known/oauth-protected-resource/mcp")
    assert challenge.scopes
    assert challenge.parameters["algs"].split()[0] == "ES256"
    return challenge


async def test_a_good_request_reaches_the_app(world: World) -> None:
    response = await world.send()
    assert response.status_code == 200
    assert [seen.scope["retinue.principal"].subject for seen in world.app.seen] == ["local"]


async def test_no_token_is_asked_for_one_without_an_error(world: World) -> None:
    response = await world.send(headers={"authorization": None, "dpop": None})
    challenge = refused(world, response, 401, "")
    assert "error_description" not in challenge.parameters


async def test_the_challenge_names_the_scopes_of_the_tool_that_the_headers_name(world: World) -> None:
    response = await world.send(headers={"authorization": None, "mcp-method": "tools/call", "mcp-name": "search"})
    assert refused(world, response, 401, "").scopes == {"library:read"}


async def test_another_scheme_is_no_token(world: World) -> None:
    refused(world, await world.send(headers={"authorization": "Basic bG9jYWw6c2VjcmV0"}), 401, "")


@pytest.mark.parametrize("value", [b"DPoP", b"DPoP a b", b"DPoP a,b", b"DPoP \xe4", b"=", b"DPoP a=b"])
async def test_an_authorization_header_that_cannot_be_read_is_malformed(world: World, value: bytes) -> None:
    response = await world.send(headers={"authorization": None}, also=[("authorization", value.decode("latin-1"))])
    refused(world, response, 400, "invalid_request")


async def test_two_authorization_headers_are_malformed(world: World) -> None:
    response = await world.send(also=[("authorization", f"DPoP {world.token()}")])
    refused(world, response, 400, "invalid_request")


async def test_a_token_in_the_url_is_refused(world: World) -> None:
    response = await world.send(url=f"{world.resource}?access_token={world.token()}")
    refused(world, response, 400, "invalid_request")


WRONG: dict[str, dict[str, Any]] = {
    "another audience": {"audience": "http://127.0.0.1:1/mcp"},
    "another path": {"audience": "{resource}/"},
    "another issuer": {"issuer": "http://127.0.0.1:1"},
    "a trailing slash on the issuer": {"issuer": "{issuer}/"},
    "expired": {"now": In(-700)},
    "from the future": {"now": In(60)},
    "not bound to a key": {"jkt": None},
    "a key that nobody published": {"key": new_key()},
}


@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG.keys())
async def test_a_token_that_is_not_for_this_server_now_is_refused(world: World, changes: dict[str, Any]) -> None:
    filled = {
        name: value.format(resource=world.resource, issuer=world.issuer.url) if isinstance(value, str) else value
        for name, value in resolved(changes).items()
    }
    refused(world, await world.send(token=world.token(**filled)), 401, "invalid_token")


def handmade(world: World, *, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
    """A signed token of our own composition. A claim or header of None is left out."""
    now = int(time.time())
    good = {
        "iss": world.issuer.url,
        "sub": "local",
        "aud": world.resource,
        "client_id": "local",
        "scope": "library:read",
        "iat": now,
        "exp": now + 600,
        "jti": "1",
        "cnf": {"jkt": world.key.jkt},
    }
    fields = {"typ": "at+jwt", "kid": world.keys.kid, **(header or {})}
    algorithm = fields.pop("alg", "ES256")
    return jose.sign(
        {name: value for name, value in fields.items() if value is not None},
        json.dumps({name: value for name, value in {**good, **claims}.items() if value is not None}).encode(),
        key or world.keys.current,
        algorithm,
    )


async def test_a_handmade_token_is_good_when_it_says_the_right_things(world: World) -> None:
    assert (await world.send(token=handmade(world))).status_code == 200
    assert (await world.send(token=handmade(world, aud=[world.resource], jti="2"))).status_code == 200


BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "several audiences": {"aud": ["{resource}", "http://127.0.0.1:1/mcp"]},
    "an empty list of audiences": {"aud": []},
    "no audience": {"aud": None},
    "a list of issuers": {"iss": ["{issuer}"]},
    "no issuer": {"iss": None},
    "no expiry": {"exp": None},
    "an expiry as text": {"exp": "9999999999"},
    "an expiry as a boolean": {"exp": True},
    "an expiry as a huge number": {"exp": 10**300},
    "no time of issue": {"iat": None},
    "a life of sixteen minutes": {"exp": In(960)},
    "not before in the future": {"nbf": In(120)},
    "no subject": {"sub": None},
    "a subject that is a number": {"sub": 1},
    "no client": {"client_id": None},
    "no id": {"jti": None},
    "scopes as a list": {"scope": ["library:read"]},
    "a scope with a quote": {"scope": 'a"b'},
    "a confirmation that is not a thumbprint": {"cnf": {"jkt": "x"}},
    "a confirmation of another kind": {"cnf": {"x5t#S256": "A" * 43}},
    "two confirmations": {"cnf": {"jkt": "A" * 43, "x5t#S256": "A" * 43}},
    "actors that are too many": {
        "act": {"sub": "a", "act": {"sub": "b", "act": {"sub": "c", "act": {"sub": "d", "act": {"sub": "e"}}}}}
    },
    "an actor that is a name": {"act": "somebody"},
}


@pytest.mark.parametrize("claims", BAD_CLAIMS.values(), ids=BAD_CLAIMS.keys())
async def test_a_claim_that_is_not_as_it_must_be_is_refused(world: World, claims: dict[str, Any]) -> None:
    text = json.dumps(resolved(claims)).replace("{resource}", world.resource).replace("{issuer}", world.issuer.url)
    refused(world, await world.send(token=handmade(world, **json.loads(text))), 401, "invalid_token")


async def test_times_that_are_not_numbers_are_refused(world: World) -> None:
    for value in ("NaN", "Infinity", "1e999"):
        claims = orjson.dumps({"iss": world.issuer.url, "aud": world.resource, "exp": 0}).replace(
            b":0}", f":{value}}}".encode()
        )
        token = jose.sign({"typ": "at+jwt", "kid": world.keys.kid}, claims, world.keys.current, "ES256")
        refused(world, await world.send(token=token), 401, "invalid_token")


@pytest.mark.parametrize("typ", [None, "JWT", "dpop+jwt", "oauth-id-jag+jwt", "id_token"])
async def test_a_token_of_another_type_is_not_an_access_token(world: World, typ: str | None) -> None:
    refused(world, await world.send(token=handmade(world, header={"typ": typ})), 401, "invalid_token")


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"jwk": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}},
        {"x5c": ["MIIB"]},
        {"kid": None},
    ],
    ids=lambda header: next(iter(header)),
)
async def test_a_token_brings_no_key_of_its_own(world: World, header: dict[str, Any]) -> None:
    refused(world, await world.send(token=handmade(world, header=header)), 401, "invalid_token")


def reheaded(token: str, header: bytes) -> str:
    return ".".join([_b64(header), *token.split(".")[1:]])


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def test_an_unsigned_token_is_refused(world: World) -> None:
    for algorithm in ("none", "None", "NONE"):
        header = orjson.dumps({"alg": algorithm, "typ": "at+jwt", "kid": world.keys.kid})
        for signature in ("", "AA"):
            token = ".".join([_b64(header), world.token().split(".")[1], signature])
            response = await world.send(token=token, proof=world.proof(token))
            refused(world, response, 401, "invalid_token")


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(world: World) -> None:
    claims = world.token().split(".")[1]
    header = _b64(orjson.dumps({"alg": "HS256", "typ": "at+jwt", "kid": world.keys.kid}))
    for secret in (world.keys.current.as_pem(private=False), orjson.dumps(world.keys.jwks()["keys"][0])):
        token = f"{header}.{claims}.{_b64(hmac.digest(secret, f'{header}.{claims}'.encode(), 'sha256'))}"
        refused(world, await world.send(token=token), 401, "invalid_token")


async def test_an_algorithm_that_the_issuer_does_not_use_is_refused(world: World) -> None:
    key = ECKey.generate_key("P-384")
    refused(world, await world.send(token=handmade(world, header={"alg": "ES384"}, key=key)), 401, "invalid_token")


async def test_a_changed_token_is_refused(world: World) -> None:
    header, claims, signature = world.token().split(".")
    swapped = signature[:-4] + ("AAAA" if not signature.endswith("AAAA") else "BBBB")
    forged = _b64(orjson.dumps({**orjson.loads(jose.urlsafe_b64decode(claims.encode())), "scope": "library:write"}))
    for token in (f"{header}.{claims}.{swapped}", f"{header}.{forged}.{signature}", f"{header}.{claims}", "abc"):
        refused(world, await world.send(token=token), 401, "invalid_token")


async def test_a_header_or_claim_that_is_there_twice_is_refused(world: World) -> None:
    twice = b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"' + world.keys.kid.encode() + b'"}'
    refused(world, await world.send(token=reheaded(world.token(), twice)), 401, "invalid_token")
    claims = b'{"aud":"http://evil","aud":"' + world.resource.encode() + b'"}'
    token = jose.sign({"typ": "at+jwt", "kid": world.keys.kid}, claims, world.keys.current, "ES256")
    refused(world, await world.send(token=token), 401, "invalid_token")


async def test_a_bound_token_as_bearer_is_refused_everywhere() -> None:
    async with new_world() as world:
        refused(world, await world.send(scheme="Bearer", headers={"dpop": None}), 401, "invalid_token")
    async with new_world(kinds="dpop+bearer") as world:
        response = await world.send(scheme="Bearer", headers={"dpop": None})
        assert response.status_code == 401
        found = challenges.parse(response.headers.get_list("www-authenticate"))
        assert [(each.scheme, each.error) for each in found] == [("DPoP", ""), ("Bearer", "invalid_token")]
        assert world.app.seen == []


async def test_a_bearer_token_is_good_only_where_it_is_allowed_and_only_for_five_minutes() -> None:
    async with new_world() as world:
        token = world.token(jkt=None, lifetime=300)
        refused(world, await world.send(token=token, scheme="Bearer"), 401, "invalid_token")
    async with new_world(kinds="dpop+bearer") as world:
        short, long = (world.token(jkt=None, lifetime=lifetime) for lifetime in (300, 301))
        assert (await world.send(token=long, scheme="Bearer", headers={"dpop": None})).status_code == 401
        assert (await world.send(token=short, scheme="Bearer", headers={"dpop": None})).status_code == 200
        assert len(world.app.seen) == 1
        assert (await world.send()).status_code == 200


async def test_every_refusal_is_reported_without_a_token(world: World) -> None:
    token = world.token(now=time.time() - 700)
    await world.send(token=token)
    await world.send()
    refusal, admission = world.decisions
    assert (refusal.allowed, refusal.status, refusal.reason) == (
        False,
        401,
        "the token's claims are not acceptable: expired",
    )
    assert (admission.allowed, admission.client_id, admission.name) == (True, "local", "search")
    assert admission.scopes_needed == {"library:read"}
    assert token not in repr(world.decisions)
