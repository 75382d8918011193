"""Files to documents: one canonical text each, which every offset refers to.

Markdown and plain text: exactly ``path.read_bytes().decode("utf-8")``. Nothing is changed: line ends stay as they are
(``\\r\\n`` counts two characters), and a byte order mark stays as the character U+FEFF at offset 0.
HTML: the main content as simple Markdown (`html`). PDF: the text of the pages, an empty line between two (`pdf`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from .markdown import Block, blocks, plain
from .models import SkipReason

MediaType = Literal["text/markdown", "text/plain", "text/html", "application/pdf"]

MEDIA_TYPES: dict[str, MediaType] = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".mdown": "text/markdown",
    ".mdx": "text/markdown",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".rst": "text/plain",
    ".adoc": "text/plain",
    ".org": "text/plain",
    "": "text/plain",  # README, LICENSE
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".pdf": "application/pdf",
}

READER_VERSION = 1
"""Counted up when a reader gives another text for the same file; a stored text of another version is read anew."""

_TITLE_LENGTH = 200
_MAX_OUTLINE = 2_000_000  # characters of Markdown in which headings are looked for: bounds the time for one file
_FRONT_TITLE = re.compile(r"^title:[ \t]*(?P<quote>['\"]?)(?P<title>[^\r\n]+?)(?P=quote)[ \t]*$", re.MULTILINE)


class UnreadableDocument(Exception):
    """A file that gives no document. Caught by the index, listed as skipped."""

    def __init__(self, reason: SkipReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: SkipReason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Heading:
    """``text[start:end]`` is the heading's line with its markers. A PDF page's heading is empty: ``start == end``."""

    start: int
    end: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Document:
    """What a reader makes of a file."""

    text: str
    title: str
    media_type: MediaType
    headings: tuple[Heading, ...] = ()


def media_type_of(path: PurePosixPath) -> MediaType | None:
    """By the file name; None if no reader knows it."""
    return MEDIA_TYPES.get(path.suffix.lower())


def read_document(data: bytes, path: PurePosixPath, media_type: MediaType) -> Document:
    """Read a file's bytes. Raises `UnreadableDocument`. ``path`` serves for the title only."""
    from . import html, pdf  # not before they are needed: their parsers are slow to import

    fallback = path.stem or path.name
    match media_type:
        case "application/pdf":
            document = pdf.read(data, fallback)
        case "text/html":
            document = html.read(data, fallback)
        case "text/markdown":
            document = _markdown(decode(data), fallback)
        case "text/plain":
            document = _plain_text(decode(data), fallback)
    if not any(not c.isspace() and c != "\ufeff" for c in document.text):
        raise UnreadableDocument("empty", "there is no text in it")
    return document


def decode(data: bytes) -> str:
    """Strict UTF-8."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableDocument("encoding", "it looks like UTF-16; convert it to UTF-8")
    if b"\0" in data:
        raise UnreadableDocument("binary", "it holds NUL bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableDocument("encoding", f"byte {error.start} is not UTF-8") from None


def _markdown(text: str, fallback: str) -> Document:
    found = blocks(text[:_MAX_OUTLINE])
    headings = tuple(
        Heading(block.start, block.end, block.level, block.title)
        for block in found
        if block.kind == "heading" and not block.depth and block.title
    )
    return Document(text, _markdown_title(found, headings) or fallback, "text/markdown", headings)


def _markdown_title(found: list[Block], headings: tuple[Heading, ...]) -> str:
    if found and found[0].kind == "front_matter" and (match := _FRONT_TITLE.search(found[0].title.replace("\r", "\n"))):
        return plain(match["title"])[:_TITLE_LENGTH]
    top = min((heading.level for heading in headings), default=0)
    return next((heading.title[:_TITLE_LENGTH] for heading in headings if heading.level == top), "")


def _plain_text(text: str, fallback: str) -> Document:
    """The title is a first line that stands alone: short, and followed by an empty or underlining line."""
    lines = text[:2000].lstrip("\ufeff").strip().splitlines()
    first = lines[0].strip() if lines else ""
    second = lines[1].strip() if len(lines) > 1 else ""
    alone = len(lines) > 1 and not any(c.isalnum() for c in second)
    title = first.lstrip("= ") if alone and len(first) <= 100 and any(c.isalnum() for c in first) else fallback
    return Document(text, title, "text/plain")
