"""DPoP for httpx2, the HTTP library of mcp, anthropic and authlib."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx2

from retinue.errors import UsageError

from .flow import ResourceAuth


class DPoPAuth(ResourceAuth, httpx2.Auth):
    """``auth=`` of an `httpx2.AsyncClient`: each request gets a token and a proof of its own.

    A nonce that the server asks for, an expired token, and a missing scope (see `ResourceAuth`) are each met by sending
    the request again, a bounded number of times; then the answer is returned as it is. Requests run side by side, and
    response bodies are streamed through. When there is no token to be had, `SignInNeeded`, `NotAllowed` or
    `Unreachable` is raised.
    """

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        attempt = self.begin(str(request.url))
        await attempt.sign(request)
        while await attempt.again((yield request)):
            await attempt.sign(request)

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response]:
        raise UsageError("DPoPAuth needs an AsyncClient")
