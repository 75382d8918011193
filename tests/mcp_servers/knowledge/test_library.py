from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from retinue.errors import ConfigError, InvalidInput
from retinue.mcp_servers.knowledge import IndexReport, Library, Limits, Progress, reading
from retinue.mcp_servers.knowledge.scan import read_bytes

from .pdfs import pdf

pytestmark = pytest.mark.anyio

OLD = 1_600_000_000  # long before any test


def write(folder: Path, files: dict[str, str], *, age: int = OLD) -> None:
    """Files that were written long ago: whether they changed shows in their size and time."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        os.utime(path, (age, age))


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.removed, report.unchanged


async def texts(library: Library, query: str) -> list[str]:
    return [hit.text for hit in await library.search(query)]


# Reading


@pytest.mark.parametrize("name", ["a.md", "a.txt"])
async def test_read_gives_the_files_own_text(folder: Path, name: str) -> None:
    text = "\ufeff# Tïtle\r\n\r\nA\u2028line 😀.\r\n" + "word " * 1000 + "\n\n"
    write(folder, {name: text})
    async with await Library.open([folder]) as library:
        passage = await library.read(name)
    assert passage.text == text == (folder / name).read_bytes().decode("utf-8")
    assert (passage.start, passage.end, passage.length) == (0, len(text), len(text))


async def test_a_part_is_the_slice_of_the_whole_at_every_offset(folder: Path) -> None:
    text = "\n\n# A\n\nb\n\n## C\n\n" + "d " * 1500 + "\n\n# E\n\nf\n\n"
    write(folder, {"a.md": text})
    async with await Library.open([folder]) as library:
        length = len(text)
        for start, end in [(0, 5), (3, 3), (7, 1200), (1100, 2300), (length - 5, length), (0, 0), (2000, None)]:
            passage = await library.read("a.md", start=start, end=end)
            assert passage.text == text[start:end]
            assert (passage.start, passage.end, passage.length) == (start, length if end is None else end, length)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(-5, 2, (0, 2)), (2, 10**30, (2, 4)), (3, 1, (1, 1)), (10**30, None, (4, 4)), (0, -1, (0, 0))],
)
async def test_offsets_are_brought_into_the_document(
    folder: Path, start: int, end: int | None, expected: tuple[int, int]
) -> None:
    write(folder, {"a.md": "abcd"})
    async with await Library.open([folder]) as library:
        passage = await library.read("a.md", start=start, end=end)
    assert (passage.start, passage.end) == expected
    assert passage.text == "abcd"[slice(*expected)]


@pytest.mark.parametrize(
    "document", ["", "..", "../secret.md", "/etc/passwd", "sub/../a.md", "a.md\0", "A.MD", "\ud800"]
)
async def test_only_the_id_of_a_document_opens_it(folder: Path, tmp_path: Path, document: str) -> None:
    write(tmp_path, {"secret.md": "secret"})
    write(folder, {"a.md": "text", "sub/b.md": "text"})
    async with await Library.open([folder]) as library:
        with pytest.raises(InvalidInput, match="no document"):
            await library.read(document)


async def test_every_hit_is_the_text_at_its_offsets(library: Library) -> None:
    documents = {info.document: (await library.read(info.document)).text for info in await library.list_documents()}
    found = 0
    for query in ("refund request", "lease", "webhook retried", "reactor turbine", "Kündigung", "返金", "年假"):
        for hit in await library.search(query):
            assert documents[hit.document][hit.start : hit.end] == hit.text
            found += 1
    assert found > 10


async def test_documents_are_listed_with_their_hash(library: Library, corpus: Path) -> None:
    listed = {info.document: info for info in await library.list_documents()}
    assert list(listed) == sorted(listed)
    info = listed["notes/coffee.txt"]
    assert (info.title, info.media_type) == ("Coffee machine", "text/plain")
    assert info.length == len((corpus / "notes/coffee.txt").read_bytes())
    assert len(info.sha256) == 64
    assert {info.media_type for info in listed.values()} == {
        "text/plain",
        "text/markdown",
        "text/html",
        "application/pdf",
    }


# Changes


async def test_a_refresh_takes_in_what_was_added_changed_and_removed(folder: Path) -> None:
    write(folder, {"stays.md": "a stone", "changes.md": "a river", "goes.md": "a cloud"})
    async with await Library.open([folder], refresh_after=None) as library:
        assert counts(await library.refresh()) == (3, 0, 0, 0)
        write(folder, {"changes.md": "a mountain", "new.md": "a forest"})
        (folder / "goes.md").unlink()
        assert counts(await library.refresh()) == (1, 1, 1, 1)
        assert await texts(library, "river") == await texts(library, "cloud") == []
        assert await texts(library, "mountain forest stone") != []
        assert [info.document for info in await library.list_documents()] == ["changes.md", "new.md", "stays.md"]
        assert counts(await library.refresh()) == (0, 0, 0, 3)


async def test_unchanged_files_are_not_opened_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, {"a.md": "one", "b.md": "two"})
    opened: list[str] = []

    def recording(entry: reading.Entry, limit: int) -> bytes:
        opened.append(entry.document)
        return read_bytes(entry, limit)

    monkeypatch.setattr(reading, "read_bytes", recording)
    async with await Library.open([folder]) as library:
        await library.refresh()
        write(folder, {"b.md": "three"}, age=OLD + 60)
        await library.refresh()
    assert opened == ["a.md", "b.md", "b.md"]


async def test_a_file_that_was_only_touched_is_unchanged(folder: Path) -> None:
    write(folder, {"a.md": "one"})
    async with await Library.open([folder]) as library:
        await library.refresh()
        write(folder, {"a.md": "one"}, age=OLD + 60)
        assert counts(await library.refresh()) == (0, 0, 0, 1)


async def test_a_change_within_the_clocks_grain_is_noticed(folder: Path) -> None:
    async with await Library.open([folder]) as library:
        (folder / "a.md").write_text("one")
        await library.refresh()
        stamp = (folder / "a.md").stat().st_mtime_ns
        (folder / "a.md").write_text("two")
        os.utime(folder / "a.md", ns=(stamp, stamp))
        assert counts(await library.refresh()) == (0, 1, 0, 0)


async def test_a_search_looks_for_changes_when_the_last_look_is_old(folder: Path) -> None:
    write(folder, {"a.md": "river"})
    async with await Library.open([folder], refresh_after=0) as eager, await Library.open([folder]) as lazy:
        assert len(await texts(eager, "river")) == len(await texts(lazy, "river")) == 1
        write(folder, {"b.md": "river delta"})
        assert len(await texts(eager, "river")) == 2
        assert len(await texts(lazy, "river")) == 1


async def test_a_kept_index_needs_no_reading_in_the_next_process(folder: Path, tmp_path: Path) -> None:
    write(folder, {"a.md": "river", "b.pdf": ""})
    index = tmp_path / "cache/library.db"
    async with await Library.open([folder], index=index) as library:
        assert counts(await library.refresh()) == (1, 0, 0, 0)
    async with await Library.open([folder], index=index) as library:
        report = await library.refresh()
        assert counts(report) == (0, 0, 0, 1)
        assert [skipped.reason for skipped in report.skipped] == ["damaged"]
        assert await texts(library, "river") == ["river"]


async def test_several_folders_are_one_library(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.md": "river", "two/a.md": "river bank"})
    async with await Library.open([tmp_path / "one", tmp_path / "two"]) as library:
        assert {hit.document for hit in await library.search("river")} == {"one/a.md", "two/a.md"}
        assert (await library.read("two/a.md")).text == "river bank"


# What is skipped


async def test_all_that_is_skipped_is_listed_with_its_reason(folder: Path) -> None:
    write(folder, {"good.md": "text", "empty.md": "", "big.txt": "x" * 3001, "code.py": "x"})
    (folder / "latin.md").write_bytes(b"caf\xe9")
    (folder / "zero.txt").write_bytes(b"a\0b")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\0")
    (folder / "locked.pdf").write_bytes(pdf([["x"]], encrypted=True))
    (folder / "scan.pdf").write_bytes(pdf([[]]))
    (folder / "loop").symlink_to(folder)
    async with await Library.open([folder], limits=Limits(file_bytes=3000)) as library:
        report = await library.refresh()
        assert counts(report) == (1, 0, 0, 0)
        assert [(skipped.path, skipped.reason) for skipped in report.skipped] == [
            ("big.txt", "too_large"),
            ("code.py", "unsupported"),
            ("empty.md", "empty"),
            ("latin.md", "encoding"),
            ("locked.pdf", "encrypted"),
            ("loop", "symlink_loop"),
            ("photo.jpg", "binary"),
            ("scan.pdf", "no_text"),
            ("zero.txt", "binary"),
        ]
        assert all(skipped.detail for skipped in report.skipped)
        assert (await library.refresh()).skipped == report.skipped
        assert library.report.skipped == report.skipped


async def test_a_skipped_file_that_is_mended_is_added_and_one_that_breaks_is_removed(folder: Path) -> None:
    write(folder, {"a.md": "river", "b.md": ""})
    async with await Library.open([folder]) as library:
        assert counts(await library.refresh()) == (1, 0, 0, 0)
        write(folder, {"a.md": "", "b.md": "mountain"})
        report = await library.refresh()
        assert counts(report) == (1, 0, 1, 0)
        assert [skipped.path for skipped in report.skipped] == ["a.md"]
        assert await texts(library, "river") == []
        assert await texts(library, "mountain") == ["mountain"]


async def test_a_file_that_vanishes_between_scan_and_reading_is_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, {"a.md": "river", "b.md": "river"})

    def vanishing(entry: reading.Entry, limit: int) -> bytes:
        if entry.document == "a.md":
            entry.path.unlink(missing_ok=True)
        return read_bytes(entry, limit)

    monkeypatch.setattr(reading, "read_bytes", vanishing)
    async with await Library.open([folder]) as library:
        report = await library.refresh()
    assert counts(report) == (1, 0, 0, 0)
    assert [(skipped.path, skipped.reason) for skipped in report.skipped] == [("a.md", "unreadable")]
    assert str(folder) not in report.skipped[0].detail


# Progress, concurrency, cancellation


async def test_progress_is_told_from_the_start_to_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SLICE", 0.0)
    write(folder, {f"{i}.md": "text" for i in range(4)})
    told: list[Progress] = []
    async with await Library.open([folder], on_progress=told.append) as library:
        await library.refresh()
        assert [(p.done, p.total) for p in told] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
        assert told[-1].document == "3.md"
        told.clear()
        await library.refresh()
        assert [p.total for p in told if p.done == 0] in ([], [4])  # files this young may be looked at again


async def test_searches_at_the_same_time_share_one_refresh(folder: Path) -> None:
    write(folder, {f"{i}.md": f"river {i}" for i in range(20)})
    starts: list[Progress] = []

    def count(progress: Progress) -> None:
        if progress.done == 0:
            starts.append(progress)

    found: list[int] = []

    async def ask(library: Library) -> None:
        found.append(len(await library.search("river", limit=50)))

    async with await Library.open([folder], on_progress=count) as library, anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(ask, library)
    assert found == [20] * 8
    assert len(starts) == 1


async def test_a_cancelled_refresh_keeps_what_is_done_and_the_next_one_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SLICE", 0.0)
    write(folder, {f"{i}.md": "river" for i in range(6)})
    stop: Callable[[], None] = lambda: None  # noqa: E731

    def at_three(progress: Progress) -> None:
        if progress.done == 3:
            stop()

    async with await Library.open([folder], on_progress=at_three) as library:
        with anyio.CancelScope() as scope:
            stop = scope.cancel
            await library.refresh()
        assert scope.cancelled_caught
        stop = lambda: None  # noqa: E731
        report = await library.refresh()
        assert 0 < report.added <= 3
        assert report.added + report.unchanged == 6
        assert len(await library.search("river", limit=50)) == 6


async def test_a_closed_library_says_so(folder: Path) -> None:
    library = await Library.open([folder])
    await library.aclose()
    with pytest.raises(ConfigError, match="closed"):
        await library.search("x")
