"""The token endpoint over HTTP: what it grants, and what it refuses with which error."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from joserfc.jwk import ECKey, OKPKey

from retinue.auth import dpop, jose
from retinue.auth.client.credentials import ASSERTION_TYPE
from retinue.auth.dpop import DPoPKey
from retinue.auth.issuer import Client, Issuer, MemoryClients, Resource
from retinue.auth.issuer.limits import RateLimit
from retinue.auth.keys import SigningKeys, new_key, public_jwks
from retinue.auth.replays import MemoryReplayStore, ReplayStoreFull
from retinue.auth.tokens import TokenVerifier
from retinue.errors import ConfigError
from tests.auth.world import SCOPES, In, World, bind, new_world, resolved, serving

pytestmark = pytest.mark.anyio

Fields = dict[str, Any]


def assertion(world: World, *, key: Any = None, header: Fields | None = None, alg: str = "ES256", **claims: Any) -> str:
    now = int(time.time())
    good = {
        "iss": "local",
        "sub": "local",
        "aud": world.issuer.url,
        "iat": now,
        "exp": now + 60,
        "jti": urlsafe_b64encode(str(time.perf_counter_ns()).encode()).decode(),
    }
    merged = {name: value for name, value in {**good, **claims}.items() if value is not None}
    return jose.sign(header or {"typ": "JWT"}, json.dumps(merged).encode(), key or world.client_key, alg)


async def ask(
    world: World,
    *,
    proof: str | None = "",
    headers: Fields | None = None,
    url: str | None = None,
    content: bytes | None = None,
    resources: list[str] | None = None,
    also: list[tuple[str, str]] | None = None,
    key: DPoPKey | None = None,
    **form: str | None,
) -> httpx2.Response:
    """A good token request, but for what is given. A parameter of None is left out."""
    nonce = (await world.http.get(f"{world.issuer.url}/.well-known/oauth-authorization-server")).headers["dpop-nonce"]
    fields: dict[str, str | None] = {
        "grant_type": "client_credentials",
        "scope": "library:read",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": form.pop("client_assertion", assertion(world)),
        **form,
    }
    pairs = [(name, value) for name, value in fields.items() if value is not None]
    pairs += [("resource", resource) for resource in ([world.resource] if resources is None else resources)]
    if proof == "":
        proof = dpop.create(key or world.key, method="POST", url=world.issuer.token_url, nonce=nonce)
    sent = {"content-type": "application/x-www-form-urlencoded", **({} if proof is None else {"dpop": proof})}
    body = content if content is not None else str(httpx2.QueryParams([*pairs, *(also or [])])).encode()
    merged = {name: value for name, value in {**sent, **(headers or {})}.items() if value is not None}
    return await world.http.post(url or world.issuer.token_url, headers=merged, content=body)


def refused(world: World, response: httpx2.Response, error: str, status: int = 400) -> None:
    assert (response.status_code, response.json().get("error")) == (status, error), response.text
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["pragma"] == "no-cache"
    assert world.grants[-1].error == error
    assert not world.grants[-1].granted
    assert "access_token" not in response.json()


async def test_a_good_request_gets_a_bound_token_for_one_audience(world: World) -> None:
    response = await ask(world)
    body = response.json()
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("DPoP", 600, "library:read")
    token = jose.read(body["access_token"], max_length=8192)
    assert token.header == {"typ": "at+jwt", "alg": "ES256", "kid": world.keys.kid}
    assert token.claims["aud"] == world.resource
    assert token.claims["iss"] == world.issuer.url
    assert token.claims["cnf"] == {"jkt": world.key.jkt}
    assert (token.claims["sub"], token.claims["client_id"], token.claims["scope"]) == ("local", "local", "library:read")
    assert token.claims["exp"] - token.claims["iat"] == 600
    grant = await TokenVerifier(world.issuer.url, world.resource, world.keys).verify(body["access_token"])
    assert (grant.jkt, grant.lifetime, grant.jti) == (world.key.jkt, 600, token.claims["jti"])
    event = world.grants[-1]
    assert (event.granted, event.client_id, event.resource, event.jti) == (True, "local", world.resource, grant.jti)
    assert body["access_token"] not in repr(world.grants)
    assert (await world.send(token=body["access_token"])).status_code == 200


async def test_the_metadata_is_at_each_well_known_place(world: World) -> None:
    for name in ("oauth-authorization-server", "openid-configuration"):
        response = await world.http.get(f"{world.issuer.url}/.well-known/{name}")
        found = response.json()
        assert found["issuer"] == world.issuer.url
        assert found["token_endpoint"] == f"{world.issuer.url}/token"
        assert found["grant_types_supported"] == ["client_credentials"]
        assert found["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
        assert found["dpop_signing_alg_values_supported"] == ["ES256", "Ed25519"]
        assert found["protected_resources"] == [world.resource]
        keys = (await world.http.get(found["jwks_uri"])).json()["keys"]
        assert [key["kid"] for key in keys] == [world.keys.kid]
        assert not {"d", "p", "k"} & keys[0].keys()


async def test_an_issuer_with_a_path_has_its_metadata_where_rfc_8414_says() -> None:
    sock, base = bind()
    url = f"{base}/tenant"
    issuer = Issuer(url, SigningKeys.generate(), MemoryClients(), {}, MemoryReplayStore())
    async with new_world() as world, serving((issuer.app, sock)):
        for path in ("/.well-known/oauth-authorization-server/tenant", "/tenant/.well-known/openid-configuration"):
            assert (await world.http.get(base + path)).json()["issuer"] == url
        assert (await world.http.get(f"{base}/.well-known/oauth-authorization-server")).status_code == 404
        assert (await world.http.get(f"{url}/jwks", headers={"host": "evil.example"})).status_code == 421


BAD_ASSERTIONS: dict[str, Fields] = {
    "the token endpoint as audience": {"aud": "{issuer}/token"},
    "several audiences": {"aud": ["{issuer}", "http://127.0.0.1:1"]},
    "no audience": {"aud": None},
    "another issuer than subject": {"iss": "other"},
    "an unknown client": {"iss": "other", "sub": "other"},
    "no subject": {"sub": None},
    "a subject that is a list": {"sub": ["local"]},
    "no expiry": {"exp": None},
    "expired": {"exp": In(-60)},
    "good for an hour": {"exp": In(3600)},
    "issued in the future": {"iat": In(120)},
    "not before the future": {"nbf": In(120)},
    "issued long ago": {"iat": In(-1000)},
    "an expiry as text": {"exp": "1"},
    "no jti": {"jti": None},
    "another key": {"key": new_key()},
    "an access token's type": {"header": {"typ": "at+jwt"}},
    "a key of its own": {"header": {"jwk": new_key().as_dict(private=False)}},
    "another algorithm": {"key": ECKey.generate_key("P-384"), "alg": "ES384"},
    "a key id that is not registered": {"header": {"kid": "other"}},
}


@pytest.mark.parametrize("changes", BAD_ASSERTIONS.values(), ids=BAD_ASSERTIONS.keys())
async def test_every_bad_assertion_gets_the_same_answer(world: World, changes: Fields) -> None:
    filled = {
        name: json.loads(json.dumps(value).replace("{issuer}", world.issuer.url)) if name == "aud" else value
        for name, value in resolved(changes).items()
    }
    response = await ask(world, client_assertion=assertion(world, **filled))
    refused(world, response, "invalid_client", 401)
    assert response.json()["error_description"] == "client authentication failed"


async def test_an_assertion_is_good_once(world: World) -> None:
    used = assertion(world)
    assert (await ask(world, client_assertion=used)).status_code == 200
    refused(world, await ask(world, client_assertion=used), "invalid_client", 401)


async def test_of_two_uses_of_an_assertion_at_once_one_is_granted(world: World) -> None:
    used = assertion(world)
    found: list[int] = []

    async def one() -> None:
        found.append((await ask(world, client_assertion=used)).status_code)

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    assert sorted(found) == [200, 401]


async def test_a_request_refused_for_its_nonce_does_not_use_up_the_assertion(world: World) -> None:
    mine = assertion(world)
    proof = dpop.create(world.key, method="POST", url=world.issuer.token_url)
    response = await ask(world, client_assertion=mine, proof=proof)
    refused(world, response, "use_dpop_nonce")
    proof = dpop.create(world.key, method="POST", url=world.issuer.token_url, nonce=response.headers["dpop-nonce"])
    assert (await ask(world, client_assertion=mine, proof=proof)).status_code == 200


async def test_an_ed25519_client_is_known_by_its_key(world: World) -> None:
    key = OKPKey.generate_key("Ed25519")
    world.clients.add(Client("local", public_jwks(key), {world.resource: SCOPES}))
    response = await ask(world, client_assertion=assertion(world, key=key, alg="Ed25519"))
    assert response.status_code == 200


async def test_one_way_of_authenticating_is_enough(world: World) -> None:
    refused(world, await ask(world, client_secret="x"), "invalid_request")
    refused(world, await ask(world, headers={"authorization": "Basic bG9jYWw6eA=="}), "invalid_client", 401)
    refused(world, await ask(world, client_assertion=None, client_id="local"), "invalid_client", 401)
    refused(world, await ask(world, client_assertion_type="other"), "invalid_client", 401)
    refused(world, await ask(world, client_id="other"), "invalid_client", 401)
    assert (await ask(world, client_id="local")).status_code == 200


async def test_exactly_one_registered_resource_is_needed(world: World) -> None:
    for resources in ([], ["http://127.0.0.1:1/mcp"], [world.resource] * 2, [f"{world.resource}/"], [""]):
        refused(world, await ask(world, resources=resources), "invalid_target")


async def test_only_allowed_scopes_are_granted_and_only_those_asked_for(world: World) -> None:
    world.clients.add(
        Client("local", public_jwks(world.client_key), {world.resource: frozenset({"library:read", "library:admin"})})
    )
    for scope in ("library:write", "library:read library:write", "library:admin", "LIBRARY:READ", None, 'a"b', " "):
        refused(world, await ask(world, scope=scope), "invalid_scope")
    assert (await ask(world, scope="library:read")).json()["scope"] == "library:read"
    world.clients.add(Client("local", public_jwks(world.client_key), {"http://127.0.0.1:1/mcp": SCOPES}))
    refused(world, await ask(world, scope="library:read"), "invalid_scope")


async def test_a_proof_is_needed_and_has_to_hold(world: World) -> None:
    refused(world, await ask(world, proof=None), "invalid_dpop_proof")
    refused(
        world, await ask(world, proof=dpop.create(world.key, method="POST", url=world.resource)), "invalid_dpop_proof"
    )
    refused(
        world,
        await ask(world, proof=dpop.create(world.key, method="GET", url=world.issuer.token_url)),
        "invalid_dpop_proof",
    )
    refused(world, await ask(world, proof="x"), "invalid_dpop_proof")
    nonce = (await ask(world)).headers["dpop-nonce"]
    proof = dpop.create(world.key, method="POST", url=world.issuer.token_url, nonce=nonce)
    assert (await ask(world, proof=proof)).status_code == 200
    refused(world, await ask(world, proof=proof), "invalid_dpop_proof")


async def test_a_resource_that_allows_bearer_tokens_gets_short_ones() -> None:
    async with new_world(kinds="dpop+bearer", lifetime=900) as world:
        body = (await ask(world, proof=None)).json()
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 300)
        response = await world.send(token=body["access_token"], scheme="Bearer", headers={"dpop": None})
        assert response.status_code == 200
        body = (await ask(world)).json()
        assert (body["token_type"], body["expires_in"]) == ("DPoP", 900)


async def test_other_grants_are_not_served(world: World) -> None:
    refused(world, await ask(world, grant_type="authorization_code"), "unsupported_grant_type")
    refused(world, await ask(world, grant_type="urn:'\"<x>"), "unsupported_grant_type")
    refused(world, await ask(world, grant_type=None), "invalid_request")


async def test_a_form_that_is_not_one_is_refused(world: World) -> None:
    refused(world, await ask(world, also=[("scope", "library:write")]), "invalid_request")
    refused(world, await ask(world, also=[("grant_type", "client_credentials")]), "invalid_request")
    refused(world, await ask(world, headers={"content-type": "application/json"}), "invalid_request")
    refused(world, await ask(world, headers={"content-type": None}), "invalid_request")
    refused(
        world,
        await ask(world, headers={"content-type": "application/x-www-form-urlencoded; charset=utf-16"}),
        "invalid_request",
    )
    refused(world, await ask(world, headers={"content-encoding": "gzip"}), "invalid_request")
    refused(world, await ask(world, url=f"{world.issuer.token_url}?scope=library:read"), "invalid_request")
    refused(world, await ask(world, content=b"grant_type"), "invalid_request")
    refused(world, await ask(world, content=b"grant_type=%ff"), "invalid_request")
    refused(world, await ask(world, content=b"a=1&" * 100 + b"b=1"), "invalid_request")
    refused(world, await ask(world, content=b"a=" + b"x" * 70_000), "invalid_request", 413)
    refused(world, await ask(world, headers={"x-large": "x" * 40_000}), "invalid_request", 431)


async def test_the_answer_and_the_log_quote_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    mine = assertion(world)
    granted = await ask(world, client_assertion=mine)
    refusal = await ask(world, scope="<canary>")
    assert "canary" not in refusal.text
    assert granted.json()["access_token"] not in caplog.text
    assert mine not in caplog.text


async def test_an_address_that_asks_too_often_is_slowed_down() -> None:
    now = 0.0
    limit = RateLimit(1, 2, keys=2, clock=lambda: now)
    assert [limit.allows("a") for _ in range(3)] == [True, True, False]
    assert limit.allows("b")
    now = 1.0
    assert [limit.allows("a") for _ in range(2)] == [True, False]
    assert limit.allows("c")
    assert limit.allows("b"), "the key that was forgotten starts anew"
    async with new_world(requests_per_second=1) as world:
        answers = [await ask(world, content=b"a") for _ in range(4)]
        assert {answer.status_code for answer in answers} == {400, 429}
        refused(world, answers[-1], "temporarily_unavailable", 429)
        assert answers[-1].headers["retry-after"] == "1"


async def test_nothing_is_granted_while_replays_cannot_be_known() -> None:
    class Broken:
        async def first_time(self, key: str, expires_at: float) -> bool:
            raise ReplayStoreFull("full")

    async with new_world(replays=Broken()) as world:
        refused(world, await ask(world), "server_error", 503)


async def test_an_issuer_is_set_up_safely() -> None:
    keys, store = SigningKeys.generate(), MemoryReplayStore()
    for url in (
        "http://issuer.example",
        "https://issuer.example/",
        "https://issuer.example?x",
        "issuer",
        "https://a@b",
    ):
        with pytest.raises(ConfigError):
            Issuer(url, keys, MemoryClients(), {}, store)
    for lifetime in (60, 901):
        with pytest.raises(ConfigError, match="300 to 900"):
            Issuer("https://issuer.example", keys, MemoryClients(), {}, store, lifetime=lifetime)
    with pytest.raises(ConfigError, match="private key"):
        Client("local", {"keys": [new_key().as_dict(private=True)]}, {})
    issuer = Issuer("https://issuer.example", new_key(), MemoryClients(), {"https://a": Resource(SCOPES)}, store)
    assert orjson.dumps(issuer.metadata())
