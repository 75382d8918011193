"""A document cut into passages: what is found, shown and quoted as one.

A section (a heading and what follows up to the next one) is never joined with another, so each passage has one place
in the outline. Long sections are cut at paragraphs, list items, sentences, in this order of preference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from .documents import Document

CHUNK_CHARACTERS = (500, 1000)
"""A passage is full between these two. Also what the measurements behind the ranking were made with."""

_PIECE = 20_000  # the splitter's time grows with the square of an unbroken text: it gets no longer one
_HEADING_SEPARATOR = " > "
_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff"


@dataclass(frozen=True, slots=True)
class Chunk:
    """``text[start:end]``, without white space around it."""

    start: int
    end: int
    heading: str
    """Headings from the outermost to the section's own. The document's title is left out where others follow."""


def chunk(document: Document) -> list[Chunk]:
    """All passages in their order. They do not overlap, and only white space lies between them."""
    found: list[Chunk] = []
    markdown = document.media_type in ("text/markdown", "text/html")
    for start, end, heading in _sections(document):
        for piece_start, piece_end in _pieces(document.text, start, end):
            for offset, passage in _splitter(markdown).chunk_indices(document.text[piece_start:piece_end]):
                first = piece_start + offset
                if trimmed := _trim(document.text, first, first + len(passage)):
                    found.append(Chunk(*trimmed, heading))
    return found


def _sections(document: Document) -> Iterator[tuple[int, int, str]]:
    """Start, end and outline of each section. A heading with nothing under it opens the section of the next one."""
    text, headings = document.text, document.headings
    start = 0
    path: list[tuple[int, str]] = []
    for i, heading in enumerate(headings):
        if text[start : heading.start].strip(_SPACE) and not _only_headings(document, start, i):
            yield start, heading.start, _outline(document, path)
            start = heading.start
        while path and path[-1][0] >= heading.level:
            path.pop()
        path.append((heading.level, heading.title))
    yield start, len(text), _outline(document, path)


def _only_headings(document: Document, start: int, upto: int) -> bool:
    """Whether ``text[start:headings[upto].start]`` holds nothing but headings that contain the next one."""
    text, headings = document.text, document.headings
    at, level = headings[upto].start, headings[upto].level
    previous = upto - 1
    while at > start and previous >= 0 and headings[previous].start >= start:
        heading = headings[previous]
        if heading.level >= level or text[heading.end : at].strip(_SPACE):
            return False
        at, level, previous = heading.start, heading.level, previous - 1
    return not text[start:at].strip(_SPACE)


def _outline(document: Document, path: list[tuple[int, str]]) -> str:
    titles = [title for _, title in path]
    if len(titles) > 1 and titles[0] == document.title:
        titles = titles[1:]
    return _HEADING_SEPARATOR.join(titles)


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > _PIECE:
        middle = start + _PIECE // 2
        limit = start + _PIECE
        cut = next(
            (at + len(gap) for gap in ("\n\n", "\n", " ") if (at := text.rfind(gap, middle, limit - len(gap))) >= 0),
            limit,
        )
        yield start, cut
        start = cut
    yield start, end


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    piece = text[start:end]
    lead = len(piece) - len(piece.lstrip(_SPACE))
    length = len(piece.strip(_SPACE))
    return (start + lead, start + lead + length) if length else None


@lru_cache(maxsize=2)
def _splitter(markdown: bool) -> MarkdownSplitter | TextSplitter:
    return (MarkdownSplitter if markdown else TextSplitter)(CHUNK_CHARACTERS)
