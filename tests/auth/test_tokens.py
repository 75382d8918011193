"""The verifier's memory: it saves work, holds no refusals, and never outlives a token."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from joserfc.jwk import Key

from retinue.auth.keys import SigningKeys
from retinue.auth.nonces import Nonces
from retinue.auth.principal import Principal
from retinue.auth.refusals import InvalidToken
from retinue.auth.tokens import TokenVerifier, issue, parse_scope
from retinue.errors import Unreachable

pytestmark = pytest.mark.anyio

ISSUER, AUDIENCE = "https://issuer.example", "https://library.example/mcp"


@dataclass
class Counting:
    """A key source that counts, and can be gone."""

    keys: SigningKeys = field(default_factory=SigningKeys.generate)
    asked: int = 0
    gone: bool = False

    async def find(self, kid: str) -> Key | None:
        self.asked += 1
        if self.gone:
            raise Unreachable("gone")
        return await self.keys.find(kid)


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def token(source: Counting, now: float, lifetime: int = 600, jkt: str | None = None) -> str:
    return issue(
        source.keys.current,
        issuer=ISSUER,
        subject="local",
        audience=AUDIENCE,
        client_id="local",
        scopes=["b", "a"],
        lifetime=lifetime,
        jkt=jkt,
        tenant="acme",
        now=now,
    )


async def test_a_token_is_checked_once_a_minute() -> None:
    source, clock = Counting(), Clock()
    verifier = TokenVerifier(ISSUER, AUDIENCE, source, clock=clock)
    sent = token(source, clock.now)
    first = await verifier.verify(sent)
    clock.now += 59
    assert await verifier.verify(sent) is first
    assert source.asked == 1
    clock.now += 2
    assert await verifier.verify(sent) == first
    assert source.asked == 2
    assert first.principal == Principal(issuer=ISSUER, subject="local", tenant="acme", scopes=frozenset({"a", "b"}))


async def test_a_remembered_token_does_not_outlive_itself() -> None:
    source, clock = Counting(), Clock()
    verifier = TokenVerifier(ISSUER, AUDIENCE, source, leeway=0, clock=clock)
    sent = token(source, clock.now, lifetime=30)
    await verifier.verify(sent)
    clock.now += 30
    with pytest.raises(InvalidToken, match="expired"):
        await verifier.verify(sent)


async def test_the_leeway_is_five_seconds_and_no_more() -> None:
    source, clock = Counting(), Clock()
    verifier = TokenVerifier(ISSUER, AUDIENCE, source, clock=clock)
    await verifier.verify(token(source, clock.now + 5))
    await verifier.verify(token(source, clock.now - 604))
    for when in (clock.now + 7, clock.now - 606):
        with pytest.raises(InvalidToken):
            await verifier.verify(token(source, when))


async def test_memory_is_bounded_and_whole_tokens_are_compared() -> None:
    source, clock = Counting(), Clock()
    verifier = TokenVerifier(ISSUER, AUDIENCE, source, cache_size=2, clock=clock)
    sent = [token(source, clock.now) for _ in range(3)]
    for each in sent:
        await verifier.verify(each)
    await verifier.verify(sent[2])
    assert source.asked == 3
    await verifier.verify(sent[0])
    assert source.asked == 4
    with pytest.raises(InvalidToken):
        await verifier.verify(sent[0] + "x")
    with pytest.raises(InvalidToken):
        await verifier.verify("\ud800")


async def test_an_outage_is_neither_remembered_nor_taken_for_a_bad_token() -> None:
    source, clock = Counting(gone=True), Clock()
    verifier = TokenVerifier(ISSUER, AUDIENCE, source, clock=clock)
    sent = token(source, clock.now)
    with pytest.raises(Unreachable):
        await verifier.verify(sent)
    source.gone = False
    assert (await verifier.verify(sent)).client_id == "local"


async def test_a_token_for_somebody_else_fetches_no_keys() -> None:
    source, clock = Counting(), Clock()
    for issuer, audience in ((ISSUER, f"{AUDIENCE}/"), (f"{ISSUER}/", AUDIENCE)):
        with pytest.raises(InvalidToken):
            await TokenVerifier(issuer, audience, source, clock=clock).verify(token(source, clock.now))
    assert source.asked == 0


async def test_a_lifetime_over_the_limit_is_refused_whatever_the_issuer_says() -> None:
    source, clock = Counting(), Clock()
    sent = token(source, clock.now, lifetime=600)
    with pytest.raises(InvalidToken, match="too long"):
        await TokenVerifier(ISSUER, AUDIENCE, source, max_lifetime=599, clock=clock).verify(sent)
    generous = TokenVerifier(ISSUER, AUDIENCE, source, max_lifetime=86_400, clock=clock)
    assert (await generous.verify(sent)).lifetime == 600


def test_scopes_are_a_list_of_tokens() -> None:
    assert parse_scope("") == frozenset()
    assert parse_scope("b a:x") == {"a:x", "b"}
    for bad in (" a", "a ", "a  b", 'a"', "a\\", "a\tb", "ä", "x" * 5000):
        with pytest.raises(ValueError, match="scope"):
            parse_scope(bad)


def test_a_nonce_is_good_for_its_step_and_the_next_and_at_its_own_server() -> None:
    clock = Clock(120.0)
    nonces = Nonces(b"a" * 32, clock=clock)
    made = nonces.issue()
    assert Nonces(b"a" * 32, clock=clock).accepts(made), "replicas share the secret"
    assert not Nonces(b"b" * 32, clock=clock).accepts(made)
    assert not Nonces(clock=clock).accepts(made)
    clock.now = 239.0
    assert nonces.accepts(made)
    clock.now = 240.0
    assert not nonces.accepts(made)
    clock.now = 119.0
    assert not nonces.accepts(made), "it is not good before it was made"
    for text in ("", "x" * 100, "ä", made[:-1]):
        assert not nonces.accepts(text)
    with pytest.raises(ValueError, match="32 bytes"):
        Nonces(b"short")
