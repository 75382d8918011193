"""Replies out of what the Messages API sends: whole, or as the events of a stream.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. Blocks stay the JSON that they are, so that a
kind of block that this version does not know is kept and sent back unchanged.
"""

from __future__ import annotations

from typing import Any, cast, get_args

import orjson

from retinue.errors import ModelError

from .base import Block, Reply, StopReason, Usage

STOP_REASONS: frozenset[str] = frozenset(get_args(StopReason))
CUT: frozenset[str] = frozenset({"max_tokens", "model_context_window_exceeded", "refusal"})
"""Reasons after which the last block may be incomplete."""

EVENTS: frozenset[str] = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    }
)
PIECES: dict[str, tuple[str, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
    "input_json_delta": ("input", "partial_json"),
}
"""Kind of delta: the field of the block that it adds to, and its own field. Deltas of other kinds are left out."""


def malformed(what: str) -> ModelError:
    return ModelError(
        f"the model service sent {what}",
        hint="Does the base URL lead to a server that speaks the Messages API?",
    )


class ErrorEvent(Exception):
    """An error inside a stream that began well. ``error`` is its ``error`` object."""

    def __init__(self, error: Any) -> None:
        super().__init__("error event")
        self.error: Any = error


def reply_from(raw: bytes) -> Reply:
    """The reply of a call that was not streamed."""
    try:
        message = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise malformed("an answer that is not JSON") from None
    return reply_of(message)


def reply_of(message: Any) -> Reply:
    """The reply in a ``message`` object."""
    if not isinstance(message, dict):
        raise malformed("an answer that is not a message")
    fields = cast("dict[str, Any]", message)
    content, stop = fields.get("content"), fields.get("stop_reason")
    if fields.get("type") != "message" or not isinstance(content, list):
        raise malformed("an answer that is not a message")
    for block in cast("list[Any]", content):
        if not isinstance(block, dict) or not isinstance(cast("Block", block).get("type"), str):
            raise malformed("a content block without a type")
    if stop not in STOP_REASONS:
        raise malformed(f"a stop reason that this version does not know: {str(stop)[:40]!r}")
    return Reply(
        content=cast("list[Block]", content),
        stop_reason=cast("StopReason", stop),
        usage=usage_of(fields.get("usage")),
        model=str(fields.get("model") or ""),
        id=str(fields.get("id") or ""),
    )


def usage_of(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    fields = cast("dict[str, Any]", usage)

    def count(name: str) -> int:
        value = fields.get(name)
        return value if isinstance(value, int) and value >= 0 else 0

    return Usage(
        input=count("input_tokens"),
        output=count("output_tokens"),
        cache_read=count("cache_read_input_tokens"),
        cache_write=count("cache_creation_input_tokens"),
    )


class Assembler:
    """Puts the events of one stream together."""

    def __init__(self) -> None:
        self._message: dict[str, Any] | None = None
        self._blocks: list[Block] = []
        self._pieces: list[dict[str, list[str]]] = []
        self._closed: set[int] = set()
        self._usage: dict[str, Any] = {}
        self.finished = False
        """The last event was here: whatever happens to the connection now does not matter."""

    @property
    def usage(self) -> Usage:
        """What is known so far: what an attempt that breaks off here has cost at least."""
        return usage_of(self._usage)

    def feed(self, data: bytes) -> str:
        """Take the data of one event; returns the text that it adds. Raises `ErrorEvent` and `ModelError`."""
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise malformed("an event that is not JSON") from None
        if not isinstance(event, dict):
            raise malformed("an event that is not an object")
        fields = cast("dict[str, Any]", event)
        try:
            return self._take(fields)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise malformed(f"an event that does not fit its type, {str(fields.get('type'))[:40]!r}") from None

    def _take(self, event: dict[str, Any]) -> str:
        if self.finished:
            return ""
        kind = event.get("type")
        if kind == "error":
            raise ErrorEvent(event.get("error"))
        if kind not in EVENTS:  # "ping", and what is added to the API later: ignored, as it asks
            return ""
        if (self._message is None) != (kind == "message_start"):
            raise malformed(f"{kind} at the wrong place of a stream")
        match kind:
            case "message_start":
                self._message = {**event["message"]}
                self._usage = {**(self._message.get("usage") or {})}
            case "content_block_start":
                return self._start(event["index"], {**event["content_block"]})
            case "content_block_delta":
                return self._add(self._open(event["index"]), event["delta"])
            case "content_block_stop":
                self._closed.add(self._open(event["index"]))
            case "message_delta":
                self._change(event["delta"], event.get("usage") or {})
            case _:
                self.finished = True
        return ""

    def _start(self, index: int, block: Block) -> str:
        if index != len(self._blocks) or not isinstance(block["type"], str):
            raise malformed("content blocks out of order")
        self._blocks.append(block)
        self._pieces.append({})
        return block["text"] if block["type"] == "text" else ""

    def _open(self, index: int) -> int:
        if not 0 <= index < len(self._blocks) or index in self._closed:
            raise malformed("a part of a content block that is not open")
        return index

    def _add(self, index: int, delta: dict[str, Any]) -> str:
        kind = delta["type"]
        if kind == "citations_delta":
            block = self._blocks[index]
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]
        elif kind in PIECES:
            field, source = PIECES[kind]
            piece = delta[source]
            if not isinstance(piece, str):
                raise malformed(f"a {kind} that is not text")
            self._pieces[index].setdefault(field, []).append(piece)
            return piece if kind == "text_delta" else ""
        return ""

    def _change(self, delta: dict[str, Any], usage: dict[str, Any]) -> None:
        assert self._message is not None
        self._message.update({name: value for name, value in delta.items() if value is not None})
        # Counts are cumulative; one that is left out keeps what the start of the message said.
        self._usage.update({name: value for name, value in usage.items() if value is not None})

    def reply(self) -> Reply:
        """The whole reply, once `finished`."""
        if self._message is None or not self.finished:
            raise malformed("a stream that ends in the middle")
        cut = self._message.get("stop_reason") in CUT
        content: list[Block] = []
        for index, (block, pieces) in enumerate(zip(self._blocks, self._pieces, strict=True)):
            if index not in self._closed and not cut:
                raise malformed("a content block that never ends")
            whole = _join(block, pieces)
            if whole is not None:
                content.append(whole)
            elif not cut:
                raise malformed("arguments of a tool call that are not a JSON object")
        return reply_of({**self._message, "content": content, "usage": self._usage})


def _join(block: Block, pieces: dict[str, list[str]]) -> Block | None:
    """The block with its pieces, or None where they are not JSON: a call that was cut cannot be made."""
    for field, parts in pieces.items():
        text = "".join(parts)
        if field != "input":
            block[field] = (block.get(field) or "") + text
        elif text:
            try:
                block[field] = orjson.loads(text)
            except orjson.JSONDecodeError:
                return None
            if not isinstance(block[field], dict):
                return None
    return block
