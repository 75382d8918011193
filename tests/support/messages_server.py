"""A local server that speaks the Messages API as strictly as the real one, and says what a test wrote down.

    async with messages_server([calls(("search", {"query": "refund"})), says("Done.")]) as server:
        model = ClaudeModel(api_key="key", base_url=server.url)
        …
    assert server.requests[1].results == ["found it"]

A step answers one request, as JSON or as events, whichever the request asks for. Instead of a list, a function of the
request may choose the step: for agents that run side by side. What the real service would refuse is refused before the
script is looked at, and is kept in ``refused``. Nothing here waits for time: a `Gate` holds an answer, or its middle.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import h11
import orjson
from anyio.from_thread import start_blocking_portal

from tests.support.messages_api import Refused, check_body, check_headers

USAGE: Mapping[str, int] = {
    "input_tokens": 100,
    "output_tokens": 20,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}


@dataclass(frozen=True)
class Gate:
    """``reached`` is set when the server stands before it; it goes on when ``open`` is set."""

    reached: anyio.Event = field(default_factory=anyio.Event)
    open: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True, kw_only=True)
class Step:
    """How one request is answered. Made by the functions below, changed by its methods."""

    content: Sequence[Mapping[str, Any]] = ()
    stop_reason: str = "end_turn"
    usage: Mapping[str, Any] = field(default_factory=lambda: USAGE)
    model: str = ""
    """The model that answers; empty for the one that was asked."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes | None = None
    """Sent as it is, in place of a message."""
    gates: Mapping[int, Gate] = field(default_factory=dict[int, Gate])
    """By the number of events before it; 0 is before the answer begins."""
    cut: int | None = None
    """The connection breaks after this many events (of an answer that is not streamed: in its middle)."""
    extra: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    """Raw events put in after this many."""

    def held(self, gate: Gate, *, after: int = 0) -> Step:
        return replace(self, gates={**self.gates, after: gate})

    def cut_after(self, events: int) -> Step:
        return replace(self, cut=events)

    def with_event(self, event: bytes | Mapping[str, Any], *, after: int) -> Step:
        """An event put in after so many: raw bytes, or the JSON of its data."""
        raw = event if isinstance(event, bytes) else sse(event)
        return replace(self, extra={**self.extra, after: raw})

    def with_error(self, kind: str, message: str, *, after: int) -> Step:
        """The stream ends with an error event."""
        event = {"type": "error", "error": {"type": kind, "message": message}}
        return replace(self.with_event(event, after=after), cut=after + 1)


def says(text: str = "", *blocks: Mapping[str, Any], stop_reason: str = "end_turn", **usage: int) -> Step:
    """Text, and further blocks. ``usage`` overrides counts of tokens, e.g. ``cache_read_input_tokens=90``."""
    texts: list[Mapping[str, Any]] = [{"type": "text", "text": text}] if text else []
    return Step(content=[*texts, *blocks], stop_reason=stop_reason, usage={**USAGE, **usage})


def calls(*uses: tuple[str, Mapping[str, Any]], text: str = "") -> Step:
    """Calls of tools, side by side."""
    blocks = [
        {"type": "tool_use", "id": f"toolu_{next(_ids):024}", "name": name, "input": arguments}
        for name, arguments in uses
    ]
    return says(text, *blocks, stop_reason="tool_use")


def fails(
    status: int, kind: str = "api_error", message: str = "It went wrong", *, headers: Mapping[str, str] | None = None
) -> Step:
    """An error envelope, e.g. ``fails(429, "rate_limit_error", headers={"retry-after": "2"})``."""
    return Step(status=status, headers=headers or {}, body=_envelope(kind, message))


def sends(body: bytes, *, status: int = 200, content_type: str = "text/event-stream") -> Step:
    """Any bytes at all."""
    return Step(body=body, status=status, headers={"content-type": content_type})


