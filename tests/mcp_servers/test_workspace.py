"""Documents are written whole, once a key, and never through a link; with both ways to walk a folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retinue import system
from retinue.errors import InvalidInput, ToolFailed
from retinue.mcp_servers.workspace import Documents
from retinue.mcp_servers.workspace.documents import Written
from retinue.mcp_servers.workspace.tree import CheckedTree, DescriptorTree

ROOT = Path(__file__).parents[2]

posix = pytest.mark.skipif(os.name == "nt", reason="links, pipes and modes of POSIX")


@pytest.fixture(params=[CheckedTree] if os.name == "nt" else [DescriptorTree, CheckedTree])
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> Documents:
    root = tmp_path / "root"
    root.mkdir()
    return Documents(root, max_bytes=1000, tree=request.param(root))


def visible(documents: Documents) -> dict[str, str]:
    """Every file that a person sees, with its text."""
    return {
        str(path.relative_to(documents.root)): path.read_text()
        for path in sorted(documents.root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(documents.root).parts)
    }


def drafts(documents: Documents) -> list[Path]:
    return list(documents.root.rglob("*.draft"))


def test_a_document_is_written_read_in_parts_and_listed(documents: Documents) -> None:
    written = documents.write("notes/é/brief.md", "héllo\nwörld\n")
    assert (written.bytes, written.replaced) == (14, False)
    assert documents.write("notes/é/brief.md", "héllo wörld").replaced
    first = documents.read("notes/é/brief.md", limit=5)
    assert (first.text, first.offset, first.next_offset, first.characters) == ("héllo", 0, 5, 11)
    second = documents.read("notes/é/brief.md", offset=5, limit=100)
    assert (second.text, second.next_offset, second.sha256) == (" wörld", None, first.sha256)
    assert documents.read("notes/é/brief.md", offset=50, limit=5).text == ""
    documents.write("a.md", "a")
    assert [item.path for item in documents.list(limit=10).documents] == ["a.md", "notes/é/brief.md"]
    assert [item.path for item in documents.list("notes", limit=10).documents] == ["notes/é/brief.md"]
    assert documents.list(limit=1).truncated
    assert drafts(documents) == []


def test_line_ends_and_bytes_stay_as_they_are(documents: Documents) -> None:
    documents.write("a.txt", "a\r\nb\n\ufeff")
    assert (documents.root / "a.txt").read_bytes() == "a\r\nb\n\ufeff".encode()
    assert documents.read("a.txt", limit=10).text == "a\r\nb\n\ufeff"


# Once a key


def test_the_same_key_writes_once_and_returns_the_first_result(documents: Documents) -> None:
    first = documents.write("a.md", "one", key="k")
    documents.write("a.md", "two", key="other")
    assert documents.write("a.md", "one", key="k") == first
    assert visible(documents) == {"a.md": "two"}
    (documents.root / "a.md").unlink()
    assert documents.write("a.md", "one", key="k") == first
    assert visible(documents) == {}


def test_a_key_survives_a_new_process(documents: Documents) -> None:
    first = documents.write("a.md", "one", key="k")
    (documents.root / "a.md").write_text("edited by hand")
    assert Documents(documents.root).write("a.md", "one", key="k") == first
    assert visible(documents) == {"a.md": "edited by hand"}


@pytest.mark.parametrize(("path", "text"), [("b.md", "one"), ("a.md", "two")])
def test_the_same_key_with_other_arguments_is_refused(documents: Documents, path: str, text: str) -> None:
    documents.write("a.md", "one", key="k")
    with pytest.raises(InvalidInput, match="key was used before"):
        documents.write(path, text, key="k")
    assert visible(documents) == {"a.md": "one"}


def test_keys_are_not_names(documents: Documents) -> None:
    for key in ("../../x", "a/b", "K", "k", "é" * 100, "con"):
        documents.write("a.md", key, key=key)
    rows = list((documents.root / ".retinue/written").iterdir())
    assert len(rows) == 6
    assert all(len(row.stem) == 40 for row in rows)


def test_a_damaged_row_is_not_taken_for_a_new_call(documents: Documents) -> None:
    documents.write("a.md", "one", key="k")
    row = next((documents.root / ".retinue/written").iterdir())
    row.write_text("{")
    with pytest.raises(ToolFailed, match="damaged"):
        documents.write("a.md", "one", key="k")


# Links and other files


@posix
def test_links_are_never_followed(documents: Documents, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    root = documents.root
    (root / "folder").symlink_to(outside)
    (root / "file.md").symlink_to(outside / "secret.md")
    (root / "dangling.md").symlink_to(outside / "new.md")
    (root / "inner").mkdir()
    (root / "inner" / "up").symlink_to("..")
    for path in ("folder/secret.md", "file.md", "inner/up/x.md"):
        with pytest.raises(InvalidInput, match="links are not followed"):
            documents.read(path, limit=10)
    for path in ("folder/secret.md", "folder/new.md", "file.md", "dangling.md", "inner/up/x.md"):
        with pytest.raises(InvalidInput, match="links are not followed"):
            documents.write(path, "mine")
    assert documents.list(limit=10).documents == []
    assert (outside / "secret.md").read_text() == "secret"
    assert [item.name for item in outside.iterdir()] == ["secret.md"]


@posix
def test_a_planted_link_in_place_of_the_own_folder_is_refused(documents: Documents, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (documents.root / ".retinue").symlink_to(outside)
    with pytest.raises(InvalidInput, match="links are not followed"):
        documents.write("a.md", "x", key="k")
    assert list(outside.iterdir()) == []


@posix
def test_a_planted_link_in_place_of_a_draft_is_not_written_through(documents: Documents, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (documents.root / ".retinue.draft").symlink_to(target)
    documents.write("a.md", "x")
    assert target.read_text() == "precious"
    assert visible(documents) == {"a.md": "x"}


@posix
def test_pipes_and_folders_are_not_documents(documents: Documents) -> None:
    os.mkfifo(documents.root / "pipe.md")
    (documents.root / "folder.md").mkdir()
    for path in ("pipe.md", "folder.md"):
        with pytest.raises(InvalidInput):
            documents.read(path, limit=10)
        with pytest.raises(InvalidInput):
            documents.write(path, "x")
    documents.write("a.md", "x")
    with pytest.raises(InvalidInput, match="not a folder"):
        documents.write("a.md/b.md", "x")


@posix
def test_a_hard_link_keeps_its_other_name(documents: Documents, tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_text("shared")
    os.link(other, documents.root / "a.md")
    documents.write("a.md", "mine")
    assert other.read_text() == "shared"


@posix
def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    Documents(tmp_path / "link").write("a.md", "x")
    assert (tmp_path / "real/a.md").read_text() == "x"


# Names that are alike


@pytest.mark.parametrize(
    ("first", "second"), [("Brief.md", "brief.md"), ("Notes/a.md", "notes/b.md"), ("ﬁ.md", "fi.md")]
)
def test_a_name_that_some_systems_take_for_an_existing_one_is_refused(
    documents: Documents, first: str, second: str
) -> None:
    documents.write(first, "x")
    with pytest.raises(InvalidInput, match="differs from the existing"):
        documents.write(second, "y")
    assert visible(documents) == {first: "x"}


# What is not there, too large, or not text


def test_what_is_not_there_is_named_without_the_absolute_path(documents: Documents) -> None:
    for attempt in (
        lambda: documents.read("none.md", limit=1),
        lambda: documents.read("none/x.md", limit=1),
        lambda: documents.list("none", limit=1),
    ):
        with pytest.raises(InvalidInput, match="there is no") as raised:
            attempt()
        assert str(documents.root) not in str(raised.value.body())


def test_what_is_too_large_is_refused_and_leaves_nothing(documents: Documents) -> None:
    with pytest.raises(InvalidInput, match="1001 bytes"):
        documents.write("a.md", "x" * 1001)
    documents.write("a.md", "x" * 1000)
    assert not (documents.root / "b").exists()
    (documents.root / "huge.md").write_bytes(b"x" * 9_000_000)
    with pytest.raises(InvalidInput, match="the most that is read"):
        documents.read("huge.md", limit=1)


def test_what_is_not_utf_8_is_refused(documents: Documents) -> None:
    (documents.root / "latin.md").write_bytes(b"\xe9")
    with pytest.raises(InvalidInput, match="not UTF-8"):
        documents.read("latin.md", limit=1)
    with pytest.raises(InvalidInput, match="surrogate"):
        documents.write("a.md", "\ud800")


@pytest.mark.parametrize(
    ("code", "text"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "permission denied"), (errno.EIO, "EIO")],
)
def test_a_failing_disk_is_a_clear_error_and_the_old_text_stays(
    documents: Documents, monkeypatch: pytest.MonkeyPatch, code: int, text: str
) -> None:
    documents.write("a.md", "old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code), "/some/absolute/path")

    with monkeypatch.context() as patch:
        patch.setattr(system, "flush", fail)
        with pytest.raises(ToolFailed, match=text) as raised:
            documents.write("a.md", "new", key="k")
    assert "/some" not in str(raised.value.body())
    assert visible(documents) == {"a.md": "old"}
    assert drafts(documents) == [], "half a draft does not stay on a full disk"
    documents.write("a.md", "new", key="k")
    assert visible(documents) == {"a.md": "new"}


# Several at once


def test_many_threads_with_one_key_write_once(documents: Documents) -> None:
    def write(_: int) -> Written:
        return documents.write("a.md", "one", key="k")

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(write, range(24)))
    assert len({result.model_dump_json() for result in results}) == 1
    assert not results[0].replaced


CHILD = """
import sys
from pathlib import Path
from retinue.mcp_servers.workspace import Documents
documents = Documents(Path(sys.argv[1]))
for n in range(20):
    print(documents.write("shared.md", "text", key=f"k{n}").replaced, flush=True)
    documents.write(f"own-{sys.argv[2]}.md", str(n))
