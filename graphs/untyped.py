"""Values of a checkpoint as JSON, read without the workflow that wrote them.

Listing and comparing supersteps need no class of the user's, so they work where the code has changed or is not there.
What a class wrote is told by its form (`codecs`): a model is four parts, a dataclass a mapping, an enum a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, time
from typing import Any, cast

import ormsgpack

from retinue.errors import DatabaseCorrupt

from .codecs import PLAIN, Codec
from .serializer import FORMAT

_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda pairs: {str(key): value for key, value in pairs},
    "tuple": list,
    "set": lambda items: sorted(items, key=repr),
    "frozenset": lambda items: sorted(items, key=repr),
    "deque": lambda parts: parts[0],
}
_PLAIN: dict[str, Codec] = {codec.tag: codec for codec in PLAIN.values()}


def read_untyped(kind: str, body: bytes) -> Any:
    """The JSON form of a stored value. Raises `DatabaseCorrupt`."""
    if kind == "null":
        return None
    if kind != FORMAT:
        raise DatabaseCorrupt(f"a checkpoint is in the format {kind!r}, which this Retinue does not read")
    try:
        return _json(ormsgpack.unpackb(body, ext_hook=_extension))
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise DatabaseCorrupt(f"a value in a checkpoint cannot be read: {error}") from None


def _extension(_: int, data: bytes) -> Any:
    tag, value = ormsgpack.unpackb(data, ext_hook=_extension)
    if tag in _CONTAINERS:
        return _CONTAINERS[tag](value)
    if tag in _PLAIN:
        return _PLAIN[tag].read(value)
    if isinstance(value, list) and len(parts := cast("list[Any]", value)) == 4 and isinstance(parts[0], dict):
        fields, told, extra, _private = parts
        if told is None or isinstance(told, list):
            return cast("dict[str, Any]", {**fields, **(extra or {})})
    return cast("Any", value)


def _json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_json(inner) for inner in cast("list[Any]", value)]
    if isinstance(value, (date, time)):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else str(value)