@dataclass(frozen=True, kw_only=True)
class Received:
    """A request that the script was asked about."""

    headers: Mapping[str, str]
    body: dict[str, Any]
    gone: anyio.Event
    """Set when the client goes away before it has the whole answer."""

    @property
    def streamed(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def system(self) -> str:
        system = self.body.get("system", "")
        return system if isinstance(system, str) else "\n".join(block["text"] for block in system)

    @property
    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.body.get("tools", ())]

    @property
    def task(self) -> str:
        """The text of the first message."""
        return "\n".join(block["text"] for block in self._blocks(0) if block["type"] == "text")

    @property
    def results(self) -> list[str]:
        """The texts of the tool results in the last message."""
        found = [block.get("content", "") for block in self._blocks(-1) if block["type"] == "tool_result"]
        return [part if isinstance(part, str) else "\n".join(b.get("text", "") for b in part) for part in found]

    def _blocks(self, index: int) -> list[dict[str, Any]]:
        content = self.body["messages"][index]["content"]
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


Script = Sequence[Step] | Callable[[Received], Step]

_ids = itertools.count(1)


class MessagesServer:
    """``url`` is the base URL. ``requests`` are those that were answered by the script, in the order they came."""

    def __init__(self, script: Script, *, key: str | None) -> None:
        self._script = script if callable(script) else list(script)
        self._key = key
        self._sent: list[Mapping[str, Any]] = []
        self._paused = False
        self.url = ""
        self.requests: list[Received] = []
        self.refused: list[Refused] = []
        self.connections = 0
        """How many were opened."""

    @property
    def left(self) -> int:
        """Steps that were not asked for."""
        return 0 if callable(self._script) else len(self._script)

    def step(self, method: str, path: str, headers: Mapping[str, str], raw: bytes) -> tuple[Step, Received | None]:
        try:
            check_headers(method, path, headers, key=self._key)
            body = check_body(raw, sent=self._sent, paused=self._paused)
        except Refused as refusal:
            self.refused.append(refusal)
            return fails(refusal.status, refusal.kind, refusal.message), None
        received = Received(headers=headers, body=body, gone=anyio.Event())
        self.requests.append(received)
        step = self._next(received)
        self._sent += step.content
        self._paused = step.stop_reason == "pause_turn"
        return step, received

    def _next(self, received: Received) -> Step:
        if callable(self._script):
            return self._script(received)
        if not self._script:
            return fails(500, message="the script of this test has no step left", headers={"x-should-retry": "false"})
        return self._script.pop(0)


@asynccontextmanager
async def messages_server(
    script: Script, *, key: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[MessagesServer]:
    """Serve on loopback, on a free port. ``key``: the only credentials that are let in."""
    server = MessagesServer(script, key=key)
    open_: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        open_.add(task)
        try:
            with suppress(ConnectionError, h11.RemoteProtocolError):
                await _Connection(server, reader, writer).serve()
        finally:
            open_.discard(task)
            writer.transport.abort()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in [*open_]:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)
        await listener.wait_closed()


