"""The one retry policy of a model call. The SDK's own is off: it obeys any ``retry-after``, even for days."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from email.utils import mktime_tz, parsedate_tz
from typing import Any

import anyio

from retinue.errors import ModelRateLimited, RetinueError

from .base import Reply, Usage
from .faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Full jitter: the n-th wait (from 0) is a random part of ``base * 2**n`` seconds, at most ``max_backoff``.

    A wait that the service asks for is obeyed up to ``retry_after_cap`` seconds; a longer one, or one that would pass
    the deadline, is refused at once. ``clock``, ``sleep`` and ``jitter`` (a number from 0 to 1) are there for tests.
    """

    max_retries: int = 4
    retry_after_cap: float = 60.0
    base: float = 0.5
    max_backoff: float = 8.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    jitter: Callable[[], float] = random.random

    async def run(
        self,
        attempt: Callable[[int], Awaitable[Reply]],
        *,
        deadline: float | None = None,
        on_retry: Callable[[], None] | None = None,
    ) -> Reply:
        """The reply of the first attempt that succeeds. Attempts get their number, from 0, and raise `Fault`.

        ``deadline`` is on ``clock``. ``on_retry`` is called before each further attempt. Raises the error of the last
        fault, or `ModelRateLimited` with ``details["retry_after"]`` where the service asked for too long a wait.
        """
        lost = Usage()
        number = 0
        while True:
            try:
                reply = await attempt(number)
            except Fault as fault:
                wait = self.wait(number, fault, deadline=deadline)
                if isinstance(wait, RetinueError):
                    raise wait from fault.__cause__
                lost += fault.usage
            else:
                return replace(reply, usage=lost + reply.usage) if number else reply
            await self.sleep(wait)
            number += 1
            if on_retry is not None:
                on_retry()

    def wait(self, number: int, fault: Fault, *, deadline: float | None = None) -> float | RetinueError:
        """Seconds to wait after attempt ``number`` failed so, or the error to give up with."""
        if not fault.repeatable or number >= self.max_retries:
            return fault.error
        left = math.inf if deadline is None else deadline - self.clock()
        asked = fault.asked
        if asked is not None and (asked > self.retry_after_cap or asked >= left):
            return self._refusal(fault.error, asked, left)
        backoff = self.jitter() * min(self.max_backoff, self.base * 2 ** min(number, 30))
        if asked is not None:  # a little later than asked, so that parallel agents do not come back all at once
            backoff = min(asked + min(backoff, self.base), self.retry_after_cap)
        return fault.error if backoff >= left else backoff

    def _refusal(self, error: RetinueError, asked: float, left: float) -> RetinueError:
        limit = (
            f"more than the {self.retry_after_cap:g} s that are waited for at most"
            if asked > self.retry_after_cap
            else f"more than the {max(left, 0):.1f} s that the run has left"
        )
        details: dict[str, Any] = {**error.details, "retry_after": asked}
        return ModelRateLimited(f"{error.message}; it asks to wait {asked:g} s, {limit}", **details)


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float | None:
    """Seconds that an answer asks to wait: ``retry-after-ms``, or ``retry-after`` in seconds or as a date.

    None where there is no such header, or none that makes sense. Source: RFC 9110, section 10.2.3.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if (seconds := _number(value)) is not None:
        return seconds
    if value is None or (date := parsedate_tz(value)) is None:
        return None
    try:
        left = mktime_tz(date) - now()
    except (OverflowError, ValueError):
        return None
    return left if left > 0 else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
