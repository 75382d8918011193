"""HTTP for discovery and tokens: one client, bounded answers, no redirects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx2

from retinue.errors import Unreachable

from .. import strict_json
from ..urls import origin

MAX_BYTES: Final = 256 * 1024
LOOPBACK: Final = ("all://127.0.0.1", "all://localhost", "all://[::1]")


def new_http_client(**options: Any) -> httpx2.AsyncClient:
    """A client that honours the environment's proxies, but never sends loopback requests to one."""
    return httpx2.AsyncClient(mounts=dict.fromkeys(LOOPBACK), follow_redirects=False, **options)


async def exchange(
    http: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> tuple[int, httpx2.Headers, dict[str, Any]]:
    """Status, headers and JSON object of an answer; the object is empty for anything else. Raises `Unreachable`."""
    request = http.build_request(method, url, headers={"accept": "application/json", **(headers or {})}, data=form)
    try:
        response = await http.send(request, stream=True, auth=None, follow_redirects=False)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise Unreachable(f"{origin(url)} sent an answer that is too large")
        finally:
            await response.aclose()
    except (httpx2.HTTPError, OSError) as error:
        raise Unreachable(
            f"{origin(url)} cannot be reached ({type(error).__name__})", hint="Check that it runs, and the network."
        ) from None
    try:
        return response.status_code, response.headers, strict_json.loads_object(bytes(body))
    except ValueError:
        return response.status_code, response.headers, {}