@contextmanager
def messages_server_aside(script: Script, *, key: str | None = None) -> Generator[MessagesServer]:
    """The same in a thread of its own, for tests that block: of commands, of child processes."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(messages_server(script, key=key)) as server,
    ):
        yield server


class _Connection:
    def __init__(self, server: MessagesServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while (asked := await self._request()) is not None:
            request, raw = asked
            headers = {name.decode().lower(): value.decode() for name, value in request.headers}
            path = request.target.decode().partition("?")[0]
            step, received = self._server.step(request.method.decode(), path, headers, raw)
            gone = received.gone if received is not None else anyio.Event()
            try:
                whole = await self._answer(step, received, gone)
            except ConnectionError:
                gone.set()
                return
            if not whole or self._http.our_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()

    async def _request(self) -> tuple[h11.Request, bytes] | None:
        request: h11.Request | None = None
        raw = b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(65536)
                if not data and request is None:
                    return None
                self._http.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                raw += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                return request, raw
            else:
                return None

    async def _answer(self, step: Step, received: Received | None, gone: anyio.Event) -> bool:
        """Whether the whole answer was sent."""
        if (gate := step.gates.get(0)) is not None and not await self._wait(gate, gone):
            return False
        request_id = f"req_{next(_ids):024}"
        headers = {"content-type": "application/json", "request-id": request_id, **step.headers}
        if step.body is not None or received is None:
            body = (step.body or b"").replace(b"<request-id>", request_id.encode())
            return await self._whole(step, headers, body)
        message = _message(step, received)
        if not received.streamed:
            return await self._whole(step, headers, orjson.dumps(message))
        headers["content-type"] = "text/event-stream; charset=utf-8"
        self._head(step.status, {**headers, "transfer-encoding": "chunked"})
        for count, event in enumerate(_events(message, step.extra), start=1):
            self._data(event)
            await self._writer.drain()
            if count == step.cut:
                return False
            if (gate := step.gates.get(count)) is not None and not await self._wait(gate, gone):
                return False
        self._write(h11.EndOfMessage())
        await self._writer.drain()
        return True

    async def _whole(self, step: Step, headers: Mapping[str, str], body: bytes) -> bool:
        self._head(step.status, {**headers, "content-length": str(len(body))})
        if step.cut is not None:
            self._data(body[: len(body) // 2])
            await self._writer.drain()
            return False
        self._data(body)
        self._write(h11.EndOfMessage())
        await self._writer.drain()
        return True

    async def _wait(self, gate: Gate, gone: anyio.Event) -> bool:
        """Whether the gate opened before the client went away."""
        gate.reached.set()
        opened = asyncio.ensure_future(gate.open.wait())
        left = asyncio.ensure_future(self._reader.read(1))  # nothing is sent before an answer but the end
        try:
            await asyncio.wait({opened, left}, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                gone.set()
            return not left.done()
        finally:
            for future in (opened, left):
                future.cancel()
            await asyncio.gather(opened, left, return_exceptions=True)

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self._write(h11.Response(status_code=status, headers=list(headers.items())))

    def _data(self, data: bytes) -> None:
        self._write(h11.Data(data=data))

    def _write(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")


def _message(step: Step, received: Received) -> dict[str, Any]:
    return {
        "id": f"msg_{next(_ids):024}",
        "type": "message",
        "role": "assistant",
        "model": step.model or received.body["model"],
        "content": list(step.content),
        "stop_reason": step.stop_reason,
        "stop_sequence": None,
        "usage": dict(step.usage),
    }


def sse(data: Mapping[str, Any]) -> bytes:
    """One event."""
    return b"event: %s\ndata: %s\n\n" % (str(data["type"]).encode(), orjson.dumps(data))


def events_of(message: Mapping[str, Any]) -> list[bytes]:
    """The events of a message, as the real service sends them: a ping early, pieces of a few characters."""
    start: dict[str, Any] = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {**message["usage"], "output_tokens": 1},
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(message["content"]):
        opening, deltas = _pieces(block)
        events.append({"type": "content_block_start", "index": index, "content_block": opening})
        if index == 0:
            events.append({"type": "ping"})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    ending = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    events.append(
        {"type": "message_delta", "delta": ending, "usage": {"output_tokens": message["usage"]["output_tokens"]}}
    )
    events.append({"type": "message_stop"})
    return [sse(event) for event in events]


def _events(message: Mapping[str, Any], extra: Mapping[int, bytes]) -> Iterator[bytes]:
    for count, event in enumerate(events_of(message)):
        if count in extra:
            yield extra[count]
        yield event


def _pieces(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it is opened, and the deltas that fill it."""
    match block["type"]:
        case "text":
            deltas = [{"type": "text_delta", "text": part} for part in _parts(block["text"])]
            citations = [{"type": "citations_delta", "citation": each} for each in block.get("citations") or ()]
            return {"type": "text", "text": ""}, [*deltas, *citations]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": part} for part in _parts(block["thinking"])]
            signed = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed]
        case "tool_use":
            text = orjson.dumps(block["input"]).decode()
            parts = ["", *_parts(text)] if block["input"] else []
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in parts]
        case _:
            return {**block}, []


def _parts(text: str) -> list[str]:
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def _envelope(kind: str, message: str) -> bytes:
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": "<request-id>"})
