"""How each class of a state is written to plain data, and read from it."""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AnyUrl, BaseModel, ValidationError

from retinue.errors import NotSerializable, WorkflowChanged


class Codec(NamedTuple):
    """How one class is written (to what MessagePack, or another codec, can write) and read."""

    tag: str
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


class Pairs(list[Any]):
    """A dictionary with keys that are not text, as a list of key and value."""


# Classes that every state may hold


def _write_datetime(value: datetime) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo, value.utcoffset())]


def _read_datetime(parts: list[Any]) -> datetime:
    return datetime.fromisoformat(parts[0]).replace(fold=parts[1], tzinfo=parts[2])


def _write_time(value: time) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo, value.utcoffset())]


def _read_time(parts: list[Any]) -> time:
    return time.fromisoformat(parts[0]).replace(fold=parts[1], tzinfo=parts[2])


def _zone(zone: tzinfo | None, offset: timedelta | None) -> tzinfo | None:
    if zone is None or type(zone) in (timezone, ZoneInfo):
        return zone
    return None if offset is None else timezone(offset)


def _write_zone(zone: ZoneInfo) -> str:
    if not (name := str(zone.key or "")):
        raise NotSerializable("a time zone without a name")
    return name


def _write_delta(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _read_delta(parts: list[int]) -> timedelta:
    return timedelta(*parts)


def _write_pattern(value: re.Pattern[Any]) -> list[Any]:
    return [value.pattern, value.flags]


def _read_pattern(parts: list[Any]) -> re.Pattern[Any]:
    return re.compile(*parts)


def _write_deque(value: deque[Any]) -> list[Any]:
    return [list(value), value.maxlen]


def _read_deque(parts: list[Any]) -> deque[Any]:
    return deque(*parts)


def _write_offset(value: timezone) -> timedelta:
    return value.utcoffset(None)


def _write_uuid(value: UUID) -> bytes:
    return value.bytes


def _read_uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


_PATH = type(Path())
PLAIN: dict[type, Codec] = {
    int: Codec("int", str, int),  # beyond 64 bits; smaller ones are native
    Pairs: Codec("dict", list, dict),
    tuple: Codec("tuple", list, tuple),
    set: Codec("set", list, set),
    frozenset: Codec("frozenset", list, frozenset),
    deque: Codec("deque", _write_deque, _read_deque),
    datetime: Codec("datetime", _write_datetime, _read_datetime),
    date: Codec("date", date.isoformat, date.fromisoformat),
    time: Codec("time", _write_time, _read_time),
    timedelta: Codec("timedelta", _write_delta, _read_delta),
    timezone: Codec("timezone", _write_offset, timezone),
    ZoneInfo: Codec("zoneinfo", _write_zone, ZoneInfo),
    UUID: Codec("uuid", _write_uuid, _read_uuid),
    Decimal: Codec("decimal", str, Decimal),
    re.Pattern: Codec("pattern", _write_pattern, _read_pattern),
    _PATH: Codec("path", str, Path),
    **{
        cls: Codec(cls.__name__, str, cls)
        for cls in (IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network)
    },
}


# Classes that a state names


def codec_of(cls: type[Any]) -> Codec:
    """The codec of one class that a state names, by its kind."""
    tag = f"{cls.__module__}:{cls.__qualname__}"
    if issubclass(cls, BaseModel):
        return Codec(tag, *_model(cls))
    if issubclass(cls, Flag):
        return Codec(tag, _value, cls)
    if issubclass(cls, Enum):
        members: dict[str, Any] = dict(cls.__members__)
        return Codec(tag, _name, members.__getitem__)
    if issubclass(cls, AnyUrl):
        return Codec(tag, str, cls)
    if issubclass(cls, tuple):
        return Codec(tag, list, cast(Any, cls)._make)
    names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else cls.__slots__
    return Codec(tag, *_record(cls, names))


def _value(member: Flag) -> int:
    return member.value


def _name(member: Enum) -> str:
    return member.name


def _model(cls: type[BaseModel]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Models by pydantic's own pickling state, which is exact: no alias, validator or default plays a part."""
    names = frozenset(cls.model_fields)

    def write(model: BaseModel) -> list[Any]:
        data = model.__dict__
        if len(data) != len(names):  # cached properties live there too
            data = {name: data[name] for name in names if name in data}
        told = model.model_fields_set
        private = model.__pydantic_private__ and model.__getstate__()["__pydantic_private__"]
        return [data, None if len(told) == len(data) else list(told), model.__pydantic_extra__, private]

    def read(parts: list[Any]) -> BaseModel:
        data, told, extra, private = parts
        if data.keys() != names:
            return _changed_model(cls, {**data, **(extra or {})})
        model = cls.__new__(cls)
        told = set(data) | set(extra or ()) if told is None else set(told)
        BaseModel.__setstate__(
            model,
            {
                "__dict__": data,
                "__pydantic_fields_set__": told,
                "__pydantic_extra__": extra,
                "__pydantic_private__": private,
            },
        )
        return model

    return write, read


def _changed_model(cls: type[BaseModel], data: dict[str, Any]) -> BaseModel:
    try:
        return cls.model_validate(data, by_name=True)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False))
        raise WorkflowChanged(
            f"a {cls.__qualname__} in a checkpoint does not fit its class any more: {places}"
        ) from None


def _record(cls: type[Any], names: Iterable[str]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Dataclasses field by field, without ``__init__`` or ``__post_init__`` unless the fields have changed."""
    names = tuple(names)
    known = frozenset(names)

    def write(record: Any) -> dict[str, Any]:
        return {name: getattr(record, name) for name in names}

    def read(data: dict[str, Any]) -> Any:
        if data.keys() != known:
            try:
                return cls(**data)
            except Exception as error:
                kind = type(error).__name__
                raise WorkflowChanged(
                    f"a {cls.__qualname__} in a checkpoint no longer fits its class ({kind})"
                ) from None
        record: Any = object.__new__(cls)
        for name, value in data.items():
            object.__setattr__(record, name, value)
        return record

    return write, read
