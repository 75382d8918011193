"""The one gate: what a unit of work sees, what is kept of it, and who hears of it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint as turn_of_the_loop

from retinue.database.base import Database, Transaction
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import DatabaseError, DatabaseReadOnly, LeaseLost

from .support import INSERT, keys, put, raw

pytestmark = pytest.mark.anyio


def insert(tx: Transaction, key: str) -> None:
    tx.execute(INSERT, ("r", key, b""))


async def test_it_is_a_database(database: SQLiteDatabase) -> None:
    port: Database = database
    assert port.url.startswith(("sqlite:///", ":memory:"))


async def test_a_unit_of_work_returns_what_it_computed(database: SQLiteDatabase) -> None:
    assert await database.write(lambda tx: (insert(tx, "a"), tx.execute(INSERT, ("r", "b", b"")))) == (None, 1)
    assert await database.read(lambda tx: tx.one("SELECT count(*) FROM artifacts")) == (2,)
    assert await database.read(lambda tx: tx.one("SELECT id FROM artifacts WHERE id = 'x'")) is None
    assert await database.write(lambda tx: tx.one("DELETE FROM artifacts WHERE id = 'a' RETURNING id")) == ("a",)
    assert await database.write(lambda tx: tx.execute("DELETE FROM artifacts")) == 1
    await database.write(lambda tx: tx.executemany(INSERT, [("r", str(n), b"") for n in range(3)]))
    assert await keys(database) == ["0", "1", "2"]


class Abort(BaseException):
    """Not an `Exception`, like a cancellation."""


@pytest.mark.parametrize("error", [LeaseLost("gone"), ValueError("no"), Abort(), StopIteration()], ids=repr)
async def test_an_error_undoes_the_whole_unit(database: SQLiteDatabase, error: BaseException) -> None:
    def work(tx: Transaction) -> None:
        insert(tx, "a")
        raise error

    with anyio.fail_after(5), pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
        await database.write(work)
    assert await keys(database) == []
    await put(database, "b")
    assert await keys(database) == ["b"]


async def test_an_error_of_sqlite_is_typed_and_undoes_the_whole_unit(database: SQLiteDatabase) -> None:
    def twice(tx: Transaction) -> None:
        insert(tx, "a")
        insert(tx, "a")

    with pytest.raises(DatabaseError) as caught:
        await database.write(twice)
    assert caught.value.details["sqlite"] == "SQLITE_CONSTRAINT_PRIMARYKEY"
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    for wrong in ("SELEKT", "SELECT * FROM nowhere", "INSERT INTO artifacts VALUES (?)"):
        with pytest.raises(DatabaseError):
            await database.write(lambda tx, wrong=wrong: tx.execute(wrong))
        with pytest.raises(DatabaseError):
            await database.read(lambda tx, wrong=wrong: tx.all(wrong))
    assert await keys(database) == []


async def test_a_read_may_not_write(database: SQLiteDatabase) -> None:
    with pytest.raises(DatabaseReadOnly):
        await database.read(lambda tx: insert(tx, "a"))
    await put(database, "b")


@pytest.mark.parametrize("place", [":memory:", "runs.db"])
async def test_time_stands_still_inside_a_transaction(place: str, tmp_path: Path) -> None:
    ticks = count(1)
    database = await SQLiteDatabase.open(
        place if place == ":memory:" else tmp_path / place, clock=lambda: float(next(ticks))
    )
    assert await database.write(lambda tx: (tx.now, tx.now)) == (1.0, 1.0)
    assert await database.read(lambda tx: (tx.now, tx.now)) == (2.0, 2.0)
    await database.close()


@pytest.mark.parametrize("place", [":memory:", "runs.db"])
async def test_a_clock_that_goes_backwards_changes_nothing_but_the_time(place: str, tmp_path: Path) -> None:
    times = iter([1000.0, 900.0, 950.0])
    database = await SQLiteDatabase.open(place if place == ":memory:" else tmp_path / place, clock=lambda: next(times))
    heard: list[str] = []

    def note(tx: Transaction, key: str) -> float:
        insert(tx, key)
        tx.after_commit(lambda: heard.append(key))
        return tx.now

    assert [await database.write(lambda tx, key=key: note(tx, key)) for key in "abc"] == [1000.0, 900.0, 950.0]
    assert heard == ["a", "b", "c"]
    await database.close()


# After the commit


async def test_calls_after_commits_come_in_the_order_of_the_commits(database: SQLiteDatabase) -> None:
    heard: list[str] = []

    def work(tx: Transaction, key: str) -> None:
        (seq,) = tx.all("SELECT count(*) FROM artifacts")[0]
        insert(tx, key)
        tx.after_commit(lambda: heard.append(f"{seq} {key}"))
        tx.after_commit(lambda: heard.append(f"{seq} again"))

    async with anyio.create_task_group() as group:
        for n in range(40):
            group.start_soon(lambda key=f"{n}": database.write(lambda tx: work(tx, key)))
    assert [line.split()[0] for line in heard] == [str(seq) for seq in range(40) for _ in range(2)]
    assert heard[1] == "0 again"


async def test_a_caller_goes_on_after_the_calls(database: SQLiteDatabase) -> None:
    heard: list[str] = []
    await database.write(lambda tx: tx.after_commit(lambda: heard.append(threading.current_thread().name)))
    assert heard == [threading.main_thread().name]


async def test_a_rollback_calls_nobody(database: SQLiteDatabase) -> None:
    heard: list[str] = []

    def work(tx: Transaction) -> None:
        tx.after_commit(lambda: heard.append("no"))
        raise LeaseLost("gone")

    with pytest.raises(LeaseLost):
        await database.write(work)
    await put(database, "a")
    assert heard == []


async def test_a_call_that_fails_takes_neither_the_commit_nor_the_others_along(
    database: SQLiteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    def work(tx: Transaction) -> str:
        insert(tx, "a")
        tx.after_commit(lambda: heard.append("first"))
        tx.after_commit(fail)
        tx.after_commit(lambda: heard.append("last"))
        return "done"

    with anyio.fail_after(5), caplog.at_level(logging.ERROR, "retinue.database"):
        assert await database.write(work) == "done"
    assert heard == ["first", "last"]
    assert "the commit stands" in caplog.text
    assert await keys(database) == ["a"]


# Threads, snapshots, cancellation: on a file


class Pause:
    """Holds a unit of work in the middle until the test says so."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def here(self) -> None:
        self.reached.set()
        assert self.go.wait(10)

    async def wait(self) -> None:
        with anyio.fail_after(10):
            await asyncio.to_thread(self.reached.wait)


