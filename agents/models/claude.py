"""Claude, or any server that speaks the Messages API.

The SDK knows how to reach the service: credentials (keys, profiles, workload identity), headers, API version and the
HTTP client. It does not read the answers: its pydantic models would be taken apart again into the plain JSON that is
journaled, and cost more than the transport. Bytes go from its HTTP client straight into a `Reply`.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Callable, Hashable
from contextlib import aclosing, suppress
from functools import lru_cache
from os import environ
from typing import Any, cast

import anthropic
import httpx2
import orjson

from retinue.config import mask_url
from retinue.errors import ModelError, SignInNeeded, Timeout

from . import prices
from .base import Price, Reply, Request
from .breaks import BROKEN, break_of
from .clients import Pool, pool_of
from .faults import STATUS_OF, Fault, clean, fault_of
from .replies import Assembler, ErrorEvent, reply_from
from .retry import RetryPolicy, retry_after
from .schema import enforceable
from .sse import EventReader
from .wire import LONG, Effort, Profile, body_of

DEFAULT_MODEL = "claude-sonnet-5-5"
CONNECT_TIMEOUT = 10.0
KEEP_ALIVE = 60.0
"""Seconds that an idle connection is kept: tools run for longer than the SDK's 5."""
MAX_ERROR = 64 * 1024
"""Bytes of an error that are read."""
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that was to be streamed and is not."""


class _Line:
    """The way to one service: its URL, the headers of every request, and the client that sends them."""

    def __init__(self, sdk: anthropic.AsyncAnthropic, client: httpx2.AsyncClient, *, anonymous: bool) -> None:
        self._sdk = sdk
        self._client = client
        self._url = sdk.base_url.copy_with(raw_path=sdk.base_url.raw_path + b"v1/messages")
        headers = {name: value for name, value in sdk.default_headers.items() if isinstance(value, str)}
        if anonymous:
            headers.pop("Authorization", None)
            if self._url.username or self._url.password:
                headers["Authorization"] = _basic(self._url)
        # Left in the URL, they would be sent beside the key, which the transport refuses.
        self._url = self._url.copy_with(username=None, password=None)
        self._headers = httpx2.Headers(headers)
        self._auth = sdk.custom_auth

    async def send(self, body: bytes, *, stream: bool, timeout: httpx2.Timeout) -> httpx2.Response:
        request = self._client.build_request("POST", self._url, headers=self._headers, content=body, timeout=timeout)
        # A redirect would hand prompt and key to a host that nobody configured.
        return await self._client.send(request, stream=stream, auth=self._auth, follow_redirects=False)

    @property
    def host(self) -> str:
        url = self._sdk.base_url
        return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")

    async def close(self) -> None:
        await self._sdk.close()


_lines: Pool[_Line] = pool_of(Pool())


class ClaudeModel:
    """Calls ``name`` at ``base_url``.

    Credentials: ``api_key`` or ``auth_token``; with neither, none are sent to a given ``base_url``, and without one the
    SDK looks for them (environment, profile, workload identity). ``price`` defaults to the dated table in
    `retinue.agents.models.prices`. ``timeout`` is seconds without a byte of the answer. ``http_client`` replaces the
    shared client (the caller closes it). Proxies (``HTTPS_PROXY``, ``NO_PROXY``) and certificates (``SSL_CERT_FILE``,
    ``SSL_CERT_DIR``) come from the environment of the first call. A user and password in ``base_url`` are sent where
    there is no key.
    """

    language_model = True

    def __init__(
        self,
        name: str = DEFAULT_MODEL,
        *,
        api_key: str | None = None,
        auth_token: str | None = None,
        base_url: str | None = None,
        price: Price | None = None,
        profile: Profile | None = None,
        effort: Effort | None = None,
        max_retries: int = 4,
        retry_after_cap: float = 60.0,
        retry: RetryPolicy | None = None,
        timeout: float = 600.0,
        http_client: httpx2.AsyncClient | None = None,
    ) -> None:
        self._name = name
        self._key = api_key or None
        self._token = None if self._key else auth_token or None
        self._base_url = base_url or None
        self._price = price if price is not None else prices.price_of(name)
        self._profile = profile or Profile()
        self._effort: Effort | None = effort
        self._retry = retry or RetryPolicy(max_retries=max_retries, retry_after_cap=retry_after_cap)
        self._timeout = httpx2.Timeout(timeout, connect=min(CONNECT_TIMEOUT, timeout))
        self._own = http_client
        self._own_line: _Line | None = None

    def __repr__(self) -> str:
        base_url = None if self._base_url is None else mask_url(self._base_url)
        return f"ClaudeModel({self._name!r}, base_url={base_url!r})"

    @property
    def name(self) -> str:
        return self._name

    @property
    def price(self) -> Price | None:
        return self._price

    async def complete(
        self,
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> Reply:
        """Make the call, as `retinue.agents.models.base.Model.complete` says.

        Streamed where ``on_text`` listens or the answer may be long, else one plain request, which costs less.
        """
        stream = on_text is not None or request.max_tokens > LONG
        body = orjson.dumps(
            body_of(
                request,
                model=self._name,
                schema=self._schema(request),
                stream=stream,
                profile=self._profile,
                effort=self._effort,
            )
        )
        line = await self._line()
        shown = False

        def show(text: str) -> None:
            nonlocal shown
            shown = True
            if on_text is not None:
                on_text(text)

        def restart() -> None:
            nonlocal shown
            if shown and on_restart is not None:
                on_restart()
            shown = False

        async def attempt(_number: int) -> Reply:
            return await (self._streamed(line, body, show) if stream else self._plain(line, body))

        if deadline is None:
            return await self._retry.run(attempt, on_retry=restart)
        left = deadline - self._retry.clock()
        try:
            async with asyncio.timeout(left):
                if left <= 0:
                    raise TimeoutError
                return await self._retry.run(attempt, deadline=deadline, on_retry=restart)
        except TimeoutError:
            raise Timeout(f"{self._name} did not answer before the time of the run was over") from None

    async def close(self) -> None:
        """Close the shared client of this service and these credentials. A later call opens a new one."""
        await _lines.close(self._place())

    async def _plain(self, line: _Line, body: bytes) -> Reply:
        response = await self._sent(line, body, stream=False)
        if response.status_code != 200:
            raise self._refused(response, response.content)
        return reply_from(response.content)

    async def _streamed(self, line: _Line, body: bytes, show: Callable[[str], None]) -> Reply:
        response = await self._sent(line, body, stream=True)
        try:
            if response.status_code != 200:
                raise self._refused(response, await self._beginning(line, response))
            if "json" in response.headers.get("content-type", ""):  # a server that does not stream
                return _shown(reply_from(await self._beginning(line, response, MAX_ANSWER)), show)
            return await self._assembled(line, response, show)
        finally:
            await response.aclose()

    async def _sent(self, line: _Line, body: bytes, *, stream: bool) -> httpx2.Response:
        try:
            return await line.send(body, stream=stream, timeout=self._timeout)
        except BROKEN as error:
            raise break_of(error, host=line.host, streaming=stream) from error
        except anthropic.AnthropicError as error:
            raise _unusable(error) from error

    async def _beginning(self, line: _Line, response: httpx2.Response, limit: int = MAX_ERROR) -> bytes:
        body = b""
        try:
            async with aclosing(response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        break
        except BROKEN as error:
            raise break_of(error, host=line.host, streaming=True) from error
        return body[:limit]

    async def _assembled(self, line: _Line, response: httpx2.Response, show: Callable[[str], None]) -> Reply:
        reader, assembler = EventReader(), Assembler()
        broken: BaseException | None = None
        async with aclosing(response.aiter_bytes()) as chunks:
            while True:
                try:
                    chunk = await anext(chunks, None)
                except BROKEN as error:
                    broken = error
                    break
                if chunk is None:
                    break
                for data in reader.feed(chunk):
                    if text := self._taken(response, assembler, data):
                        show(text)
        if not assembler.finished and (rest := reader.end()) is not None:
            with suppress(ModelError, ErrorEvent):  # the stream may have been cut inside of this event
                assembler.feed(rest)
        if assembler.finished:
            return assembler.reply()
        fault = break_of(broken, host=line.host, streaming=True)
        fault.usage = assembler.usage
        raise fault from broken

    def _taken(self, response: httpx2.Response, assembler: Assembler, data: bytes) -> str:
        try:
            return assembler.feed(data)
        except ErrorEvent as event:
            raise self._failed(response, event.error, assembler) from None

    def _schema(self, request: Request) -> dict[str, Any] | None:
        if request.output is None or not self._profile.structured:
            return None
        return _wire_schema(orjson.dumps(request.output))

    async def _line(self) -> _Line:
        if self._own is not None:
            if self._own_line is None:
                self._own_line = self._open(self._own)
            return self._own_line
        place = self._place()
        line = _lines.get(place)
        if line is None:
            line = await _lines.add(place, self._open(_http_client()))
        return line

    def _place(self) -> Hashable:
        return (self._base_url, self._key, self._token)

    def _open(self, client: httpx2.AsyncClient) -> _Line:
        anonymous = self._base_url is not None and self._key is None and self._token is None
        try:
            sdk = anthropic.AsyncAnthropic(
                # An empty key is a key to the SDK: it keeps it from looking for one that is not meant for this server.
                api_key="" if anonymous else self._key,
                auth_token=self._token,
                base_url=self._base_url,
                max_retries=0,
                http_client=client,
                open_telemetry=False,  # the span of a call is the loop's, which knows agent and run
            )
        except anthropic.AnthropicError as error:
            raise _unusable(error) from error
        return _Line(sdk, client, anonymous=anonymous)

    def _secrets(self, response: httpx2.Response) -> tuple[str, ...]:
        """What was sent to be let in, whoever found it: a service may quote it when it says no."""
        sent = [response.request.headers.get(name, "") for name in ("x-api-key", "authorization")]
        given = [self._key, self._token, httpx2.URL(self._base_url or "").password]
        return tuple(filter(None, [*given, *sent, *(value.partition(" ")[2] for value in sent)]))

    def _refused(self, response: httpx2.Response, body: bytes) -> Fault:
        headers = response.headers
        if 300 <= response.status_code < 400:
            return Fault(
                ModelError(
                    f"the model service answered {response.status_code}, a redirect, which is not followed",
                    hint="Set the base URL to where the service is now.",
                    status=response.status_code,
                )
            )
        return fault_of(
            response.status_code,
            body,
            headers=headers,
            model=self._name,
            asked=retry_after(headers),
            secrets=self._secrets(response),
        )

    def _failed(self, response: httpx2.Response, error: Any, assembler: Assembler) -> Fault:
        """An error inside a stream: as if it had been the answer."""
        kind = cast("dict[str, Any]", error).get("type") if isinstance(error, dict) else None
        return fault_of(
            STATUS_OF.get(str(kind), 500),
            {"error": error},
            headers={"request-id": response.headers.get("request-id", "")},
            model=self._name,
            secrets=self._secrets(response),
            usage=assembler.usage,
        )


def _unusable(error: anthropic.AnthropicError) -> SignInNeeded:
    """Credentials that the SDK found and could not turn into a token."""
    return SignInNeeded(
        f"the credentials for the model service cannot be used: {clean(str(error))}",
        hint="Sign in again, or set ANTHROPIC_API_KEY.",
    )


def _basic(url: httpx2.URL) -> str:
    return "Basic " + b64encode(f"{url.username}:{url.password}".encode()).decode()


def _shown(reply: Reply, show: Callable[[str], None]) -> Reply:
    for block in reply.content:
        if block["type"] == "text" and block.get("text"):
            show(block["text"])
    return reply


def _http_client() -> httpx2.AsyncClient:
    return anthropic.DefaultAioHttpClient(
        verify=_tls(environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")),
        limits=httpx2.Limits(max_connections=1000, keepalive_expiry=KEEP_ALIVE),
    )


@lru_cache(maxsize=4)
def _tls(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """The TLS context of the process; 18 ms, hence once. The arguments are where it reads its certificates from."""
    return httpx2.create_ssl_context()


@lru_cache(maxsize=256)
def _wire_schema(schema: bytes) -> dict[str, Any] | None:
    """The schema in the service's dialect, or None where that cannot express it."""
    parsed = orjson.loads(schema)
    return anthropic.transform_schema(parsed) if enforceable(parsed) else None
