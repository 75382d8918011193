"""What was seen before: DPoP proofs and client assertions are good once (RFC 9449 §11.1, RFC 7523 §3)."""

from __future__ import annotations

import heapq
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Protocol

from retinue.database.base import Database, Transaction
from retinue.errors import ExternalError


class ReplayStoreFull(ExternalError):
    """More live proofs than the store may hold. Nothing is let in until some expire."""

    code = "replay_store_full"
    default_hint = "Try again in a minute."


class ReplayStore(Protocol):
    """Remembers keys until they expire. Whatever it raises means: not known, so not accepted."""

    async def first_time(self, key: str, expires_at: float) -> bool:
        """True once per key, atomically, for all who share the store; ``expires_at`` is in seconds since the epoch."""
        ...


class MemoryReplayStore:
    """For one process. Bounded: when full of live keys it raises rather than forget one."""

    def __init__(self, *, limit: int = 100_000, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._clock = clock
        self._seen: set[bytes] = set()
        self._expiries: list[tuple[float, bytes]] = []

    async def first_time(self, key: str, expires_at: float) -> bool:
        digest = sha256(key.encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        while self._expiries and self._expiries[0][0] < now:
            self._seen.discard(heapq.heappop(self._expiries)[1])
        if digest in self._seen:
            return False
        if len(self._seen) >= self._limit:
            raise ReplayStoreFull(f"{self._limit} proofs are remembered and none has expired")
        self._seen.add(digest)
        heapq.heappush(self._expiries, (expires_at, digest))
        return True


class DatabaseReplayStore:
    """For all processes on one database (table ``proofs_seen``); survives a restart. Keeps hashes only.

    Expired rows are removed now and then by the database's own clock, with a margin for clocks that differ.
    """

    MARGIN = 60.0
    PURGE_EVERY = 30.0

    def __init__(self, database: Database) -> None:
        self._database = database
        self._purged_at = float("-inf")

    async def first_time(self, key: str, expires_at: float) -> bool:
        digest = urlsafe_b64encode(sha256(key.encode("utf-8", "surrogatepass")).digest()).decode("ascii").rstrip("=")

        def insert(tx: Transaction) -> bool:
            if tx.now - self._purged_at >= self.PURGE_EVERY:
                tx.execute("DELETE FROM proofs_seen WHERE expires_at < ?", (tx.now - self.MARGIN,))
                self._purged_at = tx.now
            rows = tx.execute(
                "INSERT INTO proofs_seen (id, expires_at) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                (digest, expires_at),
            )
            return rows == 1

        return await self._database.write(insert)