async def test_a_read_sees_a_snapshot_while_a_write_is_under_way(on_file: SQLiteDatabase) -> None:
    pause = Pause()

    def work(tx: Transaction) -> None:
        insert(tx, "a")
        pause.here()

    async with anyio.create_task_group() as group:
        group.start_soon(on_file.write, work)
        await pause.wait()
        with anyio.fail_after(5):
            assert await keys(on_file) == []
        pause.go.set()
    assert await keys(on_file) == ["a"]


async def test_all_of_a_read_sees_one_snapshot(on_file: SQLiteDatabase) -> None:
    pause = Pause()
    seen: list[Any] = []

    def look(tx: Transaction) -> None:
        seen.append(tx.all("SELECT id FROM artifacts"))
        pause.here()
        seen.append(tx.all("SELECT id FROM artifacts"))

    async with anyio.create_task_group() as group:
        group.start_soon(on_file.read, look)
        await pause.wait()
        await put(on_file, "a")
        pause.go.set()
    assert seen == [[], []]
    assert await keys(on_file) == ["a"]


async def test_a_cancelled_callers_write_still_commits(on_file: SQLiteDatabase) -> None:
    pause = Pause()
    heard: list[str] = []

    def work(tx: Transaction) -> None:
        insert(tx, "a")
        tx.after_commit(lambda: heard.append("a"))
        pause.here()

    async with anyio.create_task_group() as group:
        group.start_soon(on_file.write, work)
        await pause.wait()
        group.cancel_scope.cancel()
    assert raw(Path(on_file.url.removeprefix("sqlite:///"))).execute("SELECT id FROM artifacts").fetchall() == []
    pause.go.set()
    await put(on_file, "b")
    assert await keys(on_file) == ["a", "b"]
    assert heard == ["a"]


