"""The index file: shared by processes, damaged, of another version, of another program."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import anyio
import pytest

from retinue.errors import ConfigError, DatabaseError
from retinue.mcp_servers.knowledge import Library, default_index, store
from retinue.system import WINDOWS

pytestmark = pytest.mark.anyio

CHILD = """
import sys, anyio
from pathlib import Path
from retinue.mcp_servers.knowledge import Library

async def main():
    async with await Library.open([Path(sys.argv[1])], index=Path(sys.argv[2])) as library:
        report = await library.refresh()
        hits = await library.search("river", limit=50)
        print(report.model_copy(update={"notices": [str(len(hits))]}).model_dump_json())

anyio.run(main)
"""


def fill(folder: Path, count: int) -> None:
    for i in range(count):
        (folder / f"{i:03}.md").write_text(f"# Part {i}\n\nThe river number {i} flows.\n\n" + "word " * 300)


def check(index: Path) -> None:
    connection = sqlite3.connect(index)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO terms (terms) VALUES ('integrity-check')")
        assert (
            connection.execute("SELECT count(*) FROM terms").fetchone()
            == connection.execute("SELECT count(*) FROM passages").fetchone()
        )
    finally:
        connection.close()


async def test_processes_that_index_at_the_same_time_make_one_index(folder: Path, tmp_path: Path) -> None:
    fill(folder, 40)
    index = tmp_path / "index.db"
    reports: list[dict[str, object]] = []

    async def child() -> None:
        done = await anyio.run_process([sys.executable, "-W", "error", "-c", CHILD, str(folder), str(index)])
        reports.append(json.loads(done.stdout))

    with anyio.fail_after(60):
        async with await Library.open([folder], index=index, refresh_after=0) as library:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child)
                tasks.start_soon(child)
                while len(reports) < 2:
                    assert len(await library.search("river", limit=50)) == 40
                    await anyio.lowlevel.checkpoint()
            assert len(await library.list_documents()) == 40
    assert [report["notices"] for report in reports] == [["40"], ["40"]]
    check(index)


async def test_what_one_process_takes_in_another_finds(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.db"
    async with (
        await Library.open([folder], index=index, refresh_after=None) as reader,
        await Library.open([folder], index=index, refresh_after=None) as writer,
    ):
        assert await reader.search("river") == []
        (folder / "a.md").write_text("river")
        await writer.refresh()
        assert [hit.text for hit in await reader.search("river")] == ["river"]


def garbage(index: Path) -> None:
    index.write_bytes(b"this is no database " * 500)


def header(index: Path) -> None:
    data = bytearray(index.read_bytes())
    data[:100] = b"\0" * 100
    index.write_bytes(data)


def middle(index: Path) -> None:
    data = bytearray(index.read_bytes())
    for page in range(2, len(data) // 4096):  # all but the schema
        data[page * 4096 : page * 4096 + 2048] = b"\xff" * 2048
    index.write_bytes(data)


def truncated(index: Path) -> None:
    index.write_bytes(index.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [garbage, header, middle, truncated])
async def test_a_damaged_index_is_put_aside_and_built_again_with_a_notice(
    folder: Path, tmp_path: Path, damage: object
) -> None:
    assert callable(damage)
    fill(folder, 10)
    index = tmp_path / "index.db"
    async with await Library.open([folder], index=index) as library:
        await library.refresh()
    damage(index)
    async with await Library.open([folder], index=index) as library:
        assert len(await library.search("river", limit=50)) == 10
        assert any("damaged" in notice for notice in library.report.notices)
        assert (await library.read("000.md")).text.startswith("# Part 0")
    assert (tmp_path / "index.db.damaged").exists()
    check(index)


async def test_damage_under_an_open_library_is_mended_at_the_next_call(folder: Path, tmp_path: Path) -> None:
    fill(folder, 10)
    index = tmp_path / "index.db"
    async with await Library.open([folder], index=index, refresh_after=None) as library:
        await library.refresh()
        connection = sqlite3.connect(index)
        connection.execute("DROP TABLE passages")
        connection.close()
        assert len(await library.search("river", limit=50)) == 10
        assert (await library.read("003.md")).length > 100
        assert any("damaged" in notice for notice in library.report.notices)


async def test_an_index_of_another_version_is_built_again_with_a_notice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, 3)
    index = tmp_path / "index.db"
    with monkeypatch.context() as patch:
        patch.setattr(store, "FORMAT", "0.0")
        async with await Library.open([folder], index=index) as library:
            await library.refresh()
    async with await Library.open([folder], index=index) as library:
        report = await library.refresh()
        assert report.added == 3
        assert any("another version" in notice for notice in report.notices)
    async with await Library.open([folder], index=index) as library:
        assert (await library.refresh()).notices == []


async def test_the_index_of_another_library_is_refused(folder: Path, tmp_path: Path) -> None:
    index, other = tmp_path / "index.db", tmp_path / "other"
    other.mkdir()
    await (await Library.open([folder], index=index)).aclose()
    with pytest.raises(ConfigError, match="belongs to other folders"):
        await Library.open([other], index=index)
    await (await Library.open([folder], index=index)).aclose()


async def test_the_database_of_another_program_is_left_alone(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        await Library.open([folder], index=path)
    assert path.read_bytes() == before


async def test_an_index_that_cannot_be_made_is_a_typed_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be made"):
        await Library.open([folder], index=tmp_path / "file/index.db")
    (tmp_path / "directory.db").mkdir()
    with pytest.raises((ConfigError, DatabaseError)):
        await Library.open([folder], index=tmp_path / "directory.db")


async def test_others_cannot_read_the_index(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "cache/index.db"
    async with await Library.open([folder], index=index) as library:
        await library.refresh()
        modes = {path.stat().st_mode & 0o077 for path in [index.parent, *index.parent.glob("index.db*")]}
    assert WINDOWS or modes == {0}


async def test_the_default_index_belongs_to_its_folders(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    paths = {default_index([folder]), default_index([other]), default_index([folder, other])}
    assert len(paths) == 3
    assert default_index([folder, other]) == default_index([str(folder), other / "../other"])
    assert all(path.is_relative_to(tmp_path / "home") for path in paths)
