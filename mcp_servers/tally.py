"""What is told of refusals: all of them, until somebody makes them in bulk.

Whoever can reach the socket can have as many requests refused as he likes, and each would be a row of the audit trail.
Those of nobody in particular are told in bursts of sixty and then one a second; the next that is told says how many
were not.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import isawaitable
from typing import Final, TypeVar

from ..auth.guard import Decision
from ..auth.issuer import TokenEvent
from ..auth.issuer.limits import RateLimit

BURST: Final = 60.0
PER_SECOND: Final = 1.0

OnDecision = Callable[[Decision], Awaitable[None] | None]
OnToken = Callable[[TokenEvent], Awaitable[None] | None]

T = TypeVar("T")


class Tally:
    """Stands before the two functions of an audit trail. What was allowed, and what a known client was refused, is
    always told."""

    def __init__(
        self,
        on_decision: OnDecision | None,
        on_token: OnToken | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_decision, self._on_token = on_decision, on_token
        self._rate = RateLimit(PER_SECOND, BURST, clock=clock)
        self._untold = 0

    async def decision(self, decision: Decision) -> None:
        if decision.allowed or decision.principal is not None:
            await _tell(self._on_decision, decision)
        elif (more := self._may_tell()) is not None:
            await _tell(self._on_decision, replace(decision, reason=decision.reason + more))

    async def token(self, event: TokenEvent) -> None:
        if event.granted or event.client_id is not None:
            await _tell(self._on_token, event)
        elif (more := self._may_tell()) is not None:
            await _tell(self._on_token, replace(event, error=event.error + more))

    def _may_tell(self) -> str | None:
        """What to add to a refusal that is told; None for one that is not."""
        if not self._rate.allows(""):
            self._untold += 1
            return None
        untold, self._untold = self._untold, 0
        return f" (and {untold} refusals before it that were not told)" if untold else ""


async def _tell(told: Callable[[T], Awaitable[None] | None] | None, what: T) -> None:
    if told is not None:
        result = told(what)
        if isawaitable(result):
            await result
