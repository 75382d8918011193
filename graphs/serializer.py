"""State values as bytes: exactly what a workflow's state names, nothing else, and equal when it comes back.

LangGraph's `JsonPlusSerializer` is built on the same format (MessagePack with extensions) but cannot refuse a value
while it is written, loses the subclass of a nested model, tuples, dictionary keys that are not text and models with
aliases, runs validators again on each load, and answers a value that it cannot rebuild with its raw parts. So the
classes live in a closed table here: encoding a class that is not in it raises `NotSerializable`, and decoding looks
names up in the same table. Nothing is imported by name and no constructor or validator runs for an unchanged class.

Comes back equal and of the same class: None, bool, int of any size, float, str, bytes, list, tuple, dict with any
hashable keys, set, frozenset, deque, datetime, date, time, timedelta, timezone, ZoneInfo, UUID, Decimal, Path, compiled
patterns, IP addresses; enums, pydantic models, dataclasses, named tuples and pydantic URLs that the state names;
LangGraph's Send, Command, Interrupt, Overwrite; LangChain's messages. Changed: a bytearray comes back as bytes, a lone
surrogate in a text as ``?``, and a time zone of another library as its fixed offset.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import ormsgpack
from langchain_core import messages
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage]  # contract-tested
from langgraph.types import Command, Interrupt, Overwrite, Send, TimeoutPolicy

from retinue.errors import DatabaseCorrupt, NotSerializable, RetinueError, UsageError, WorkflowChanged

from .codecs import PLAIN, Codec, Pairs, codec_of
from .schemas import reachable_types

FORMAT = "retinue/1"
"""The type tag of our bytes in the database: the format's name and version."""

_EXT = 1
_OPTIONS = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
    | ormsgpack.OPT_REPLACE_SURROGATES
)

_LANGGRAPH: tuple[type, ...] = (Send, Command, Interrupt, Overwrite, TimeoutPolicy, _DeltaSnapshot)
_LANGCHAIN: tuple[type, ...] = (
    messages.HumanMessage,
    messages.AIMessage,
    messages.SystemMessage,
    messages.ToolMessage,
    messages.FunctionMessage,
    messages.ChatMessage,
    messages.RemoveMessage,
    messages.HumanMessageChunk,
    messages.AIMessageChunk,
    messages.SystemMessageChunk,
    messages.ToolMessageChunk,
    messages.FunctionMessageChunk,
    messages.ChatMessageChunk,
)


class StateSerializer:
    """LangGraph's `SerializerProtocol` over a closed set of classes. Make one with `serializer_for`.

    `dumps_typed` raises `NotSerializable`; `loads_typed` raises `WorkflowChanged` for a class that the state no longer
    names or whose fields no longer fit, and `DatabaseCorrupt` for bytes that make no sense. Safe to share by threads.
    """

    def __init__(self, types: Iterable[type[Any]]) -> None:
        self._by_class: dict[type[Any], Codec] = dict(PLAIN)
        self._by_tag: dict[str, Codec] = {codec.tag: codec for codec in PLAIN.values()}
        for cls in (*_LANGGRAPH, *_LANGCHAIN, *types):
            if cls not in self._by_class:
                self._add(cls, codec_of(cls))

    def _add(self, cls: type[Any], codec: Codec) -> None:
        if codec.tag in self._by_tag:
            raise UsageError(
                f"two classes of the workflow's state are called {codec.tag}",
                hint="Rename one of them: a checkpoint tells classes apart by module and name.",
            )
        self._by_class[cls] = self._by_tag[codec.tag] = codec

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if obj is None:
            return "null", b""
        return FORMAT, _Writing(self._by_class).pack(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        kind, body = data
        if kind == "null":
            return None
        if kind != FORMAT:
            raise DatabaseCorrupt(f"a checkpoint is in the format {kind!r}, which this Retinue does not read")
        return _Reading(self._by_tag).unpack(body)


def serializer_for(*types: Any) -> StateSerializer:
    """The serializer of a workflow whose state, input, output and node inputs are ``types``.

    Collects the pydantic models, dataclasses, enums, named tuples and URL classes that their annotations reach, through
    ``list[Model]``, unions, ``Annotated``, TypedDicts, type aliases and generic models. A subclass of a named class is
    not thereby named: say ``Base | Sub``.
    """
    return StateSerializer(reachable_types(types))


class _Writing:
    """One value being written. ormsgpack drops what a callback raised, so the first trouble is kept here."""

    __slots__ = ("_by_class", "_trouble")

    def __init__(self, by_class: dict[type[Any], Codec]) -> None:
        self._by_class = by_class
        self._trouble: RetinueError | None = None

    def pack(self, value: Any) -> bytes:
        try:
            try:
                return ormsgpack.packb(value, default=self._default, option=_OPTIONS)
            except TypeError as error:
                if self._trouble is not None or "key must be str" not in str(error):
                    raise
                # Rare enough to look for the dictionary in Python, and only then.
                return ormsgpack.packb(_keys_apart(value), default=self._default, option=_OPTIONS)
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self._trouble or NotSerializable(str(error)) from None

    def _default(self, value: Any) -> ormsgpack.Ext:
        cls = cast(type[Any], type(value))
        codec = self._by_class.get(cls)
        try:
            if codec is None:
                raise _foreign(cls)
            return ormsgpack.Ext(_EXT, self.pack([codec.tag, codec.write(value)]))
        except RetinueError as trouble:
            self._trouble = self._trouble or trouble
            raise


def _foreign(cls: type[Any]) -> NotSerializable:
    name = f"{cls.__module__}.{cls.__qualname__}"
    return NotSerializable(
        f"a value of the class {name}, which the workflow's state does not name",
        hint=f"Name {cls.__name__} in the state's annotations if it is a pydantic model, dataclass or enum; "
        "otherwise keep plain data, and put large or live objects elsewhere.",
        type=name,
    )


def _keys_apart(value: Any) -> Any:
    if type(value) is dict:
        items = cast(dict[Any, Any], value)
        if all(type(key) is str for key in items):
            return {key: _keys_apart(item) for key, item in items.items()}
        return Pairs([key, _keys_apart(item)] for key, item in items.items())
    if type(value) is list:
        return [_keys_apart(item) for item in cast(list[Any], value)]
    return value


class _Reading:
    """One value being read; keeps the first trouble for the same reason."""

    __slots__ = ("_by_tag", "_trouble")

    def __init__(self, by_tag: dict[str, Codec]) -> None:
        self._by_tag = by_tag
        self._trouble: RetinueError | None = None

    def unpack(self, body: bytes) -> Any:
        try:
            return ormsgpack.unpackb(body, ext_hook=self._extension)
        except (TypeError, ValueError) as error:
            raise self._trouble or DatabaseCorrupt(f"a value in a checkpoint cannot be read: {error}") from None

    def _extension(self, code: int, data: bytes) -> Any:
        tag = "value"
        try:
            tag, content = self.unpack(data)
            codec = self._by_tag.get(tag) if code == _EXT else None
            if codec is None:
                raise WorkflowChanged(f"a checkpoint holds a {tag}, which the workflow's state does not name")
            return codec.read(content)
        except RetinueError as trouble:
            self._trouble = self._trouble or trouble
            raise
        except Exception as error:  # a class that changed since: its own code may raise anything
            self._trouble = self._trouble or DatabaseCorrupt(
                f"a {tag} in a checkpoint cannot be rebuilt: {type(error).__name__}"
            )
            raise
