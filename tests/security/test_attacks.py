"""Requests with a token or a proof that is not as it should be, on the knowledge server as it is really served.

Each gets the status and the challenge that the standards ask for, and none reaches a tool. What is as it should be
does, so the record is of a server that works.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from tests.security.attacker import Attacker, b64, mac, sign, unsigned

pytestmark = pytest.mark.anyio

Forge = Callable[[Attacker], str]
Prove = Callable[[Attacker, str], str]
Claim = Callable[[Attacker], Any]


async def test_a_good_request_of_the_newest_protocol_reaches_the_tool(attacker: Attacker) -> None:
    answer = await attacker.send()
    assert answer.status_code == 200, answer.text
    assert "kept from happening twice" in answer.text
    assert attacker.reached == ["call_tool search"]


async def test_a_good_request_of_the_handshake_era_reaches_the_tool(attacker: Attacker) -> None:
    session = await attacker.session()
    answer = await attacker.send(body=attacker.message(_meta=None), headers=attacker.legacy(session))
    assert answer.status_code == 200, answer.text
    assert "kept from happening twice" in answer.text
    assert attacker.reached == ["call_tool search"]


@pytest.mark.parametrize("algorithm", ["Ed25519", "EdDSA"])
async def test_a_proof_by_the_other_kind_of_key_is_as_good(attacker: Attacker, algorithm: str) -> None:
    key = OKPKey.generate_key("Ed25519")
    token = attacker.token(cnf={"jkt": key.thumbprint()})
    payload = json.dumps(attacker.proof_claims(token)).encode()
    proof = sign({"typ": "dpop+jwt", "jwk": dict(key.as_dict(private=False))}, payload, key, algorithm)
    assert (await attacker.send(token=token, proof=proof)).status_code == 200


# The token


async def test_without_a_token_the_challenge_names_no_error(attacker: Attacker) -> None:
    attacker.refused(await attacker.send(token=None, proof=None), 401)
    attacker.refused(await attacker.send(token=None), 401)


async def test_a_token_for_another_server_of_the_same_issuer_is_refused(attacker: Attacker) -> None:
    attacker.refused(await attacker.send(token=attacker.token(aud=attacker.other)), 401, "invalid_token")


AUDIENCES: list[Claim] = [
    lambda a: [a.url, a.other],
    lambda a: [a.other, a.url],
    lambda a: [],
    lambda a: [a.url, a.url],
    lambda a: f"{a.url}/",
    lambda a: a.url.upper(),
    lambda a: a.origin,
    lambda a: a.url.replace("127.0.0.1", "localhost"),
    lambda a: {"aud": a.url},
    lambda a: None,
    lambda a: "",
    lambda a: True,
]


@pytest.mark.parametrize("audience", AUDIENCES)
async def test_the_audience_is_this_server_alone_to_the_letter(attacker: Attacker, audience: Claim) -> None:
    token = attacker.token(aud=audience(attacker))
    attacker.refused(await attacker.send(token=token), 401, "invalid_token")


ISSUERS: list[Claim] = [
    lambda a: "https://evil.example",
    lambda a: f"{a.issuer}/",
    lambda a: a.issuer.upper(),
    lambda a: [a.issuer],
    lambda a: None,
    lambda a: a.origin,
]


@pytest.mark.parametrize("issuer", ISSUERS)
async def test_the_issuer_is_the_servers_own_to_the_letter(attacker: Attacker, issuer: Claim) -> None:
    attacker.refused(await attacker.send(token=attacker.token(iss=issuer(attacker))), 401, "invalid_token")


TIMES: list[Callable[[int], dict[str, Any]]] = [
    lambda now: {"exp": now - 6},
    lambda now: {"exp": now - 31_536_000, "iat": now - 31_536_600},
    lambda now: {"exp": now + 901},
    lambda now: {"exp": now + 315_360_000},
    lambda now: {"exp": None},
    lambda now: {"iat": None},
    lambda now: {"nbf": now + 60},
    lambda now: {"iat": now + 60},
    lambda now: {"exp": str(now + 600)},
    lambda now: {"exp": True},
    lambda now: {"exp": [now + 600]},
    lambda now: {"exp": 10**400},
    lambda now: {"iat": -(10**12)},
]


@pytest.mark.parametrize("times", TIMES)
async def test_a_token_outside_its_time_is_refused(attacker: Attacker, times: Callable[[int], dict[str, Any]]) -> None:
    token = attacker.token(**times(int(time.time())))
    attacker.refused(await attacker.send(token=token), 401, "invalid_token")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-Infinity"])
async def test_a_time_that_is_no_number_is_refused(attacker: Attacker, number: str) -> None:
    payload = json.dumps(attacker.claims(exp=424242)).replace("424242", number).encode()
    token = sign(attacker.header(), payload, attacker.signing)
    attacker.refused(await attacker.send(token=token), 401, "invalid_token")


def payload_of(attacker: Attacker) -> bytes:
    return json.dumps(attacker.claims()).encode()


def flipped(attacker: Attacker) -> str:
    head, payload, signature = attacker.token().split(".")
    return f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def swapped(attacker: Attacker) -> str:
    """The signature of one token under the claims of another."""
    head, _, signature = attacker.token().split(".")
    return f"{head}.{attacker.token(scope='knowledge:read admin').split('.')[1]}.{signature}"


def by_rsa(attacker: Attacker) -> str:
    return sign(attacker.header(), payload_of(attacker), RSAKey.generate_key(2048), "RS256")


def zero_signature(attacker: Attacker) -> str:
    head, payload, _ = attacker.token().split(".")
    return f"{head}.{payload}.{b64(bytes(64))}"


def public_pem(attacker: Attacker) -> bytes:
    return attacker.signing.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def published(attacker: Attacker) -> bytes:
    return json.dumps(attacker.signing.as_dict(private=False)).encode()


FORGED: dict[str, Forge] = {
    "a flipped bit in the signature": flipped,
    "the signature of another token": swapped,
    "a signature of zeros": zero_signature,
    "a key of his own under the issuer's id": lambda a: a.token(key=a.key),
    "a key of his own under its own id": lambda a: a.token(key=a.key, header={"kid": a.key.thumbprint()}),
    "no key id": lambda a: a.token(header={"kid": None}),
    "a key id that is no string": lambda a: a.token(header={"kid": 1}),
    "a key id that is a path": lambda a: a.token(header={"kid": "../../../../dev/null"}),
    "an RSA key": by_rsa,
    "alg none": lambda a: unsigned({"alg": "none", **a.header()}, payload_of(a)),
    "alg none and a signature": lambda a: unsigned({"alg": "none", **a.header()}, payload_of(a), b"x"),
    "alg None": lambda a: unsigned({"alg": "None", **a.header()}, payload_of(a), b"x"),
    "alg nOnE": lambda a: unsigned({"alg": "nOnE", **a.header()}, payload_of(a), b"x"),
    "no alg": lambda a: unsigned(a.header(), payload_of(a), b"x"),
    "alg as a list": lambda a: unsigned({"alg": ["ES256"], **a.header()}, payload_of(a), b"x"),
    "HS256 with the public key in PEM": lambda a: mac(a.header(), payload_of(a), public_pem(a)),
    "HS256 with the public key in PEM, stripped": lambda a: mac(a.header(), payload_of(a), public_pem(a).strip()),
    "HS256 with the published key": lambda a: mac(a.header(), payload_of(a), published(a)),
    "HS256 with nothing": lambda a: mac(a.header(), payload_of(a), b""),
    "its own key in the header": lambda a: a.token(key=a.key, header={"jwk": a.jwk}),
    "an address of keys in the header": lambda a: a.token(key=a.key, header={"jku": f"{a.origin}/keys"}),
    "an address of a certificate": lambda a: a.token(key=a.key, header={"x5u": f"{a.origin}/cert"}),
    "a certificate in the header": lambda a: a.token(header={"x5c": ["AAAA"]}),
    "a critical extension": lambda a: a.token(header={"crit": ["exp"]}),
    "an unencoded payload": lambda a: a.token(header={"b64": False}),
    "a compressed payload": lambda a: a.token(header={"zip": "DEF"}),
    "no typ": lambda a: a.token(header={"typ": None}),
    "the typ of an ID token": lambda a: a.token(header={"typ": "JWT"}),
    "the typ of a proof": lambda a: a.token(header={"typ": "dpop+jwt"}),
    "the typ of an ID-JAG": lambda a: a.token(header={"typ": "oauth-id-jag+jwt"}),
    "a proof in place of the token": lambda a: a.proof("x"),
    "no subject": lambda a: a.token(sub=None),
    "a subject with a line break": lambda a: a.token(sub="some\nbody"),
    "no client": lambda a: a.token(client_id=None),
    "no id": lambda a: a.token(jti=None),
    "scopes as a list": lambda a: a.token(scope=["knowledge:read"]),
    "a tenant that is no string": lambda a: a.token(tenant={"a": 1}),
    "a tenant with a line break": lambda a: a.token(tenant="a\nb"),
    "a chain of actors without end": lambda a: a.token(act=actors(9)),
    "actors that are none": lambda a: a.token(act="me"),
    "not bound to any key": lambda a: a.token(cnf=None),
    "bound to a certificate": lambda a: a.token(cnf={"x5t#S256": "A" * 43}),
    "bound to a key and a certificate": lambda a: a.token(cnf={"jkt": a.key.thumbprint(), "x5t#S256": "A" * 43}),
    "bound to an empty thumbprint": lambda a: a.token(cnf={"jkt": ""}),
    "bound to the key itself": lambda a: a.token(cnf={"jwk": a.jwk}),
    "the audience twice": lambda a: twice(a, "aud", a.other),
    "the audience twice, the good one last": lambda a: twice(a, "aud", a.url, last=True),
    "the scope twice": lambda a: twice(a, "scope", "admin"),
    "claims in UTF-16": lambda a: sign(a.header(), json.dumps(a.claims()).encode("utf-16"), a.signing),
    "claims after a byte order mark": lambda a: sign(a.header(), b"\xef\xbb\xbf" + payload_of(a), a.signing),
    "claims in a list": lambda a: sign(a.header(), json.dumps([a.claims()]).encode(), a.signing),
    "claims nested deeply": lambda a: a.token(deep=deep(100)),
    "claims without end": lambda a: a.token(much="x" * 9000),
    "two parts": lambda a: a.token().rpartition(".")[0],
    "four parts": lambda a: a.token() + ".AAAA",
    "five parts, as if encrypted": lambda a: ".".join([*a.token().split("."), "AAAA", "AAAA"]),
    "no parts": lambda a: "opaque",
    "a part in standard base64": lambda a: standard(a),
}


def actors(depth: int) -> dict[str, Any]:
    chain: dict[str, Any] = {"sub": "agent"}
    for _ in range(depth):
        chain = {"sub": "agent", "act": chain}
    return chain


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def twice(attacker: Attacker, name: str, value: str, *, last: bool = False) -> str:
    """Claims that name something twice: one reader takes the first, another the last."""
    text = json.dumps(attacker.claims())
    again = json.dumps({name: value})[1:-1]
    return sign(
        attacker.header(), (f"{text[:-1]}, {again}}}" if last else f"{{{again}, {text[1:]}").encode(), attacker.signing
    )


def standard(attacker: Attacker) -> str:
    """The same bytes in the other alphabet: what has two spellings has two hashes."""
    head, payload, signature = attacker.token(much="???>>>~~~").split(".")
    padded = base64.b64encode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))).decode().rstrip("=")
    return f"{head}.{padded}=.{signature}"


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_a_token_that_is_not_the_issuers_own_is_refused(attacker: Attacker, forge: Forge) -> None:
    response = await attacker.send(token=forge(attacker))
    attacker.refused(
        response, response.status_code, "invalid_token" if response.status_code == 401 else "invalid_request"
    )
    assert response.status_code in (400, 401)


async def test_no_key_is_fetched_from_where_a_token_says(attacker: Attacker) -> None:
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        place = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
        for name in ("jku", "x5u"):
            token = attacker.token(key=attacker.key, header={name: place, "kid": attacker.key.thumbprint()})
            attacker.refused(await attacker.send(token=token), 401, "invalid_token")
        attacker.refused(await attacker.send(token=attacker.token(key=attacker.key, iss=place)), 401, "invalid_token")
    assert asked == []


async def test_a_bound_token_is_no_bearer_token(attacker: Attacker) -> None:
    token = attacker.token()
    assert (await attacker.send(token=token)).status_code == 200
    attacker.reached.clear()
    for proof in (None, attacker.proof(token)):
        attacker.refused(await attacker.send(token=token, proof=proof, scheme="Bearer"), 401, "invalid_token")


async def test_an_unbound_token_is_no_bearer_token_either(attacker: Attacker) -> None:
    token = attacker.token(cnf=None, exp=int(time.time()) + 200)
    attacker.refused(await attacker.send(token=token, proof=None, scheme="Bearer"), 401, "invalid_token")


# The proof


async def test_a_proof_is_good_once(attacker: Attacker) -> None:
    token = attacker.token()
    proof = attacker.proof(token)
    assert (await attacker.send(token=token, proof=proof)).status_code == 200
    attacker.reached.clear()
    attacker.refused(await attacker.send(token=token, proof=proof), 401, "invalid_dpop_proof")
    again = attacker.token()  # the same proof id for another token, another time
    reused = json.loads(base64.urlsafe_b64decode(proof.split(".")[1] + "=="))["jti"]
    attacker.refused(
        await attacker.send(token=again, proof=attacker.proof(again, jti=reused)), 401, "invalid_dpop_proof"
    )


async def test_of_a_hundred_who_send_one_proof_at_once_one_gets_in(attacker: Attacker) -> None:
    token = attacker.token()
    proof = attacker.proof(token)
    answers = await asyncio.gather(*(attacker.send(token=token, proof=proof) for _ in range(100)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 99
    assert attacker.reached == ["call_tool search"]


NOW = time.time


def no_key(attacker: Attacker, token: str) -> str:
    return sign({"typ": "dpop+jwt"}, json.dumps(attacker.proof_claims(token)).encode(), attacker.key)


def doubled(attacker: Attacker, token: str) -> str:
    text = json.dumps(attacker.proof_claims(token))
    payload = f'{{"htm": "GET", {text[1:]}'.encode()
    return sign({"typ": "dpop+jwt", "jwk": attacker.jwk}, payload, attacker.key)


def private(attacker: Attacker, token: str) -> str:
    return attacker.proof(token, header={"jwk": dict(attacker.key.as_dict(private=True))})


def symmetric(attacker: Attacker, token: str) -> str:
    secret = OctKey.generate_key(256)
    head = {"typ": "dpop+jwt", "jwk": dict(secret.as_dict())}
    return mac(head, json.dumps(attacker.proof_claims(token)).encode(), secret.raw_value)


def rsa(attacker: Attacker, token: str) -> str:
    key = RSAKey.generate_key(2048)
    head = {"typ": "dpop+jwt", "jwk": dict(key.as_dict(private=False))}
    return sign(head, json.dumps(attacker.proof_claims(token)).encode(), key, "RS256")


def off_the_curve(attacker: Attacker, token: str) -> str:
    return attacker.proof(token, header={"jwk": {**attacker.jwk, "x": b64(bytes(32)), "y": b64(bytes(32))}})


def other_key(attacker: Attacker, token: str) -> str:
    return attacker.proof(token, key=ECKey.generate_key("P-256"))


def borrowed_key(attacker: Attacker, token: str) -> str:
    """The key that the token is bound to is shown, another one signs."""
    return attacker.proof(token, key=ECKey.generate_key("P-256"), header={"jwk": attacker.jwk})


def unsigned_proof(attacker: Attacker, token: str) -> str:
    head = {"typ": "dpop+jwt", "alg": "none", "jwk": attacker.jwk}
    return unsigned(head, json.dumps(attacker.proof_claims(token)).encode(), b"x")


PROOFS: dict[str, Prove] = {
    "another method": lambda a, t: a.proof(t, htm="GET"),
    "the method in lower case": lambda a, t: a.proof(t, htm="post"),
    "no method": lambda a, t: a.proof(t, htm=None),
    "another path": lambda a, t: a.proof(t, htu=f"{a.url}/other"),
    "the other server's path": lambda a, t: a.proof(t, htu=a.other),
    "a slash at the end": lambda a, t: a.proof(t, htu=f"{a.url}/"),
    "the path in another case": lambda a, t: a.proof(t, htu=a.url.upper()),
    "an encoded path": lambda a, t: a.proof(t, htu=a.url[:-1] + "%70"),
    "another host": lambda a, t: a.proof(t, htu=a.url.replace("127.0.0.1", "127.0.0.2")),
    "another name of the host": lambda a, t: a.proof(t, htu=a.url.replace("127.0.0.1", "localhost")),
    "another port": lambda a, t: a.proof(t, htu=a.url.replace(a.host, "127.0.0.1:1")),
    "another scheme": lambda a, t: a.proof(t, htu=a.url.replace("http", "https")),
    "a query": lambda a, t: a.proof(t, htu=f"{a.url}?a=b"),
    "a fragment": lambda a, t: a.proof(t, htu=f"{a.url}#a"),
    "user information": lambda a, t: a.proof(t, htu=a.url.replace("://", "://me@")),
    "an address that is none": lambda a, t: a.proof(t, htu=["x"]),
    "no address": lambda a, t: a.proof(t, htu=None),
    "the hash of another token": lambda a, t: a.proof(a.token()),
    "no hash": lambda a, t: a.proof(t, ath=None),
    "an empty hash": lambda a, t: a.proof(t, ath=""),
    "another key": other_key,
    "another key behind the right one": borrowed_key,
    "a private key": private,
    "a symmetric key": symmetric,
    "an RSA key": rsa,
    "a point off the curve": off_the_curve,
    "no key": no_key,
    "a key id in place of the key": lambda a, t: a.proof(t, header={"jwk": None, "kid": a.key.thumbprint()}),
    "alg none": unsigned_proof,
    "the typ of a token": lambda a, t: a.proof(t, header={"typ": "at+jwt"}),
    "no typ": lambda a, t: a.proof(t, header={"typ": None}),
    "made too long ago": lambda a, t: a.proof(t, iat=int(NOW()) - 70),
    "made in the future": lambda a, t: a.proof(t, iat=int(NOW()) + 15),
    "made at no time": lambda a, t: a.proof(t, iat=None),
    "made at a time that is text": lambda a, t: a.proof(t, iat=str(int(NOW()))),
    "no id": lambda a, t: a.proof(t, jti=None),
    "an id without end": lambda a, t: a.proof(t, jti="x" * 300),
    "the method twice": doubled,
    "a proof without end": lambda a, t: a.proof(t, much="x" * 3000),
    "no proof at all": lambda a, t: "proof",
    "the token in its place": lambda a, t: t,
    "an address of keys": lambda a, t: a.proof(t, header={"jku": a.origin}),
    "a critical extension": lambda a, t: a.proof(t, header={"crit": ["nonce"]}),
}


@pytest.mark.parametrize("prove", PROOFS.values(), ids=PROOFS)
async def test_a_proof_of_anything_else_is_refused(attacker: Attacker, prove: Prove) -> None:
    token = attacker.token()
    attacker.refused(await attacker.send(token=token, proof=prove(attacker, token)), 401, "invalid_dpop_proof")


async def test_no_proof_and_two_proofs_are_refused(attacker: Attacker) -> None:
    token = attacker.token()
    attacker.refused(await attacker.send(token=token, proof=None), 401, "invalid_dpop_proof")
    second = [("dpop", attacker.proof(token))]
    attacker.refused(await attacker.send(token=token, also=second), 401, "invalid_dpop_proof")
    joined = f"{attacker.proof(token)}, {attacker.proof(token)}"
    attacker.refused(await attacker.send(token=token, proof=joined), 401, "invalid_dpop_proof")


@pytest.mark.parametrize("nonce", [None, "", "x", "A" * 32, "é", 5, "A" * 5000])
async def test_a_proof_needs_a_nonce_of_the_servers_and_is_told_one(attacker: Attacker, nonce: Any) -> None:
    token = attacker.token()
    proof = attacker.proof(token, nonce=nonce)
    if len(proof) > 2048:
        attacker.refused(await attacker.send(token=token, proof=proof), 401, "invalid_dpop_proof")
        return
    refused = await attacker.send(token=token, proof=proof)
    attacker.refused(refused, 401, "use_dpop_nonce")
    told = attacker.proof(token, nonce=refused.headers["dpop-nonce"])
    assert (await attacker.send(token=token, proof=told)).status_code == 200


async def test_a_refusal_repeats_nothing_of_what_was_sent(attacker: Attacker) -> None:
    token, proof = attacker.token(aud=attacker.other), attacker.proof("x")
    for response in (
        await attacker.send(token=token),
        await attacker.send(proof=proof),
        await attacker.send(token="canary-token!", proof="canary-proof"),
        await attacker.send(body=b'{"canary-body": 1, "canary-body": 2}'),
        await attacker.send(headers={"mcp-name": "canary-name"}),
        await attacker.send(headers={"host": "canary-host"}),
    ):
        assert response.status_code >= 400
        said = response.text + str(response.headers)
        for part in ("canary", *token.split("."), *proof.split(".")):
            assert part not in said
