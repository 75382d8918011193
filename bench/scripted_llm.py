"""A scripted Messages API on loopback, cheap enough to measure clients against. It prints its port.

``http://127.0.0.1:PORT/<latency_ms>/<tools>/<argkey>/v1/messages``. A request without a tool result is answered with
<tools> calls of the tool whose name ends in ``add`` (argkey ``ask``: one call of ``approve``); one whose system text
holds ROLE-SUPERVISOR with one call of each ``ask_…`` tool, with ``{<argkey>: "do it"}``. A request with a tool result
is answered with "done 3"; argkey ``turnsN`` asks for one call after the other until there are N results.
"""

from __future__ import annotations

import asyncio
import json
import re

USAGE = {"input_tokens": 100, "output_tokens": 20, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


class Speaker(asyncio.Protocol):
    """One keep-alive connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._read = b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end]
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(self._read) < total:
                return
            body, self._read = self._read[end + 4 : total], self._read[total:]
            latency, tools, key = re.findall(rb"^\w+ /(\d+)/(\d+)/(\w+)/", head)[0]
            response = answer(body, int(tools), key.decode())
            asyncio.get_running_loop().call_later(int(latency) / 1000, self._send, response)

    def _send(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)


def answer(body: bytes, tools: int, key: str) -> bytes:
    """The whole HTTP response."""
    wanted = int(key.removeprefix("turns")) if key.startswith("turns") else 1
    if body.count(b'"tool_result"') >= wanted:
        content = [{"type": "text", "text": "done 3. The sum of one and two is three."}]
    elif b"ROLE-SUPERVISOR" in body:
        content = [_use(i, f"ask_{name}", {key: "do it"}) for i, name in enumerate(("alpha", "beta", "gamma"))]
    elif key == "ask":
        content = [_use(0, "approve", {"q": "ok?"})]
    else:
        name = re.findall(rb'"name": ?"(\w*add)"', body)[0].decode()
        first = body.count(b'"tool_result"')  # no two calls of a conversation have the same id
        content = [_use(first + i, name, {"a": i + 1, "b": 2}) for i in range(tools)]
    message = {
        "id": "msg_bench", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": content,
        "stop_reason": "end_turn" if content[0]["type"] == "text" else "tool_use", "stop_sequence": None,
        "usage": USAGE,
    }  # fmt: skip
    data = json.dumps(message).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_bench\r\ncontent-length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


def _use(index: int, name: str, arguments: dict[str, object]) -> dict[str, object]:
    return {"type": "tool_use", "id": f"toolu_{index:020d}", "name": name, "input": arguments}


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Speaker, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
