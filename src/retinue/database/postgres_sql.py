"""The SQL that both databases share, as Postgres writes it."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count

_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\?""", re.DOTALL)


@lru_cache(maxsize=1024)
def native(sql: str, lock: bool = False) -> bytes:
    """``?`` as ``$1``, ``$2``, …, but not in quoted text, quoted names and comments. ``lock`` locks the rows found."""
    numbers = count(1)

    def number(token: re.Match[str]) -> str:
        return f"${next(numbers)}" if token[0] == "?" else token[0]

    text = _TOKEN.sub(number, sql)
    # What an UPDATE takes that changes no key. The comment of a last line must not swallow it.
    return (f"{text}\nFOR NO KEY UPDATE" if lock else text).encode()
