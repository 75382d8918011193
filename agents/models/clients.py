"""One HTTP client per service, credentials and event loop; each closes with its loop, or when it is told to.

A client costs a TLS context (18 ms) and a pool of connections, so all models of a process that talk to the same service
share one. A client belongs to the event loop that it was opened on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Pool(Generic[C]):
    """What is open now, by event loop and key. ``key`` may hold credentials: it is compared and never shown."""

    def __init__(self) -> None:
        self._open: dict[tuple[asyncio.AbstractEventLoop, Hashable], tuple[C, AsyncGenerator[None]]] = {}

    def get(self, key: Hashable) -> C | None:
        entry = self._open.get((asyncio.get_running_loop(), key))
        return entry[0] if entry is not None else None

    async def add(self, key: Hashable, client: C) -> C:
        place = (asyncio.get_running_loop(), key)
        keeper = self._keep(place, client)
        self._open[place] = (client, keeper)
        await anext(keeper)
        return client

    async def close(self, key: Hashable | None = None) -> None:
        """Close the running loop's client of this key, or all of them. Another call opens a new one."""
        loop = asyncio.get_running_loop()
        for place in [p for p in self._open if p[0] is loop and (key is None or p[1] == key)]:
            await self._open[place][1].aclose()

    async def _keep(self, place: tuple[asyncio.AbstractEventLoop, Hashable], client: C) -> AsyncGenerator[None]:
        """A loop that ends closes the generators begun on it (``shutdown_asyncgens``), and this one the client."""
        try:
            yield
        finally:
            self._open.pop(place, None)
            await client.close()


_pools: list[Pool[Closable]] = []


def pool_of(pool: Pool[C]) -> Pool[C]:
    """Register a pool, so that `close_clients` reaches it."""
    _pools.append(pool)  # pyright: ignore[reportArgumentType]  # only closed through this list, never added to
    return pool


async def close_clients() -> None:
    """Close every shared client of the running event loop. A process calls it once, when its work is done."""
    for pool in _pools:
        await pool.close()
