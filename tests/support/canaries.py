"""Finds a secret wherever it got to, in whatever form: for tests that say where secrets never are.

    search = Search({"model key": "sk-ant-…", "token": token})
    search.folder(state, but=["auth/*.json"])
    search.text("stdout", done.out)
    search.error("the refusal", error)
    assert search.found == []

A long secret is looked for in pieces, so that one that was cut is found, too.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, quote_plus

PIECE = 40
"""Characters of a long secret that are looked for at once."""
PLAIN = (str, bytes, dict, list, tuple)
SHORTEST = 12
"""A shorter canary could be found by chance."""


@dataclass(frozen=True, slots=True, order=True)
class Leak:
    """``secret`` is in ``place``, in this form."""

    place: str
    secret: str
    form: str


def forms(value: str) -> Iterator[tuple[str, bytes, bool]]:
    """Name, bytes to look for, and whether capitals do not count, for each form that a value may be written in."""
    data = value.encode()
    yield "raw", data, False
    yield "UTF-16", value.encode("utf-16-le"), False
    yield "UTF-16 (big end first)", value.encode("utf-16-be"), False
    yield "hex", data.hex().encode(), True
    yield "hex with \\x", "".join(f"\\x{byte:02x}" for byte in data).encode(), True
    yield "URL-encoded", quote(value, safe="").encode(), True
    yield "URL-encoded path", quote(value).encode(), True
    yield "URL-encoded form", quote_plus(value).encode(), True
    yield "URL-encoded throughout", "".join(f"%{byte:02x}" for byte in data).encode(), True
    yield "JSON", json.dumps(value)[1:-1].encode(), False
    yield "JSON in UTF-8", json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass"), False
    yield "JSON in JSON", json.dumps(json.dumps(value)[1:-1])[1:-1].encode(), False
    yield "JSON throughout", "".join(f"\\u{ord(c):04x}" for c in value if ord(c) < 0x10000).encode(), True
    yield "repr", repr(value)[1:-1].encode(), False
    yield "backwards", data[::-1], False
    for alignment in range(3):
        encoded = base64.b64encode(bytes(alignment) + data)
        # Without the characters that hold bits of what stands before and after it.
        inner = encoded[(alignment * 8 + 5) // 6 : (alignment + len(data)) * 8 // 6]
        yield f"base64 ({alignment})", inner, False
        yield f"base64url ({alignment})", inner.translate(bytes.maketrans(b"+/", b"-_")), False


def pieces(value: str) -> list[str]:
    if len(value) <= 2 * PIECE:
        return [value]
    return [value[start : start + PIECE] for start in range(0, len(value) - PIECE + 1, PIECE)]


class Search:
    """``canaries`` maps what a secret is to its value. ``found`` lists where one was, each place and form once."""

    def __init__(self, canaries: Mapping[str, str]) -> None:
        self._leaks: set[Leak] = set()
        self._exact: list[tuple[str, str, bytes]] = []
        self._anyhow: list[tuple[str, str, bytes]] = []
        """In lower case: for forms in which capitals do not count."""
        for name, value in canaries.items():
            if len(value) < SHORTEST:
                raise ValueError(f"the canary {name} is too short to be told from chance")
            for piece in pieces(value):
                for form, needle, anyhow in forms(piece):
                    if anyhow:
                        self._anyhow.append((name, form, needle.lower()))
                    else:
                        self._exact.append((name, form, needle))

    @property
    def found(self) -> list[Leak]:
        return sorted(self._leaks)

    @property
    def secrets(self) -> set[str]:
        """Which of them were found at all."""
        return {leak.secret for leak in self._leaks}

    def scan(self, data: bytes) -> set[tuple[str, str]]:
        """Names of the secrets in the data, each with its form; ``found`` does not hear of it."""
        lower = data.lower()
        found = {(name, form) for name, form, needle in self._exact if needle in data}
        return found | {(name, form) for name, form, needle in self._anyhow if needle in lower}

    def data(self, place: str, data: bytes) -> None:
        self._leaks |= {Leak(place, name, form) for name, form in self.scan(data)}

    def text(self, place: str, text: str) -> None:
        self.data(place, text.encode("utf-8", "surrogatepass"))

    def value(self, place: str, value: object) -> None:
        """Anything with a ``repr``, a JSON form, or both."""
        self.text(place, repr(value))
        self.text(place, json.dumps(value, default=repr))

    def error(self, place: str, error: BaseException) -> None:
        """What an error, those that it came from and those inside it say, and what hangs on them."""
        for each in _chain(error):
            where = f"{place}: {type(each).__name__}"
            self.text(where, f"{each}\n{each!r}\n{each.args!r}\n{getattr(each, '__notes__', '')!r}")
            hangs_on_it: list[object] = [value for value in vars(each).values() if isinstance(value, PLAIN)]
            self.text(where, repr(hangs_on_it))

    def database(self, path: Path) -> None:
        """The bytes of the file and of the two beside it, and each cell by itself: a long one is spread over pages."""
        for file in path.parent.glob(f"{path.name}*"):
            if file.is_file():
                self.data(str(file), file.read_bytes())
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    self.data(f"table {table}", b"\0".join(_cell(cell) for cell in row))
        connection.close()

    def folder(self, folder: Path, *, but: Iterable[str] = ()) -> int:
        """Every file below, its name too, but those whose relative path fits one of the globs; how many there were."""
        globs = list(but)
        searched = 0
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder).as_posix()
            self.text(f"the name of {relative}", relative)
            if path.is_symlink():
                self.text(f"the link {relative}", str(path.readlink()))
            elif path.is_file() and not any(fnmatchcase(relative, glob) for glob in globs):
                self.data(str(path), path.read_bytes())
                searched += 1
        return searched


def _cell(cell: object) -> bytes:
    return cell if isinstance(cell, bytes) else str(cell).encode("utf-8", "surrogatepass")


def _chain(error: BaseException | None, seen: set[int] | None = None) -> Iterator[BaseException]:
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    yield from _chain(error.__cause__, seen)
    yield from _chain(error.__context__, seen)
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("tuple[BaseException, ...]", cast(Any, error).exceptions):
            yield from _chain(inner, seen)
