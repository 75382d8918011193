"""Refusals are told, and strangers cannot fill the audit trail with them."""

from __future__ import annotations

import pytest

from retinue.auth.guard import Decision
from retinue.auth.issuer import TokenEvent
from retinue.auth.principal import Principal
from retinue.mcp_servers.tally import BURST, Tally

pytestmark = pytest.mark.anyio

SOMEBODY = Principal(issuer="i", subject="s")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(principal: Principal | None = None) -> Decision:
    return Decision(allowed=False, status=401, reason="no token was sent", resource="r", principal=principal)


async def test_a_flood_of_strangers_is_told_in_part_and_then_counted() -> None:
    told: list[Decision] = []
    clock = Clock()
    tally = Tally(told.append, None, clock=clock)
    for _ in range(1000):
        await tally.decision(refusal())
    assert len(told) == BURST
    clock.now = 1.0
    await tally.decision(refusal())
    assert told[-1].reason == "no token was sent (and 940 refusals before it that were not told)"
    clock.now = 2.0
    await tally.decision(refusal())
    assert told[-1].reason == "no token was sent"


async def test_what_was_allowed_and_what_a_known_party_was_refused_is_always_told() -> None:
    decisions: list[Decision] = []
    tokens: list[TokenEvent] = []
    tally = Tally(decisions.append, tokens.append, clock=Clock())
    for _ in range(200):
        await tally.decision(Decision(allowed=True, status=200, reason="", resource="r"))
        await tally.decision(refusal(SOMEBODY))
        await tally.token(TokenEvent(True, "", "c", "r"))
        await tally.token(TokenEvent(False, "invalid_scope", "c", "r"))
    assert (len(decisions), len(tokens)) == (400, 400)


async def test_requests_for_tokens_count_with_the_others_and_functions_that_wait_are_waited_for() -> None:
    told: list[str] = []

    async def tell(event: TokenEvent) -> None:
        told.append(event.error)

    clock = Clock()
    tally = Tally(None, tell, clock=clock)
    for _ in range(100):
        await tally.decision(refusal())
        await tally.token(TokenEvent(False, "invalid_client", None, None))
    assert told == ["invalid_client"] * 30
    clock.now = 10.0
    await tally.token(TokenEvent(False, "invalid_client", None, None))
    assert told[-1] == "invalid_client (and 140 refusals before it that were not told)"


async def test_an_audit_that_fails_is_passed_on() -> None:
    def fail(decision: Decision) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await Tally(fail, None).decision(refusal())
