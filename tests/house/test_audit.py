"""The audit trail: whatever is done to a row is seen."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue import audit
from retinue.database.base import Transaction
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import UsageError

pytestmark = pytest.mark.anyio

COLUMNS = ("id", "ts", "run", "actor", "action", "body", "prev", "hash")


def add(n: int) -> Callable[[Transaction], str]:
    return lambda tx: audit.append(
        tx, actor="local||me", action="tool.call", run=f"run-{n}", body={"tool": "send", "arguments": audit.digest(n)}
    )


async def with_rows(count: int) -> SQLiteDatabase:
    db = await SQLiteDatabase.open(":memory:", clock=lambda: 1_700_000_000.123456)
    for n in range(count):
        await db.write(add(n))
    return db


async def test_an_untouched_trail_verifies(tmp_path: Path) -> None:
    db = await SQLiteDatabase.open(tmp_path / "x.db")
    for n in range(5):
        await db.write(add(n))
    report = await audit.verify(db)
    await db.close()
    assert (report.rows, report.ok, report.first_bad) == (5, True, None)
    db = await SQLiteDatabase.open(tmp_path / "x.db")
    again = await audit.verify(db, head=report.head)
    await db.write(add(5))
    later = await audit.verify(db, head=report.head)
    await db.close()
    assert again == report, "what is read back from the file hashes the same"
    assert (later.rows, later.ok) == (6, True), "a head of the past still fits"


async def test_an_empty_trail_verifies_and_fits_its_own_head() -> None:
    db = await with_rows(0)
    report = await audit.verify(db)
    assert report == await audit.verify(db, head=report.head)
    assert (report.rows, report.ok) == (0, True)


async def test_a_row_exists_only_if_its_transaction_commits() -> None:
    db = await with_rows(1)

    def fail(tx: Transaction) -> None:
        add(1)(tx)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await db.write(fail)
    await db.write(add(2))
    assert (await audit.verify(db)).rows == 2


async def test_rows_are_chained_within_one_transaction_too() -> None:
    db = await with_rows(0)
    await db.write(lambda tx: [add(n)(tx) for n in range(3)])
    assert (await audit.verify(db)).rows == 3


@st.composite
def tampering(draw: st.DrawFn) -> tuple[int, list[tuple[str, tuple[Any, ...]]]]:
    """A number of rows, and statements that touch what is in one row, remove it, or swap it with another."""
    count = draw(st.integers(2, 8))
    victim = draw(st.integers(1, count))
    kind = draw(st.sampled_from(["change", "remove", "swap", "insert", "renumber"]))
    if kind == "change":
        column = draw(st.sampled_from(COLUMNS[1:]))
        value = draw(
            st.one_of(st.text(max_size=8), st.integers(-5, 5), st.binary(max_size=8), st.floats(allow_nan=False))
        )
        return count, [(f"UPDATE audit SET {column} = ? WHERE id = ?", (value, victim))]
    if kind == "remove":
        # The last row is left out: a chain that ends early is whole, and only a head shows it.
        return count, [("DELETE FROM audit WHERE id = ?", (min(victim, count - 1),))]
    if kind == "insert":
        values = (draw(st.integers(-3, 0)), 0.0, None, "a", "b", "{}", audit.GENESIS, audit.GENESIS)
        return count, [(f"INSERT INTO audit ({', '.join(COLUMNS)}) VALUES (?,?,?,?,?,?,?,?)", values)]
    if kind == "renumber":
        return count, [("UPDATE audit SET id = id + ? WHERE id = ?", (draw(st.integers(10, 20)), victim))]
    other = draw(st.integers(1, count).filter(lambda n: n != victim))
    return count, [
        ("UPDATE audit SET id = -1 WHERE id = ?", (victim,)),
        ("UPDATE audit SET id = ? WHERE id = ?", (victim, other)),
        ("UPDATE audit SET id = ? WHERE id = -1", (other,)),
    ]


def rows_of(db: SQLiteDatabase) -> Any:
    return db.read(lambda tx: tx.all("SELECT * FROM audit ORDER BY id"))


@given(case=tampering())
def test_any_change_removal_or_swap_of_one_row_is_detected(
    case: tuple[int, list[tuple[str, tuple[Any, ...]]]],
) -> None:
    count, statements = case

    async def scenario() -> None:
        db = await with_rows(count)
        before = await rows_of(db)
        await db.write(lambda tx: [tx.execute(sql, values) for sql, values in statements])
        changed = await rows_of(db) != before
        report = await audit.verify(db)
        await db.close()
        assert report.ok is not changed, (statements, report)
        if changed:
            assert report.first_bad is not None
            assert report.rows == report.first_bad - 1

    asyncio.run(scenario())


async def test_a_trail_cut_off_at_its_end_is_seen_with_a_head() -> None:
    db = await with_rows(4)
    head = (await audit.verify(db)).head
    await db.write(lambda tx: tx.execute("DELETE FROM audit WHERE id > 2"))
    assert (await audit.verify(db)).ok, "without a head a shorter trail is whole"
    report = await audit.verify(db, head=head)
    assert (report.ok, report.rows, report.first_bad) == (False, 2, 3)
    assert "ends at row 2" in report.problem
    await db.write(add(7))
    await db.write(add(8))
    report = await audit.verify(db, head=head)
    assert (report.ok, report.first_bad) == (False, 4), "also when as many others were written in their place"


async def test_the_first_bad_row_is_named() -> None:
    db = await with_rows(5)
    await db.write(lambda tx: tx.execute("UPDATE audit SET actor = 'local||you' WHERE id = 3"))
    report = await audit.verify(db)
    assert (report.ok, report.rows, report.first_bad, report.problem) == (False, 2, 3, "row 3 was changed")


async def test_a_head_that_is_none_is_refused() -> None:
    db = await with_rows(1)
    with pytest.raises(UsageError, match="a head looks like"):
        await audit.verify(db, head="abc")


async def test_a_long_trail_is_walked_in_bounded_memory() -> None:
    db = await with_rows(0)
    body = {"note": "x" * 200}

    def fill(tx: Transaction) -> None:
        for _ in range(8000):
            audit.append(tx, actor="a", action="b", body=body)

    await db.write(fill)
    tracemalloc.start()
    try:
        report = await audit.verify(db)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (report.rows, report.ok) == (8000, True)
    assert peak < 3_000_000, "a fraction of the 5 MB that all rows take"


async def test_a_reader_can_check_the_chain_with_nothing_but_sqlite_and_sha256(tmp_path: Path) -> None:
    """The format is documented so that others can verify it: this is such a program."""
    from hashlib import sha256

    db = await SQLiteDatabase.open(tmp_path / "x.db")
    await db.write(lambda tx: audit.append(tx, actor="é", action="run.start", body={"b": 1, "a": [1.5, None]}))
    await db.write(add(1))
    await db.close()
    connection = sqlite3.connect(tmp_path / "x.db")
    prev = "0" * 64
    for *fields, stored_prev, stored in connection.execute("SELECT * FROM audit ORDER BY id"):
        row = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        assert stored_prev == prev
        assert stored == sha256((prev + row).encode()).hexdigest()
        prev = stored
    connection.close()


def test_digests_are_of_bytes_or_of_canonical_json() -> None:
    assert audit.digest({"b": 1, "a": 2}) == audit.digest({"a": 2, "b": 1})
    assert audit.digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert audit.digest("abc") != audit.digest(b"abc")
