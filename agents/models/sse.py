"""Server-sent events out of bytes, however the network cut them.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. Only the data
matters here: each event of the Messages API names its type in its own JSON too.
"""

from __future__ import annotations

from retinue.errors import ModelError

MAX_EVENT = 32 * 1024 * 1024
"""Bytes of one event; more is not a stream of events. A whole request may have 32 MB."""


class EventReader:
    """Feed it chunks, get the data of each event that they complete."""

    def __init__(self) -> None:
        self._open = bytearray()
        self._held = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._held or b"\r" in chunk:
            chunk = self._unified(chunk)
        seen = max(len(self._open) - 1, 0)
        self._open += chunk
        if self._open.find(b"\n\n", seen) < 0:
            if len(self._open) > MAX_EVENT:
                raise ModelError(f"the model service sent an event of more than {MAX_EVENT} bytes")
            return []
        *blocks, rest = bytes(self._open).split(b"\n\n")
        self._open = bytearray(rest)
        return [data for block in blocks if (data := _data(block)) is not None]

    def end(self) -> bytes | None:
        """The data of an event whose closing blank line never came, if there is one."""
        block, self._open, self._held = bytes(self._open), bytearray(), b""
        return _data(block)

    def _unified(self, chunk: bytes) -> bytes:
        """Line ends as LF. A CR at the end waits: the LF of the same line end may be in the next chunk."""
        chunk = self._held + chunk
        self._held = b"\r" if chunk.endswith(b"\r") else b""
        if self._held:
            chunk = chunk[:-1]
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(block: bytes) -> bytes | None:
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:] for line in block.split(b"\n") if line.startswith(b"data:")
    ]
    if not lines:
        return None
    return lines[0] if len(lines) == 1 else b"\n".join(lines)
