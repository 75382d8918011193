"""How often one address may ask for a token: a token bucket for each, and a bound on how many are remembered."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class RateLimit:
    """``per_second`` requests on average and ``burst`` at once, for each key. The longest unseen key is forgotten."""

    def __init__(
        self, per_second: float, burst: float, *, keys: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second, self._burst, self._limit, self._clock = per_second, burst, keys, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, key: str) -> bool:
        now = self._clock()
        level, since = self._buckets.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._per_second)
        allowed = level >= 1
        self._buckets[key] = (level - 1 if allowed else level, now)
        while len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        return allowed
