"""Answers over HTTP, counted as they come: a server may send without end, or a few bytes that unpack to gigabytes.

httpx2.AsyncClient(headers=PLAIN, event_hooks={"response": [bounded]})
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import httpx2

MAX_ANSWER: Final = 64 * 1024 * 1024
"""Bytes of one answer. A stream of events may be longer: the MCP transport bounds each event."""

PLAIN: Final = {"accept-encoding": "identity"}


async def bounded(response: httpx2.Response) -> None:
    """An event hook. Reading on past the limit, or an encoded answer, raises `httpx2.StreamError`, which the transport
    turns into the failure of the one request."""
    stream = response.stream
    if not isinstance(stream, httpx2.AsyncByteStream):
        raise httpx2.StreamError("the answer is not read asynchronously")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        response.stream = _Counted(stream, 0, "the answer is encoded, which was not asked for")
    elif not response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        response.stream = _Counted(stream, MAX_ANSWER, f"the answer has more than {MAX_ANSWER} bytes")


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, limit: int, problem: str) -> None:
        self._inner, self._left, self._problem = inner, limit, problem

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx2.StreamError(self._problem)
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
