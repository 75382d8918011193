"""DPoP for httpx, the HTTP library of a2a-sdk and langgraph-sdk. Tokens themselves are fetched through httpx2."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx

from retinue.errors import UsageError

from .flow import ResourceAuth


class HttpxDPoPAuth(ResourceAuth, httpx.Auth):
    """`DPoPAuth` for an `httpx.AsyncClient`."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        attempt = self.begin(str(request.url))
        await attempt.sign(request)
        while await attempt.again((yield request)):
            await attempt.sign(request)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        raise UsageError("HttpxDPoPAuth needs an AsyncClient")
