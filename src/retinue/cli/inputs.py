"""Values from the command line and from files."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import orjson

from retinue.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def split(pair: str, option: str) -> tuple[str, str]:
    """``name=value``. Raises `UsageError`."""
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise UsageError(f"{option} takes name=value, not {pair!r}")
    return name.strip(), value


def put(data: dict[str, Any], name: str, value: str, *, as_text: bool = False) -> None:
    """Set a field, one inside another with ``outer.inner``. The value is JSON where it is that, else text."""
    *outer, last = name.split(".")
    for part in outer:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set: {part} is a value, and {name} needs a table there")
        data = cast("dict[str, Any]", inner)
    data[last] = value if as_text else json_or_text(value)


def json_or_text(value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def read_document(name: str) -> dict[str, Any]:
    """A JSON or TOML file's table; ``-`` is stdin. Raises `UsageError`."""
    text = read_text(name)
    try:
        value: Any = tomllib.loads(text) if name.endswith(".toml") else orjson.loads(text)
    except (tomllib.TOMLDecodeError, orjson.JSONDecodeError) as error:
        raise UsageError(
            f"{_named(name)} is not valid {'TOML' if name.endswith('.toml') else 'JSON'}: {error}"
        ) from None
    if not isinstance(value, dict):
        raise UsageError(f"{_named(name)} holds no table of fields")
    return cast("dict[str, Any]", value)


def read_text(name: str) -> str:
    """A file's text; ``-`` is stdin. Raises `UsageError`."""
    try:
        if name == "-":
            return sys.stdin.read()
        return Path(name).expanduser().read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{_named(name)} is not UTF-8 text") from None


def _named(name: str) -> str:
    return "stdin" if name == "-" else name


def seconds(text: str) -> float:
    """``30d``, ``12h``, ``45m``, ``90s``, ``2w`` in seconds. Raises `UsageError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no length of time", hint="Write 30d, 12h, 45m, 90s or 2w.")
    return float(match[1]) * _UNITS[match[2]]