"""


def test_two_processes_share_the_keys(documents: Documents) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(documents.root), name], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    said = [child.communicate(timeout=60)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert said[0] == said[1] == ["False"] + ["True"] * 19, "both got the result of whoever wrote first"
    assert visible(documents) == {"own-a.md": "19", "own-b.md": "19", "shared.md": "text"}


# Killed


KILL = """
import json, os, signal, sys
from pathlib import Path
from retinue.mcp_servers.workspace import Documents

CALLS = ["open", "mkdir", "fsync", "rename", "unlink", "link", "close"]
real = {name: getattr(os, name) for name in CALLS}

def armed(boundary):
    count = 0
    def wrap(name):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == boundary and half == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            mine = count == boundary
            try:
                return real[name](*args, **kwargs)
            finally:
                if mine and half == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
        return call
    return wrap

scratch = Path(sys.argv[1])
report = []
boundary, half, ended = 0, 0, False
while not ended:
    boundary += 1
    for half in (0, 1):
        root = scratch / f"{boundary}-{half}"
        documents = Documents(root)
        documents.write("notes/a.md", "before")
        pid = os.fork()
        if pid == 0:
            wrap = armed(boundary)
            for name in CALLS:
                setattr(os, name, wrap(name))
            documents.write("notes/a.md", "after", key="k")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        ended = status == 0
        killed = root.joinpath("notes/a.md").read_text()
        moved = killed == "after"
        if moved:  # it happened: the retry must not overwrite what a person did since
            root.joinpath("notes/a.md").write_text("edited")
        result = documents.write("notes/a.md", "after", key="k")
        again = documents.write("notes/a.md", "after", key="k")
        report.append([killed, moved, root.joinpath("notes/a.md").read_text(), result == again, result.replaced,
                       len(list(root.rglob("*.draft")))])
print(json.dumps(report))
"""


@posix
def test_killed_at_any_system_call_the_write_happens_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report) > 80, "before and after each of the calls that a write makes"
    for killed, moved, final, same, replaced, drafts_left in report:
        assert killed in ("before", "after"), "never a half-written document"
        assert final == ("edited" if moved else "after")
        assert same
        assert replaced
        assert drafts_left == 0
    assert {moved for _, moved, *_ in report} == {True, False}
