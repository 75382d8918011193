"""What one MCP message over HTTP asks for, read from the very bytes that will be forwarded.

Only the body decides. Clients of the handshake eras (2024-11-05 to 2025-11-25) send no ``Mcp-Method`` and ``Mcp-Name``
headers; those of 2026-07-28 must, and when the headers are there they have to say what the body says.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from . import strict_json
from .refusals import Malformed

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INVALID_PARAMS: Final = -32602
HEADER_MISMATCH: Final = -32020

HANDSHAKE_VERSIONS: Final = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
"""Protocol revisions without routing headers. Whatever else a request names is held to the rules of 2026-07-28."""

NAMED_BY: Final[Mapping[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""Methods that act on one named thing, and the parameter that names it."""

REQUIRE_NAME_HEADER: Final = frozenset({"tools/call", "prompts/get", "resources/read"})

STREAM: Final = "GET"
END_SESSION: Final = "DELETE"
ANSWER: Final = ""
"""Pseudo-methods for scope policies: opening a handshake-era session's stream, ending the session, and posting an
answer to something the server asked (a message without a method)."""

_BASE64_HEADER = re.compile(r"=\?base64\?(?P<payload>.*)\?=")


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    """The JSON-RPC method, or one of `STREAM`, `END_SESSION` and `ANSWER`."""
    name: str | None = None
    """The tool, prompt, resource or task that it is about."""


def read(body: bytes) -> Operation:
    """The one operation in a JSON-RPC message. Raises `Malformed` when there is none, or room for a second opinion."""
    try:
        value = strict_json.loads(body)
    except strict_json.InvalidJSON as error:
        raise Malformed(f"the body was not accepted: {error}", rpc_code=PARSE_ERROR) from None
    if isinstance(value, list):
        raise Malformed("batches are not part of the protocol; send one message a request")
    if not isinstance(value, dict):
        raise Malformed("the body is not a JSON-RPC message")
    message = cast("dict[str, Any]", value)
    answers = {"result", "error"} & message.keys()
    if "method" not in message:
        if len(answers) != 1:
            raise Malformed("the body is neither a request nor an answer")
        return Operation(ANSWER)
    method = message["method"]
    if not isinstance(method, str) or not method or answers:
        raise Malformed("the body is not one JSON-RPC request")
    return Operation(method, _name(method, message.get("params")))


def _name(method: str, params: object) -> str | None:
    if (parameter := NAMED_BY.get(method)) is None:
        return None
    name = cast("dict[str, Any]", params).get(parameter) if isinstance(params, dict) else None
    if not isinstance(name, str) or not name:
        raise Malformed(f"{method} does not say which {parameter}", rpc_code=INVALID_PARAMS)
    return name


def check_headers(operation: Operation, headers: Mapping[str, list[str]]) -> None:
    """Hold the routing headers against the body (MCP 2026-07-28, Streamable HTTP). Raises `Malformed` (-32020).

    ``headers`` maps lower-case names to all their values.
    """
    version = _one(headers, "mcp-protocol-version")
    modern = version is not None and version not in HANDSHAKE_VERSIONS
    method, name = _one(headers, "mcp-method"), _one(headers, "mcp-name")
    if method is None:
        if modern:
            raise Malformed("the Mcp-Method header is missing", rpc_code=HEADER_MISMATCH)
    elif method != operation.method:
        raise Malformed("the Mcp-Method header is unlike the body", rpc_code=HEADER_MISMATCH)
    if name is None:
        if modern and operation.method in REQUIRE_NAME_HEADER:
            raise Malformed("the Mcp-Name header is missing", rpc_code=HEADER_MISMATCH)
    elif decode_header(name) != operation.name:
        raise Malformed("the Mcp-Name header is unlike the body", rpc_code=HEADER_MISMATCH)


def decode_header(value: str) -> str | None:
    """A routing header's value, which may be wrapped as ``=?base64?…?=``; None when the wrapping is broken."""
    match = _BASE64_HEADER.fullmatch(value)
    if match is None:
        return value
    payload = match.group("payload")
    try:
        decoded = base64.b64decode(payload, validate=True)
        if base64.b64encode(decoded).decode("ascii") != payload:
            return None
        return decoded.decode("utf-8")
    except (binascii.Error, ValueError):
        return None


def _one(headers: Mapping[str, list[str]], name: str) -> str | None:
    values = headers.get(name, [])
    if len(values) > 1:
        raise Malformed(f"the {name} header appears more than once", rpc_code=HEADER_MISMATCH)
    return values[0] if values else None
