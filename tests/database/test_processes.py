"""Several processes on one file, and processes that die on it."""

# ruff: noqa: ASYNC240  # small local files

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from retinue.database.sqlite import SQLiteDatabase

from . import child as children
from .support import INSERT, Children, keys, put, raw

pytestmark = pytest.mark.anyio


async def test_processes_that_create_one_file_at_once_all_find_it_whole(tmp_path: Path, child: Children) -> None:
    files = [tmp_path / f"{n}.db" for n in range(12)]
    openers = [child(children.open_many, *files) for _ in range(4)]
    for _ in files:
        for opener in openers:
            opener.tell()
        assert [opener.hear() for opener in openers] == ["done"] * 4
    for opener in openers:
        opener.finish()
    for file in files:
        connection = raw(file)
        assert connection.execute("SELECT count(*) FROM artifacts").fetchone() == (4,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


async def test_processes_that_write_at_once_lose_no_write(on_file: SQLiteDatabase, file: Path, child: Children) -> None:
    await on_file.write(lambda tx: tx.execute(INSERT, ("counter", "", b"0")))
    writers = [child(children.increment, file, 150) for _ in range(3)]
    assert [writer.hear() for writer in writers] == ["ready"] * 3
    for writer in writers:
        writer.tell()
    for n in range(50):
        await put(on_file, f"{n:02}")
    for writer in writers:
        writer.finish()
    assert await on_file.read(lambda tx: tx.all("SELECT body FROM artifacts WHERE run = 'counter'")) == [(b"450",)]
    assert len(await keys(on_file)) == 51


async def test_a_writer_killed_in_a_transaction_leaves_the_file_as_after_its_last_commit(
    file: Path, child: Children
) -> None:
    for round_ in range(2):
        writer = child(children.hang_in_a_transaction, file)
        owner = writer.hear()
        reader = await SQLiteDatabase.open(file)
        assert reader.alive(owner) is True
        assert await reader.read(lambda tx: tx.all("SELECT run FROM artifacts WHERE run <> 'r'")) == [("committed",)]
        writer.kill()
        assert reader.alive(owner) is False
        with anyio.fail_after(5):
            await reader.write(lambda tx: tx.execute("DELETE FROM artifacts WHERE run = 'committed'"))
            await put(reader, f"{round_}")
        assert await keys(reader) == [str(n) for n in range(round_ + 1)]
        assert await reader.read(lambda tx: tx.all("PRAGMA integrity_check")) == [("ok",)]
        await reader.close()


async def test_an_owner_lives_as_long_as_its_process(on_file: SQLiteDatabase, file: Path, child: Children) -> None:
    first, second = child(children.own, file), child(children.own, file)
    names = first.hear(), second.hear()
    assert len({*names, on_file.owner}) == 3
    assert [on_file.alive(name) for name in names] == [True, True]
    first.kill()
    assert [on_file.alive(name) for name in names] == [False, True]
    second.tell()
    second.finish()
    assert [on_file.alive(name) for name in names] == [False, False]
    assert on_file.alive(on_file.owner) is True


async def test_a_new_owner_clears_what_killed_ones_left(file: Path, child: Children) -> None:
    gone = child(children.own, file)
    name = gone.hear()
    gone.kill()
    locks = Path(f"{file}-owners")
    assert [path.stem for path in locks.iterdir()] == [name]
    database = await SQLiteDatabase.open(file)
    owner = database.owner
    assert [path.stem for path in locks.iterdir()] == [owner]
    assert database.alive(name) is False
    await database.close()
    assert list(locks.iterdir()) == []


async def test_an_owner_is_only_locked_once_it_is_asked_for(on_file: SQLiteDatabase, file: Path) -> None:
    await put(on_file, "a")
    assert not Path(f"{file}-owners").exists()
    assert on_file.owner == on_file.owner
    other = await SQLiteDatabase.open(file)
    assert other.alive(on_file.owner) is True
    await other.close()


async def test_owners_of_one_database_know_each_other_through_any_link(
    on_file: SQLiteDatabase, file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(file)
    other = await SQLiteDatabase.open(link)
    assert other.alive(on_file.owner) is True
    assert other.url == on_file.url
    await other.close()


async def test_nothing_is_known_of_owners_in_memory_nor_of_names_that_are_paths(on_file: SQLiteDatabase) -> None:
    database = await SQLiteDatabase.open(":memory:")
    assert database.alive(database.owner) is True
    assert database.alive(on_file.owner) is None
    assert on_file.alive("../runs") is None
    assert on_file.alive("nobody.1.abcd") is False
    await database.close()


if sys.platform != "win32":

    async def test_a_lock_that_may_not_be_read_tells_nothing(
        on_file: SQLiteDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("retinue.database.sqlite.is_held", refuse)
        assert on_file.alive("somebody.1.abcd") is None
