"""DPoP proofs that do not hold, and replays: refused, and nothing reaches the app."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from retinue.auth import challenges, jose
from retinue.auth.dpop import DatabaseReplayStore, DPoPKey, MemoryReplayStore, create
from retinue.database.sqlite import SQLiteDatabase
from tests.auth.world import In, World, bind, new_world, resolved, serving

pytestmark = pytest.mark.anyio


def refused(world: World, response: httpx2.Response, error: str = "invalid_dpop_proof") -> None:
    assert response.status_code == 401, response.text
    challenge = challenges.pick(challenges.parse(response.headers.get_list("www-authenticate")), "DPoP")
    assert challenge is not None
    assert (challenge.error, challenge.parameters["algs"]) == (error, "ES256 Ed25519")
    assert challenge.scopes
    assert world.app.seen == []


async def test_both_kinds_of_keys_are_good() -> None:
    for algorithm in ("ES256", "Ed25519"):
        async with new_world() as world:
            world.key = DPoPKey.generate(algorithm)
            assert (await world.send()).status_code == 200


async def test_the_old_name_of_ed25519_is_accepted(world: World) -> None:
    world.key = DPoPKey.generate("Ed25519")
    token = world.token()
    claims = jose.read(world.proof(token), max_length=4096, allow=frozenset({"jwk"})).claims
    header = {"typ": "dpop+jwt", "jwk": world.key.public_jwk}
    proof = jose.sign(header, orjson.dumps(claims), world.key.key, "EdDSA")
    assert (await world.send(token=token, proof=proof)).status_code == 200


CHANGES: dict[str, dict[str, Any]] = {
    "another method": {"method": "GET"},
    "another path": {"url": "{origin}/other"},
    "a longer path": {"url": "{origin}/mcp/"},
    "another case": {"url": "{origin}/MCP"},
    "another host": {"url": "http://localhost/mcp"},
    "another port": {"url": "http://127.0.0.1:1/mcp"},
    "another scheme": {"url": "https{rest}/mcp"},
    "another token": {"access_token": "abc"},
    "no token": {"access_token": None},
    "a minute and more ago": {"now": In(-90)},
    "the future": {"now": In(30)},
    "another key": {"key": DPoPKey.generate()},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
async def test_a_proof_for_something_else_is_refused(world: World, changes: dict[str, Any]) -> None:
    origin = world.resource.removesuffix("/mcp")
    filled = {
        name: value.format(origin=origin, rest=origin.removeprefix("http")) if name == "url" else value
        for name, value in resolved(changes).items()
    }
    token = world.token()
    refused(world, await world.send(token=token, proof=world.proof(token, **filled)))


async def test_the_address_is_compared_as_an_address(world: World) -> None:
    token = world.token()
    shouted = handmade(world, token, htu=world.resource.replace("http:", "HTTP:"))
    assert (await world.send(token=token, proof=shouted)).status_code == 200
    assert (await world.send(token=token, url=f"{world.resource}?x=1")).status_code == 200
    world.app.seen.clear()
    refused(world, await world.send(token=token, proof=handmade(world, token, htu=f"{world.resource}?x=1")))


def handmade(
    world: World,
    token: str,
    *,
    key: Any = None,
    header: dict[str, Any] | None = None,
    alg: str = "ES256",
    **claims: Any,
) -> str:
    good = jose.read(
        create(world.key, method="POST", url=world.resource, access_token=token),
        max_length=4096,
        allow=frozenset({"jwk"}),
    )
    merged = {name: value for name, value in {**good.claims, **claims}.items() if value is not None}
    fields = {"typ": "dpop+jwt", "jwk": world.key.public_jwk, **(header or {})}
    return jose.sign(
        {name: value for name, value in fields.items() if value is not None},
        orjson.dumps(merged),
        key or world.key.key,
        alg,
    )


CLAIMS: dict[str, dict[str, Any]] = {
    "no jti": {"jti": None},
    "a long jti": {"jti": "x" * 300},
    "a jti that is a number": {"jti": 1},
    "no iat": {"iat": None},
    "iat as text": {"iat": "1"},
    "iat as a boolean": {"iat": True},
    "no htm": {"htm": None},
    "htm in lower case": {"htm": "post"},
    "no htu": {"htu": None},
    "htu with a user": {"htu": "http://me@127.0.0.1/mcp"},
    "htu that is no address": {"htu": "mcp"},
    "ath that is a number": {"ath": 1},
}


@pytest.mark.parametrize("claims", CLAIMS.values(), ids=CLAIMS.keys())
async def test_a_proof_without_its_claims_is_refused(world: World, claims: dict[str, Any]) -> None:
    token = world.token()
    refused(world, await world.send(token=token, proof=handmade(world, token, **claims)))


async def test_a_proof_of_another_type_is_refused(world: World) -> None:
    token = world.token()
    for typ in (None, "JWT", "at+jwt"):
        refused(world, await world.send(token=token, proof=handmade(world, token, header={"typ": typ})))


async def test_a_proof_with_a_private_or_symmetric_or_unsuitable_key_is_refused(world: World) -> None:
    token = world.token()
    other, rsa = ECKey.generate_key("P-384"), RSAKey.generate_key(2048)
    for jwk, key, algorithm in (
        (world.key.key.as_dict(private=True), None, "ES256"),
        ({"kty": "oct", "k": "AAAA"}, None, "ES256"),
        ({**world.key.public_jwk, "k": "AAAA"}, None, "ES256"),
        (other.as_dict(private=False), other, "ES384"),
        (rsa.as_dict(private=False), rsa, "RS256"),
        (OKPKey.generate_key("Ed448").as_dict(private=False), None, "ES256"),
        ({**world.key.public_jwk, "x": "!"}, None, "ES256"),
        ({**world.key.public_jwk, "y": world.key.public_jwk["x"]}, None, "ES256"),
        ({**world.key.public_jwk, "x": 1}, None, "ES256"),
        (None, None, "ES256"),
    ):
        proof = _unchecked(world, token, jwk, key, algorithm)
        refused(world, await world.send(token=token, proof=proof))


def _unchecked(world: World, token: str, jwk: Any, key: Any, algorithm: str) -> str:
    """A proof with any ``jwk`` at all: joserfc refuses to write some of these headers."""
    good = handmade(world, token, header={"jwk": None}, key=key, alg=algorithm)
    header = {"typ": "dpop+jwt", "alg": algorithm, **({} if jwk is None else {"jwk": jwk})}
    return ".".join([urlsafe_b64encode(orjson.dumps(header)).decode().rstrip("="), *good.split(".")[1:]])


async def test_an_unsigned_or_changed_proof_is_refused(world: World) -> None:
    token = world.token()
    header, claims, signature = world.proof(token).split(".")
    unsigned = _unchecked(world, token, world.key.public_jwk, None, "ES256").split(".")
    for proof in (
        f"{header}.{claims}.",
        f"{header}.{claims}.{signature[:-4]}AAAA",
        f"{header}.{claims}",
        f"{header}.{claims}.{signature}.x",
        ".".join([*unsigned[:2], signature]),
        "x" * 5000,
        "...",
    ):
        refused(world, await world.send(token=token, proof=proof))


async def test_no_proof_and_two_proofs_are_refused(world: World) -> None:
    token = world.token()
    refused(world, await world.send(token=token, headers={"dpop": None}))
    refused(world, await world.send(token=token, also=[("dpop", world.proof(token))]))


async def test_a_replayed_proof_is_refused(world: World) -> None:
    token = world.token()
    proof = world.proof(token)
    assert (await world.send(token=token, proof=proof)).status_code == 200
    world.app.seen.clear()
    refused(world, await world.send(token=token, proof=proof))


async def test_of_two_uses_at_once_one_gets_through(world: World) -> None:
    token = world.token()
    proof = world.proof(token)
    found: list[int] = []

    async def send() -> None:
        found.append((await world.send(token=token, proof=proof)).status_code)

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(send)
    assert sorted(found) == [200, 401, 401, 401]
    assert len(world.app.seen) == 1


@pytest.fixture
async def databases(tmp_path: Path) -> AsyncGenerator[tuple[SQLiteDatabase, SQLiteDatabase]]:
    first, second = [await SQLiteDatabase.open(str(tmp_path / "retinue.db")) for _ in range(2)]
    yield first, second
    await second.close()
    await first.close()


async def test_a_proof_used_at_one_worker_is_refused_at_another(
    databases: tuple[SQLiteDatabase, SQLiteDatabase],
) -> None:
    first, second = databases
    async with new_world(replays=DatabaseReplayStore(first)) as world:
        sock, base = bind()
        settings = world.twin(DatabaseReplayStore(second), base)
        async with serving((settings, sock)):
            token = world.token()
            proof = world.proof(token)
            host = world.resource.split("/")[2]
            answers = [
                await world.send(token=token, proof=proof, url=url, headers={"host": host})
                for url in (world.resource, f"{base}/mcp")
            ]
    assert [answer.status_code for answer in answers] == [200, 401]
    assert len(world.app.seen) == 1


async def test_a_database_store_remembers_across_a_restart_and_forgets_what_has_expired(tmp_path: Path) -> None:
    path = str(tmp_path / "retinue.db")
    now = time.time()
    database = await SQLiteDatabase.open(path)
    store = DatabaseReplayStore(database)
    assert await store.first_time("a", now + 60)
    assert await store.first_time("old", now - 3600)
    await database.close()
    database = await SQLiteDatabase.open(path)
    store = DatabaseReplayStore(database)
    assert not await store.first_time("a", now + 60)
    assert await store.first_time("b", now + 60)
    assert await database.read(lambda tx: tx.one("SELECT count(*) FROM proofs_seen")) == (2,)
    await database.close()


async def test_a_full_memory_store_lets_nothing_in_until_something_expires() -> None:
    now = 1000.0
    store = MemoryReplayStore(limit=2, clock=lambda: now)
    async with new_world(replays=store) as world:
        assert await store.first_time("a", 1060)
        assert await store.first_time("b", 1090)
        response = await world.send()
        assert (response.status_code, response.headers["retry-after"]) == (503, "5")
        assert world.app.seen == []
        assert not await store.first_time("a", 1060)
        now = 1061.0
        assert (await world.send()).status_code == 200


async def test_a_proof_must_carry_a_nonce_of_this_server() -> None:
    async with new_world(nonces=True) as world:
        token = world.token()
        for nonce in (None, "abc", "A" * 32):
            response = await world.send(token=token, proof=world.proof(token, nonce=nonce))
            refused(world, response, "use_dpop_nonce")
            fresh = response.headers["dpop-nonce"]
        response = await world.send(token=token, proof=world.proof(token, nonce=fresh))
        assert response.status_code == 200
        assert response.headers["dpop-nonce"] == fresh
