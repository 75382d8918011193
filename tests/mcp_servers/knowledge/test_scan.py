from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from retinue.errors import ConfigError
from retinue.mcp_servers.knowledge.scan import Limits, Scan, read_bytes, roots_of, scan


def write(path: Path, text: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def look(*folders: Path, limits: Limits | None = None) -> Scan:
    return scan(roots_of(folders), limits or Limits())


def documents(found: Scan) -> list[str]:
    return [entry.document for entry in found.entries]


def reasons(found: Scan) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in found.skipped}


def test_documents_are_named_by_their_path_in_the_order_of_names(folder: Path) -> None:
    for name in ("b.md", "a/z.txt", "a/B.html", "README", "c.PDF"):
        write(folder / name)
    found = look(folder)
    assert documents(found) == ["README", "b.md", "c.PDF", "a/B.html", "a/z.txt"]
    assert [entry.media_type for entry in found.entries] == [
        "text/plain",
        "text/markdown",
        "application/pdf",
        "text/html",
        "text/plain",
    ]
    assert found.skipped == []


def test_several_folders_are_told_apart_by_their_names(tmp_path: Path) -> None:
    one, two = tmp_path / "x/docs", tmp_path / "y/docs"
    write(one / "a.md")
    write(two / "a.md")
    assert documents(look(one, two)) == ["docs/a.md", "docs-2/a.md"]


def test_hidden_and_generated_files_are_passed_over_in_silence(folder: Path) -> None:
    for name in (".git/x.md", ".hidden.md", "node_modules/p/README.md", "__pycache__/x.txt"):
        write(folder / name)
    assert look(folder) == Scan()


def test_other_types_are_listed(folder: Path) -> None:
    write(folder / "code.py", "print()")
    (folder / "image.png").write_bytes(b"\x89PNG\0\0")
    (folder / "program").write_bytes(b"\x7fELF\0\0")
    assert reasons(look(folder)) == {"code.py": "unsupported", "image.png": "binary", "program": "binary"}


def test_a_file_over_the_limit_is_listed(folder: Path) -> None:
    write(folder / "big.md", "x" * 101)
    write(folder / "fits.md", "x" * 100)
    found = look(folder, limits=Limits(file_bytes=100))
    assert documents(found) == ["fits.md"]
    assert reasons(found) == {"big.md": "too_large"}


def test_a_library_that_is_too_big_says_where_it_stops(folder: Path) -> None:
    for i in range(5):
        write(folder / f"{i}.md")
    found = look(folder, limits=Limits(documents=3))
    assert documents(found) == ["0.md", "1.md", "2.md"]
    assert reasons(found) == {"3.md": "too_many"}


def test_folders_nested_too_deep_are_listed(folder: Path) -> None:
    write(folder / "a/b/c/d.md")
    assert reasons(look(folder, limits=Limits(depth=2))) == {"a/b/c": "too_many"}


# Symlinks


def test_a_link_in_a_circle_is_listed(folder: Path) -> None:
    write(folder / "sub/a.md")
    (folder / "sub/up").symlink_to(folder)
    (folder / "sub/self").symlink_to(folder / "sub")
    (folder / "x").symlink_to(folder / "y")
    (folder / "y").symlink_to(folder / "x")
    found = look(folder)
    assert documents(found) == ["sub/a.md"]
    assert reasons(found) == dict.fromkeys(("sub/up", "sub/self", "x", "y"), "symlink_loop")


def test_a_link_out_of_the_library_is_listed_and_does_not_tell_where_it_leads(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside/secret.md")
    write(tmp_path / "docs-not/secret.md")
    (folder / "file.md").symlink_to(tmp_path / "outside/secret.md")
    (folder / "dir").symlink_to(tmp_path / "outside")
    (folder / "near").symlink_to(tmp_path / "docs-not")
    found = look(folder)
    assert documents(found) == []
    assert set(reasons(found).values()) == {"symlink_outside"}
    assert not any("outside/" in skipped.detail or str(tmp_path) in skipped.detail for skipped in found.skipped)


def test_a_link_that_leads_nowhere_is_listed(folder: Path) -> None:
    (folder / "gone.md").symlink_to(folder / "nothing.md")
    assert reasons(look(folder)) == {"gone.md": "symlink_broken"}


def test_a_link_to_a_document_is_no_second_copy(folder: Path) -> None:
    write(folder / "v2/a.md")
    (folder / "latest").symlink_to("v2")
    (folder / "b.md").symlink_to("v2/a.md")
    found = look(folder)
    assert documents(found) == ["v2/a.md"]
    assert reasons(found) == {"latest": "duplicate", "b.md": "duplicate"}


def test_a_link_to_what_is_hidden_inside_the_library_is_followed(folder: Path) -> None:
    """Kubernetes mounts a folder of files like this."""
    write(folder / "..2026_11/a.md")
    (folder / "..data").symlink_to("..2026_11")
    (folder / "a.md").symlink_to("..data/a.md")
    found = look(folder)
    assert documents(found) == ["a.md"]
    assert found.skipped == []


# Files that are none, and that change


def test_a_pipe_or_a_socket_is_listed_and_not_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe.md")
    monkeypatch.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock.md")
        assert reasons(look(folder)) == {"pipe.md": "not_a_file", "sock.md": "not_a_file"}


def test_a_name_that_is_not_utf_8_is_listed(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.md"))).write_text("x")
    assert reasons(look(folder)) == {r"caf\udce9.md": "encoding"}


def test_a_file_that_becomes_a_link_after_the_scan_is_not_read(folder: Path, tmp_path: Path) -> None:
    path = write(folder / "a.md")
    (entry,) = look(folder).entries
    path.unlink()
    path.symlink_to(write(tmp_path / "secret.txt"))
    with pytest.raises(OSError, match="symbolic links"):
        read_bytes(entry, 100)


def test_a_file_that_grows_after_the_scan_is_not_read_past_the_limit(folder: Path) -> None:
    path = write(folder / "a.md")
    (entry,) = look(folder).entries
    path.write_text("x" * 101)
    with pytest.raises(OSError, match="large"):
        read_bytes(entry, 100)


# Folders


def test_a_folder_that_is_missing_is_a_mistake_of_the_configuration(folder: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        roots_of([folder / "nothing"])
    with pytest.raises(ConfigError, match="not a folder"):
        roots_of([write(folder / "a.md")])
    with pytest.raises(ConfigError, match="at least one"):
        roots_of([])


def test_a_folder_inside_another_is_refused(folder: Path) -> None:
    (folder / "inner").mkdir()
    with pytest.raises(ConfigError, match="overlap"):
        roots_of([folder, folder / "inner"])
    with pytest.raises(ConfigError, match="overlap"):
        roots_of([folder, folder])


def test_a_folder_that_goes_away_is_not_taken_for_an_empty_one(folder: Path) -> None:
    roots = roots_of([folder])
    folder.rmdir()
    with pytest.raises(ConfigError, match="does not exist"):
        scan(roots, Limits())
