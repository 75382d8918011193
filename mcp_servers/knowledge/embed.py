"""Text to vectors, where the user has a service for it. Without one the library searches by words alone."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

import anyio

from retinue.errors import ConfigError, ExternalError, SignInNeeded, Timeout, ToolFailed, Unreachable

EmbedKind = Literal["document", "query"]

BATCH = 64
"""Passages in one request."""

_ATTEMPTS = 3
_LONGEST_WAIT = 10.0


class Embedder(Protocol):
    """One embedding model."""

    @property
    def model(self) -> str:
        """What tells its vectors from another model's: vectors of another name are not compared with its own."""
        ...

    async def embed(self, texts: Sequence[str], *, kind: EmbedKind) -> Sequence[Sequence[float]]:
        """One vector for each text, all of the same length. Raises `ExternalError` when the service fails."""
        ...


async def embedded(embedder: Embedder, texts: Sequence[str], *, kind: EmbedKind) -> Sequence[Sequence[float]]:
    """Ask an embedder and count what it answers. Raises `ExternalError`."""
    vectors = await embedder.embed(texts, kind=kind)
    if len(vectors) != len(texts):
        raise ToolFailed(f"the embedder {embedder.model} gave {len(vectors)} vectors for {len(texts)} texts")
    return vectors


class HttpEmbedder:
    """An endpoint that speaks OpenAI's or Voyage's ``POST /embeddings``; so do vLLM, Ollama, LM Studio and others.

    ``url`` is the whole address of the endpoint. ``key`` is sent as a bearer token and never shown. ``asymmetric``
    tells the endpoint which texts are queries and which are documents (Voyage's ``input_type``).
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        asymmetric: bool = False,
        dimensions: int | None = None,
        timeout: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        if not url.startswith(("https://", "http://")):
            raise ConfigError(f"the embedding endpoint {url!r} is not an http(s) address")
        self._url = url
        self._name = model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._asymmetric = asymmetric
        self._dimensions = dimensions
        self._timeout = timeout
        self._sleep = sleep

    @property
    def model(self) -> str:
        return f"{self._name}/{self._dimensions}" if self._dimensions else self._name

    def __repr__(self) -> str:
        return f"HttpEmbedder({self._url!r}, {self.model!r})"

    async def embed(self, texts: Sequence[str], *, kind: EmbedKind) -> list[list[float]]:
        """Raises `Unreachable`, `Timeout`, `SignInNeeded` (401, 403) or `ToolFailed`; overload is tried three times."""
        if not texts:
            return []
        body: dict[str, Any] = {"model": self._name, "input": list(texts)}
        if self._asymmetric:
            body["input_type"] = kind
        if self._dimensions:
            body["dimensions"] = self._dimensions
        return _vectors(await self._post(body), len(texts), self._url)

    async def _post(self, body: dict[str, Any]) -> bytes:
        import httpx2  # heavy, and only for those who use an endpoint

        for attempt in range(1, _ATTEMPTS + 1):
            wait = 0.5 * 2**attempt
            failure: ExternalError
            try:
                # No redirects: a key must not follow one to another host.
                async with httpx2.AsyncClient(timeout=self._timeout, follow_redirects=False) as client:
                    response = await client.post(self._url, json=body, headers=self._headers)
            except httpx2.TimeoutException:
                raise Timeout(f"the embedding endpoint {self._url} took longer than {self._timeout:g} s") from None
            except httpx2.HTTPError as error:
                failure = Unreachable(f"the embedding endpoint {self._url} does not answer ({type(error).__name__})")
            else:
                if response.status_code == 200:
                    return response.content
                if response.status_code in (401, 403):
                    raise SignInNeeded(
                        f"the embedding endpoint {self._url} refuses the key ({response.status_code})",
                        hint="Check the key that is configured for the embedder.",
                    )
                failure = ToolFailed(f"the embedding endpoint {self._url} answers {response.status_code}")
                if response.status_code != 429 and response.status_code < 500:
                    raise failure
                wait = _retry_after(response.headers.get("retry-after")) or wait
            if attempt == _ATTEMPTS or wait > _LONGEST_WAIT:
                raise failure
            await self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")


def _retry_after(value: str | None) -> float | None:
    """Seconds (RFC 9110 §10.2.3); a date is not waited for."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _vectors(answer: bytes, count: int, url: str) -> list[list[float]]:
    """``{"data": [{"index": 0, "embedding": [...]}, …]}``, in any order. Nothing of it is taken on trust."""
    wrong = ToolFailed(f"the embedding endpoint {url} answers something that is not {count} vectors of one length")
    try:
        data: Any = json.loads(answer)["data"]
        found = {int(item["index"]): [float(x) for x in item["embedding"]] for item in data}
    except (ValueError, TypeError, KeyError, OverflowError):
        raise wrong from None
    lengths = {len(vector) for vector in found.values()}
    finite = all(math.isfinite(x) for vector in found.values() for x in vector)
    if sorted(found) != list(range(count)) or len(lengths) != 1 or 0 in lengths or not finite:
        raise wrong
    return [found[i] for i in range(count)]
