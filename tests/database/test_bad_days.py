"""Files that cannot be opened, read or written: each a typed error that says what to do, and nothing lost."""

# ruff: noqa: ASYNC240  # small local files

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retinue.database import sqlite as engine
from retinue.database.errors import from_os, translate
from retinue.database.schema import APPLICATION_ID, check_is_ours, enter_wal, migrate, migrations
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import (
    DatabaseBusy,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
    SchemaTooNew,
)

from . import child as children
from .support import INSERT, Children, keys, put, raw

pytestmark = pytest.mark.anyio


async def filled(file: Path, rows: int = 40) -> None:
    database = await SQLiteDatabase.open(file)
    await database.write(lambda tx: tx.executemany(INSERT, [("r", f"{n:04}", bytes(3000)) for n in range(rows)]))
    await database.close()


async def opening(file: Path, **options: Any) -> DatabaseError:
    """The error of opening the file, which must leave it as it was."""
    before = file.read_bytes() if file.is_file() else None
    with pytest.raises(DatabaseError) as caught:
        await SQLiteDatabase.open(file, **options)
    error = caught.value
    assert error.hint
    assert str(file).replace("\0", "\\x00") in error.message
    if before is not None:
        assert file.read_bytes() == before
        assert [path.name for path in file.parent.iterdir() if path.name.startswith(f"{file.name}-")] == []
    return error


# Not a database of ours


@pytest.mark.parametrize("size", [2, 15, 100, 511, 512, 4096, 50_000])
async def test_noise_is_not_a_database(file: Path, size: int) -> None:
    file.write_bytes(os.urandom(size))
    assert type(await opening(file)) is DatabaseCorrupt


async def test_a_database_of_somebody_else_is_refused(file: Path) -> None:
    other = raw(file)
    other.execute("CREATE TABLE addresses (name)")
    other.close()
    error = await opening(file)
    assert type(error) is DatabaseCorrupt
    assert "not one of Retinue's" in error.message


async def test_a_database_of_another_application_is_refused_even_without_tables(file: Path) -> None:
    other = raw(file)
    other.execute("PRAGMA application_id=1196444487")
    other.close()
    assert type(await opening(file)) is DatabaseCorrupt


async def test_a_newer_schema_is_refused(file: Path) -> None:
    await filled(file, rows=1)
    newer = raw(file)
    newer.execute("PRAGMA user_version=999")
    newer.close()
    error = await opening(file)
    assert type(error) is SchemaTooNew
    assert "999" in error.message
    assert "Upgrade" in error.hint


async def test_an_empty_file_becomes_a_database(file: Path) -> None:
    file.touch()
    database = await SQLiteDatabase.open(file)
    await put(database, "a")
    await database.close()


# Damaged


async def test_a_header_that_was_overwritten_is_noticed_at_once(file: Path) -> None:
    await filled(file)
    data = bytearray(file.read_bytes())
    data[:64] = os.urandom(64)
    file.write_bytes(data)
    assert type(await opening(file)) is DatabaseCorrupt


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
async def test_a_truncated_file_is_damaged(file: Path, part: float) -> None:
    await filled(file)
    with file.open("r+b") as handle:
        handle.truncate(int(file.stat().st_size * part))
    await expect_damage(file)


async def test_a_page_that_was_overwritten_is_damaged(file: Path) -> None:
    await filled(file)
    connection = raw(file)
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'artifacts'").fetchall()
    connection.close()
    with file.open("r+b") as handle:
        handle.seek((page - 1) * 4096)
        handle.write(os.urandom(4096))
    await expect_damage(file)


async def expect_damage(file: Path) -> None:
    """Opening, reading or writing says that the file is damaged; the gate closes in order."""
    database: SQLiteDatabase | None = None
    found: list[DatabaseError] = []
    try:
        database = await SQLiteDatabase.open(file)
    except DatabaseError as error:
        found.append(error)
    if database is not None:
        with pytest.raises(DatabaseError) as reading:
            await database.read(lambda tx: tx.all("SELECT run, body FROM artifacts"))
        with pytest.raises(DatabaseError) as writing:
            await database.write(lambda tx: tx.execute("UPDATE artifacts SET body = zeroblob(3000)"))
        found += [reading.value, writing.value]
        await database.close()
    assert {type(error) for error in found} == {DatabaseCorrupt}
    assert "Restore a backup" in found[0].hint


