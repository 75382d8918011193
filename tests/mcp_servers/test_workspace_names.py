"""No spelling of a path leads out of the workspace, and none means different files on different systems."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retinue.errors import InvalidInput
from retinue.mcp_servers.workspace import Documents, names

HOSTILE = [
    "",
    "/etc/passwd",
    "//host/share",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "a//b",
    "a/",
    "a\\..\\b",
    "\\\\host\\share",
    "C:\\x",
    "c:x",
    "a.md:stream",
    "a\x00b",
    "a\nb",
    "a\tb",
    "a\u202eb",  # right-to-left override
    "a\u200db",  # zero-width joiner
    "a\ufeff",
    "a\u00a0b",  # no-break space
    "a\u2028b",
    "a\ud800",  # half a surrogate pair
    ".retinue/written/x.json",
    ".RETINUE/x",
    ".git/config",
    "a/.ssh/id",
    "con",
    "CON.txt",
    "a/NUL",
    "Aux .md",
    "com1.tar.gz",
    "COM¹",
    "LPT9.md",
    "conin$",
    "a.",
    "a. ",
    " a",
    "a ",
    "a/b ./c",
    "RETINU~1/x",
    "a*b",
    "a?b",
    'a"b',
    "a<b",
    "a|b",
    "e\u0301.md",  # é in two code points
    "x" * 201,
    "é" * 101,
    "/".join("a" * 17),
    "a/" * 255 + "aaa",
]


@pytest.mark.parametrize("path", HOSTILE, ids=ascii)
def test_a_hostile_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        names.parse(path)
    assert "\n" not in raised.value.message
    assert raised.value.message.isascii()


@pytest.mark.parametrize(
    "path", ["a", "a.md", "Notes/2026-07-28 brief (draft).md", "é/ü.txt", "日本語/メモ.md", "a..b", "x~y", "🙂.md"]
)
def test_an_ordinary_path_is_taken(path: str) -> None:
    assert names.parse(path) == tuple(path.split("/"))


FRAGMENTS = st.one_of(
    st.sampled_from(
        ["..", ".", "/", "\\", "\x00", "~1", "con", ":", ".retinue", " ", "a", "é", "A", "\u0301", "link", "..."]
    ),
    st.characters(),
)


@given(st.lists(FRAGMENTS, max_size=12).map("".join))
@example("a/./b")
def test_what_is_taken_stays_inside_and_is_plain_on_every_system(path: str) -> None:
    try:
        parts = names.parse(path)
    except InvalidInput:
        return
    assert "/".join(parts) == path
    assert os.path.normpath(path) == path.replace("/", os.sep)
    for part in parts:
        assert part not in ("", ".", "..")
        assert not part.startswith(".")
        assert not set(part) & set('/\\:*?"<>|\x00')
        assert unicodedata.normalize("NFC", part) == part
        assert part == part.strip()
        part.encode("utf-8")


@given(st.lists(FRAGMENTS, max_size=12).map("".join))
def test_nothing_that_is_written_or_read_lies_outside(path: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        outside = Path(scratch) / "outside"
        outside.mkdir()
        (outside / "secret").write_text("secret")
        root = Path(scratch) / "root"
        root.mkdir()
        (root / "link").symlink_to(outside)
        (root / "a").symlink_to(outside / "secret")
        documents = Documents(root)
        for attempt in (lambda: documents.write(path, "mine"), lambda: documents.read(path, limit=100)):
            try:
                attempt()
            except InvalidInput:
                continue
        assert [item.name for item in outside.iterdir()] == ["secret"]
        assert (outside / "secret").read_text() == "secret"
        assert sorted(item.name for item in Path(scratch).iterdir()) == ["outside", "root"]
