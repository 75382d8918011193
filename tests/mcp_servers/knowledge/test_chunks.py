from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.mcp_servers.knowledge.chunks import CHUNK_CHARACTERS, Chunk, chunk
from retinue.mcp_servers.knowledge.documents import Document, Heading, MediaType, UnreadableDocument, read_document


def markdown(text: str) -> Document:
    return read_document(text.encode(), PurePosixPath("doc.md"), "text/markdown")


def headings(text: str) -> list[str]:
    return [piece.heading for piece in chunk(markdown(text))]


def assert_covered(text: str, chunks: list[Chunk]) -> None:
    """Passages lie in order, begin and end with no space, and only space (and a byte order mark) is between them."""
    last = 0
    for piece in chunks:
        assert not text[last : piece.start].replace("\ufeff", "").strip()
        assert piece.start < piece.end
        passage = text[piece.start : piece.end]
        assert passage == passage.strip()
        assert len(passage) <= CHUNK_CHARACTERS[1]
        last = piece.end
    assert not text[last:].replace("\ufeff", "").strip()


LINES = st.sampled_from(
    [
        "# Title",
        "## Part *two*",
        "###### deep",
        "Setext",
        "=====",
        "---",
        "- item",
        "  1. inner",
        "> quote",
        "```py",
        "~~~",
        "    code",
        "| a | b |",
        "|---|---|",
        "<!-- c -->",
        "<div>",
        "words of prose. And more.",
        "日本語の文です。次の文。",
        "😀 émoji 👩‍👩‍👧",
        "\u3000wide space\u3000",
        "\u00a0hard\u00a0space",
        "\x1csep\x1c",
        "",
        " ",
        "x" * 1500,
        "word " * 400,
    ]
)


@given(
    lines=st.lists(LINES | st.text(max_size=30), max_size=40),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    media_type=st.sampled_from(["text/markdown", "text/plain"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_passages_cover_every_text(lines: list[str], newline: str, media_type: MediaType, mark: str) -> None:
    text = mark + newline.join(lines).replace("\0", "")
    if not text.replace("\ufeff", "").strip():
        with pytest.raises(UnreadableDocument):
            read_document(text.encode(), PurePosixPath("doc"), media_type)
        return
    document = read_document(text.encode(), PurePosixPath("doc"), media_type)
    assert document.text == text
    assert_covered(text, chunk(document))


def test_each_passage_knows_the_headings_above_it() -> None:
    text = "# Guide\n\nintro\n\n## Install\n\na\n\n### Linux\n\nb\n\n## Use\n\nc\n"
    assert headings(text) == ["Guide", "Install", "Install > Linux", "Use"]


def test_a_heading_without_text_opens_the_section_below_it() -> None:
    text = "# Guide\n\n## Install\n\ntext\n"
    (piece,) = chunk(markdown(text))
    assert (piece.start, piece.heading) == (0, "Install")


def test_what_stands_before_the_first_heading_has_none() -> None:
    assert headings("preface\n\n# One\n\ntext") == ["", "One"]


def test_the_title_of_the_front_matter_leaves_the_headings_whole() -> None:
    assert headings("---\ntitle: Policy\n---\n# Refunds\n\n## When\n\ntext") == ["", "Refunds > When"]


def test_a_sibling_ends_the_section_of_the_one_before() -> None:
    assert headings("# T\n\nx\n\n## A\n\n### B\n\ny\n\n## C\n\nz") == ["T", "A > B", "C"]


def test_a_long_section_becomes_several_passages_of_one_heading() -> None:
    text = "# Long\n\n" + "\n\n".join(f"Paragraph {i} " + "with some words " * 12 for i in range(30))
    document = markdown(text)
    pieces = chunk(document)
    assert len(pieces) > 5
    assert {piece.heading for piece in pieces} == {"Long"}
    assert all(text[piece.start : piece.end].startswith(("Paragraph", "# Long")) for piece in pieces)
    assert_covered(text, pieces)


@pytest.mark.parametrize("text", ["a" * 60_000, "a " * 30_000, "`" * 60_000, "\n" * 60_000 + "x", "😀" * 50_000])
def test_an_unbroken_text_is_cut_in_bounded_time(text: str) -> None:
    assert_covered(text, chunk(Document(text, "t", "text/plain")))


def test_an_outline_of_many_headings_is_followed_in_bounded_time() -> None:
    line, count = "# a\n", 20_000
    marks = tuple(Heading(i * 4, i * 4 + 3, 1, "a") for i in range(count))
    assert len(chunk(Document(line * count, "t", "text/markdown", marks))) == count