async def test_a_write_that_fails_after_its_caller_was_cancelled_is_logged(
    on_file: SQLiteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    pause = Pause()

    def work(tx: Transaction) -> None:
        insert(tx, "a")
        pause.here()
        raise LeaseLost("gone")

    with caplog.at_level(logging.WARNING, "retinue.database"):
        async with anyio.create_task_group() as group:
            group.start_soon(on_file.write, work)
            await pause.wait()
            group.cancel_scope.cancel()
        pause.go.set()
        await put(on_file, "b")
    assert "LeaseLost" in caplog.text
    assert await keys(on_file) == ["b"]


async def test_cancelling_at_any_moment_leaves_whole_units(on_file: SQLiteDatabase) -> None:
    def pair(tx: Transaction, key: str) -> None:
        insert(tx, f"{key}.1")
        insert(tx, f"{key}.2")

    for turns in range(30):
        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(lambda key=f"{turns:02}.{n}": on_file.write(lambda tx: pair(tx, key)))
            for _ in range(turns % 7):
                await turn_of_the_loop()
            group.cancel_scope.cancel()
    found = await keys(on_file)
    assert [key[:-2] for key in found if key.endswith(".1")] == [key[:-2] for key in found if key.endswith(".2")]


async def test_flush_commits_with_full_synchronisation_and_only_that_write(on_file: SQLiteDatabase) -> None:
    def level(tx: Transaction) -> int:
        insert(tx, f"{len(tx.all('SELECT id FROM artifacts')):03}")
        return tx.all("PRAGMA synchronous")[0][0]

    normal, full = 1, 2
    for _ in range(3):
        assert await on_file.write(level, flush=True) == full
        assert await on_file.write(level) == normal
    with pytest.raises(DatabaseError):
        await on_file.write(lambda tx: tx.execute("SELEKT"), flush=True)
    assert await on_file.write(level) == normal
    assert await on_file.read(lambda tx: tx.all("PRAGMA journal_mode")) == [("wal",)]


# Closing


async def test_close_finishes_the_writes_in_the_queue(file: Path) -> None:
    database = await SQLiteDatabase.open(file)
    writes = [asyncio.ensure_future(put(database, f"{n:02}")) for n in range(30)]
    await turn_of_the_loop()
    await database.close()
    await asyncio.gather(*writes)
    reopened = await SQLiteDatabase.open(file)
    assert len(await keys(reopened)) == 30
    await reopened.close()
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


async def test_close_waits_for_the_write_that_is_under_way(on_file: SQLiteDatabase) -> None:
    pause = Pause()

    def work(tx: Transaction) -> None:
        insert(tx, "a")
        pause.here()

    writing = asyncio.ensure_future(on_file.write(work))
    await pause.wait()
    closing = asyncio.ensure_future(on_file.close())
    for _ in range(50):
        await turn_of_the_loop()
    assert not closing.done()
    pause.go.set()
    with anyio.fail_after(5):
        await asyncio.gather(writing, closing)
    assert raw(Path(on_file.url.removeprefix("sqlite:///"))).execute("SELECT id FROM artifacts").fetchall() == [("a",)]


async def test_a_closed_database_says_so(database: SQLiteDatabase) -> None:
    await database.close()
    await database.close()
    for attempt in (put(database, "a"), keys(database)):
        with pytest.raises(DatabaseError, match="closed"):
            await attempt


def test_a_write_whose_loop_has_ended_stands(file: Path) -> None:
    pause = Pause()

    def work(tx: Transaction) -> None:
        insert(tx, "a")
        pause.here()

    async def leave() -> SQLiteDatabase:
        database = await SQLiteDatabase.open(file)
        abandoned = asyncio.ensure_future(database.write(work))
        await pause.wait()
        abandoned.cancel()
        return database

    database = asyncio.run(leave())
    pause.go.set()
    asyncio.run(database.close())
    assert raw(file).execute("SELECT id FROM artifacts").fetchall() == [("a",)]
