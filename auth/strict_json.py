"""JSON that reads the same way for everybody (RFC 8259 §4, §8.1; RFC 7493).

A guard that understands a message differently from the program behind it guards nothing. Python's own reader takes
UTF-16 and UTF-32, keeps the last of two equal keys, and accepts ``NaN``; other readers disagree on each. Here a text is
accepted only if there is nothing to disagree about.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn, cast

import orjson

MAX_DEPTH = 64
MAX_CONTAINERS = 100_000
"""Objects and arrays in one text: more of them cost more time to build than to send."""

_STRINGS_AND_BRACKETS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{]|[\]}]', re.DOTALL)
_OPENING = b"[{"


class InvalidJSON(ValueError):
    """The text is not JSON, or is JSON that two programs could read in two ways. The message quotes none of it."""


def loads(data: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Parse UTF-8 JSON without duplicate keys, NaN, infinities, lone surrogates, a byte order mark or deep nesting.

    Raises `InvalidJSON`.
    """
    _check_nesting(data, max_depth)
    try:
        orjson.loads(data)  # strict on encoding, surrogates, NaN and syntax; silent on duplicate keys
        return _DECODER.decode(data.decode("utf-8"))
    except InvalidJSON:
        raise
    except (ValueError, RecursionError):
        raise InvalidJSON("not valid UTF-8 JSON") from None


def loads_object(data: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """`loads`, and the text must be an object."""
    value = loads(data, max_depth=max_depth)
    if not isinstance(value, dict):
        raise InvalidJSON("not a JSON object")
    return cast("dict[str, Any]", value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidJSON("an object has the same key twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJSON("NaN and infinities are not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant)


def _check_nesting(data: bytes, max_depth: int) -> None:
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    depth = containers = 0
    for match in _STRINGS_AND_BRACKETS.finditer(data):
        first = data[match.start()]
        if first in _OPENING:
            depth += 1
            containers += 1
            if depth > max_depth:
                raise InvalidJSON("nested too deeply")
            if containers > MAX_CONTAINERS:
                raise InvalidJSON("too many objects and arrays")
        elif first != 0x22:  # a closing bracket; 0x22 is the quote that opens a string
            depth -= 1
