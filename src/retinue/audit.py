"""The audit trail: append-only rows, each with a hash that covers the row before it.

A row tells who did what, when, in which run. Content never goes in, only its `digest`, so that content can be pruned
and the trail stays. ``hash = sha256(prev || row)``, where ``row`` is the JSON array
``[id, ts, run, actor, action, body]`` without spaces, in UTF-8, and ``body`` is a string of JSON with sorted keys.

The chain shows a row that was changed, removed, inserted or moved. Rows cut off the end leave a shorter chain that is
whole, and somebody who can write the database can compute a new one: both are seen only by comparing with a head
(`VerifyReport.head`) that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from retinue.database.base import Database, Row, Transaction
from retinue.errors import UsageError

GENESIS = "0" * 64
"""What the first row's hash covers in place of a row before it."""

_COLUMNS = "id, ts, run, actor, action, body, prev, hash"
_PAGE = 1000


def digest(value: Any) -> str:
    """sha256 in hex: of bytes as they are, of any other JSON value in its canonical form (sorted keys)."""
    data = value if isinstance(value, bytes) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()


def append(tx: Transaction, *, actor: str, action: str, body: Mapping[str, Any], run: str | None = None) -> str:
    """Add a row in the caller's transaction and return its hash. Takes the lock ``audit``: near a transaction's end.

    ``actor`` is a principal's key, ``action`` a dotted name such as ``tool.call``, ``body`` small facts: names, ids,
    decisions, digests. Never content, never a secret.
    """
    tx.lock("audit")
    last = tx.one("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1")
    number, prev = (1, GENESIS) if last is None else (last[0] + 1, last[1])
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()
    fields = (number, float(tx.now), run, actor, action, text)
    row_hash = _hash(prev, fields)
    tx.executemany(f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(*fields, prev, row_hash)])  # noqa: S608
    return row_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a walk along the chain found."""

    rows: int
    """Rows that were found good, up to the first bad one."""
    ok: bool
    first_bad: int | None = None
    """The number of the row at which the chain breaks."""
    problem: str = ""
    head: str = f"0:{GENESIS}"
    """``number:hash`` of the last good row. Keep it elsewhere, and pass it next time."""


async def verify(db: Database, *, head: str | None = None) -> VerifyReport:
    """Walk the whole chain, a page at a time.

    ``head`` is the head of an earlier report: that row must still be there, and the same.
    """
    known = None if head is None else _parse(head)
    number, prev = 0, GENESIS
    while True:
        page = await db.read(lambda tx, after=number: _page(tx, after))
        for row in page:
            problem = _problem(row, number, prev)
            if problem is None and known == (row[0], row[7]):
                known = None
            elif problem is None and known is not None and row[0] == known[0]:
                problem = "is not the row of that number that the given head is about"
            if problem is not None:
                bad = number + 1
                return VerifyReport(
                    rows=number, ok=False, first_bad=bad, problem=f"row {bad} {problem}", head=f"{number}:{prev}"
                )
            number, prev = row[0], row[7]
        if len(page) < _PAGE:
            break
    if known is not None and known != (0, GENESIS):
        problem = f"the trail ends at row {number}, but row {known[0]} was there before: rows were cut off the end"
        return VerifyReport(rows=number, ok=False, first_bad=number + 1, problem=problem, head=f"{number}:{prev}")
    return VerifyReport(rows=number, ok=True, head=f"{number}:{prev}")


def _page(tx: Transaction, after: int) -> list[Row]:
    # From the start without a lower bound: a row with a number below one would otherwise never be seen.
    if after == 0:
        return tx.all(f"SELECT {_COLUMNS} FROM audit ORDER BY id LIMIT {_PAGE}")  # noqa: S608  constants
    return tx.all(f"SELECT {_COLUMNS} FROM audit WHERE id > ? ORDER BY id LIMIT {_PAGE}", (after,))  # noqa: S608


def _problem(row: Row, number: int, prev: str) -> str | None:
    """What is wrong with the row that should follow row ``number``."""
    if row[0] != number + 1:
        return f"is missing; row {row[0]} follows row {number}" if row[0] > number else f"has the number {row[0]}"
    if row[6] != prev:
        return "does not follow from the row before it"
    try:
        expected = _hash(prev, row[:6])
    except (TypeError, ValueError):  # a value of a type that no row is written with
        return "was changed"
    return None if row[7] == expected else "was changed"


def _hash(prev: str, fields: Row) -> str:
    return hashlib.sha256(prev.encode() + orjson.dumps(fields)).hexdigest()


def _parse(head: str) -> tuple[int, str]:
    if re.fullmatch(r"\d{1,18}:[0-9a-f]{64}", head) is None:
        raise UsageError("a head looks like 42:<64 hex digits>", hint="`retinue audit verify` prints it.")
    number, _, row_hash = head.partition(":")
    return int(number), row_hash