# Not to be written


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of this machine can reach."""
    folder = Path(tempfile.mkdtemp(prefix="retinue-test-"))
    folder.chmod(0o777)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777)
    shutil.rmtree(folder)


async def test_what_a_user_may_not_write_is_read_only(open_folder: Path, child: Children) -> None:
    file, shut, hidden = open_folder / "file.db", open_folder / "shut", open_folder / "hidden.db"
    mine = open_folder / "mine.db"
    await filled(file, rows=1)
    await filled(hidden, rows=1)
    shut.mkdir()
    await filled(shut / "in.db", rows=1)
    (shut / "in.db").chmod(0o666)
    file.chmod(0o444)
    hidden.chmod(0o000)
    shut.chmod(0o555)
    paths = [file, hidden, shut / "in.db", shut / "new.db", shut / "deeper" / "new.db", mine]
    stranger = child(children.as_somebody_else, *paths)
    for path in paths[:-1]:
        said = stranger.hear()
        assert said["code"] == "database_read_only", (path, said)
        assert "permissions" in said["hint"]
    assert stranger.hear() is None
    stranger.finish()


async def test_paths_that_name_no_file_are_typed_errors(tmp_path: Path, file: Path) -> None:
    file.write_text("text")
    assert type(await opening(tmp_path)) is DatabaseReadOnly
    assert isinstance(await opening(file / "below.db"), DatabaseError)
    assert type(await opening(tmp_path / "a\0b.db")) is DatabaseReadOnly
    assert type(await opening(tmp_path / "missing.db", create=False)) is DatabaseReadOnly
    assert not (tmp_path / "missing.db").exists()


# Full


async def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_space(file: Path, child: Children) -> None:
    crowded = child(children.fill, file, 300_000)
    said = crowded.hear()
    assert said["error"]["code"] == "database_full"
    assert "space" in said["error"]["hint"]
    assert said["left"] == said["written"] > 0
    assert crowded.hear()["code"] == "database_full"
    assert crowded.hear() == said["written"] + 1
    crowded.finish()
    assert raw(file).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("flush", [False, True])
async def test_a_database_that_may_not_grow_is_full(database: SQLiteDatabase, flush: bool) -> None:
    await put(database, "a")
    (pages,) = await database.read(lambda tx: tx.all("PRAGMA page_count")[0])
    await database.write(lambda tx: tx.all(f"PRAGMA max_page_count={pages + 2}"))
    for _ in range(3):
        with pytest.raises(DatabaseFull) as caught:
            await database.write(lambda tx: tx.execute(INSERT, ("r", "b", bytes(100_000))), flush=flush)
        assert caught.value.details["sqlite"] == "SQLITE_FULL"
    assert await keys(database) == ["a"]
    await database.write(lambda tx: tx.all("PRAGMA max_page_count=100000"))
    await put(database, "b", bytes(100_000))
    assert await keys(database) == ["a", "b"]


# Busy


async def test_a_write_waits_for_another_process_and_gives_up_in_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.05)
    database = await SQLiteDatabase.open(file)
    await put(database, "a")
    other = raw(file)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseBusy) as caught:
        await put(database, "b")
    assert "try again" in caught.value.hint
    assert await keys(database) == ["a"]
    second = await SQLiteDatabase.open(file)  # opening a finished file needs no lock
    assert await keys(second) == ["a"]
    other.execute("ROLLBACK")
    await put(database, "b")
    assert await keys(second) == ["a", "b"]
    await second.close()
    await database.close()


async def test_opening_gives_up_in_time_on_a_file_that_somebody_holds(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT", 0.05)
    other = raw(file)
    for lock in ("BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"):
        other.execute(lock)
        with pytest.raises(DatabaseBusy):
            await SQLiteDatabase.open(file)
        other.execute("ROLLBACK")
    await (await SQLiteDatabase.open(file)).close()


class Meddled(sqlite3.Connection):
    """A connection beside which something happens before a statement."""

    before: dict[str, Callable[[], None]]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if meddle := self.before.get(sql.split()[0]):
            meddle()
        return super().execute(sql, parameters)


def test_tables_that_another_process_creates_during_the_check_are_not_taken_for_a_strangers(file: Path) -> None:
    other = sqlite3.connect(file, timeout=0, isolation_level=None)
    connection = sqlite3.connect(file, timeout=0, isolation_level=None, factory=Meddled)
    assert isinstance(connection, Meddled)

    def create() -> None:
        with contextlib.suppress(sqlite3.OperationalError):  # shut out, as it should be
            migrate(other, str(file))

    connection.before = {"SELECT": create}
    check_is_ours(connection, str(file))
    create()
    check_is_ours(connection, str(file))


def test_the_switch_to_wal_is_tried_again_while_another_process_writes(file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    connection = sqlite3.connect(file, timeout=0, isolation_level=None, factory=Meddled)
    assert isinstance(connection, Meddled)
    tries = 0

    def count() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            other.execute("ROLLBACK")

    connection.before = {"PRAGMA": count}
    enter_wal(connection, str(file), timeout=10)
    assert tries == 3
    connection.before = {}
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_system_without_wal_is_said(file: Path) -> None:
    in_memory = sqlite3.connect(":memory:")  # answers "memory"
    with pytest.raises(DatabaseError, match="write-ahead") as caught:
        enter_wal(in_memory, str(file), timeout=1)
    assert "local disk" in caught.value.hint


# Names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_FULL", DatabaseFull),
        ("SQLITE_IOERR_WRITE", DatabaseFull),
        ("SQLITE_IOERR_FSYNC", DatabaseFull),
        ("SQLITE_IOERR_SHMSIZE", DatabaseFull),
        ("SQLITE_READONLY_DIRECTORY", DatabaseReadOnly),
        ("SQLITE_CANTOPEN_ISDIR", DatabaseReadOnly),
        ("SQLITE_CORRUPT_INDEX", DatabaseCorrupt),
        ("SQLITE_NOTADB", DatabaseCorrupt),
        ("SQLITE_IOERR_SHORT_READ", DatabaseCorrupt),
        ("SQLITE_BUSY_SNAPSHOT", DatabaseBusy),
        ("SQLITE_IOERR_READ", DatabaseError),
        ("SQLITE_CONSTRAINT_CHECK", DatabaseError),
        ("", DatabaseError),
    ],
)
def test_each_of_sqlites_errors_has_its_class(name: str, kind: type[DatabaseError]) -> None:
    error = sqlite3.OperationalError("near 's3cret'")
    error.sqlite_errorname = name
    typed = translate(error, "/x/runs.db")
    assert type(typed) is kind
    assert "/x/runs.db" in typed.message
    assert "s3cret" not in typed.message + typed.hint


@pytest.mark.parametrize(
    ("number", "kind"), [(28, DatabaseFull), (13, DatabaseReadOnly), (30, DatabaseReadOnly), (5, DatabaseError)]
)
def test_each_of_the_systems_errors_has_its_class(number: int, kind: type[DatabaseError]) -> None:
    typed = from_os(OSError(number, os.strerror(number)), "/x/runs.db")
    assert type(typed) is kind
    assert typed.hint


# The schema


def test_migrations_are_numbered_from_one_without_gaps() -> None:
    assert [number for number, _ in migrations()] == list(range(1, len(migrations()) + 1))


async def test_a_file_is_marked_as_ours_and_with_its_schema(file: Path) -> None:
    await filled(file, rows=1)
    connection = raw(file)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (migrations()[-1][0],)


async def test_an_older_schema_is_brought_up_to_date(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(file, rows=1)
    later = [*migrations(), (99, "CREATE TABLE extra (a TEXT); -- a comment; with a semicolon\nCREATE TABLE more (b)")]
    monkeypatch.setattr("retinue.database.schema.migrations", lambda: later)
    database = await SQLiteDatabase.open(file)
    assert await database.read(lambda tx: tx.all("SELECT * FROM extra, more")) == []
    assert await keys(database) == ["0000"]
    await database.close()
    monkeypatch.undo()
    assert type(await opening(file)) is SchemaTooNew


async def test_a_migration_that_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(file, rows=1)
    later = [*migrations(), (99, "CREATE TABLE extra (a TEXT);\nSELEKT 1;")]
    monkeypatch.setattr("retinue.database.schema.migrations", lambda: later)
    assert isinstance(await opening(file), DatabaseError)
    monkeypatch.undo()
    database = await SQLiteDatabase.open(file)
    assert await keys(database) == ["0000"]
    await database.close()


# Files


@pytest.mark.parametrize("umask", [0o000, 0o077])
async def test_only_its_owner_can_read_what_the_database_writes(tmp_path: Path, umask: int) -> None:
    file = tmp_path / "new" / "deep" / "runs.db"
    before = os.umask(umask)
    try:
        database = await SQLiteDatabase.open(file)
        await put(database, "a")
        assert database.owner
        found = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*")}
        assert {path.name.rpartition("-")[2] for path in found} >= {"runs.db", "wal", "shm", "owners"}
        if sys.platform != "win32":
            assert {mode for path, mode in found.items() if path.is_file()} == {0o600}
            assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}
        await database.close()
    finally:
        os.umask(before)
