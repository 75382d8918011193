"""Pure helpers for programs that quote from a document: sentences with their offsets, and comparable terms.

They use the same rules as the index, so a sentence scored here against a question is judged as `search` judged its
passage. They need no library and read no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .analysis import terms
from .markdown import blocks

__all__ = ["Span", "sentences", "terms"]

_PARAGRAPH_BREAK = re.compile(r"(?:\r\n?|\n)[ \t]*(?:\r\n?|\n)\s*")
_MARKERS = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+|>[ \t]?)*(?:\[[ xX]\][ \t]+)?")
_CLOSERS = "\"'”’»)\\]*_`"
_END = re.compile(
    f"[.!?…]+[{_CLOSERS}]*(?=\\s)"  # alphabets: an end is followed by white space
    "|[。！？｡]+[」』）】”’]*"  # Chinese and Japanese: it need not be
)
_BACKTICKS = re.compile("`+")
_LAST_WORD = re.compile(r"(?:^|[\s(\[\"'“‘«*_])([^\W\d_]+(?:\.[^\W\d_]+)*)\.$")
_SHORT = """
    approx art bzw ca cf ch chap co corp dept dr e.g ed eds eq est evtl fig figs gen ggf gov i.e inc ltd mr mrs ms
    nr op p par pp prof rev sec sect sr st u.a usw v vgl vol vs z.b"""
_ABBREVIATIONS = frozenset(_SHORT.split())


class Span(NamedTuple):
    """``text[start:end]``, in characters."""

    start: int
    end: int


def sentences(text: str, *, markdown: bool = True, lists: bool = False) -> list[Span]:
    """The sentences of the running text, in their order, without white space around them.

    With ``markdown``, headings, code, tables, quotations, HTML blocks and front matter are left out, and so are lists
    unless ``lists`` is set (then without their markers). Without it (plain text, PDF) every paragraph counts.
    A sentence may run over a line end; it never leaves its paragraph, and never ends inside `code`.
    """
    found: list[Span] = []
    for start, end in _paragraphs(text, markdown=markdown, lists=lists):
        found.extend(_split(text, start, end))
    return found


def _paragraphs(text: str, *, markdown: bool, lists: bool) -> Iterator[Span]:
    if markdown:
        for block in blocks(text):
            if block.kind == "paragraph" or (lists and block.kind == "list"):
                marker = _MARKERS.match(text, block.start, block.end) if block.kind == "list" else None
                yield Span(marker.end() if marker else block.start, block.end)
        return
    start = 0
    for gap in _PARAGRAPH_BREAK.finditer(text):
        yield Span(start, gap.start())
        start = gap.end()
    yield Span(start, len(text))


def _split(text: str, start: int, end: int) -> Iterator[Span]:
    code = _code_spans(text, start, end)
    begin = start
    for match in _END.finditer(text, start, end):
        while code and code[0].end <= match.start():
            code.pop(0)
        if code and code[0].start < match.start():
            continue
        if match.end() < end and text[match.start()].isascii() and not _ends_sentence(text, begin, match, end):
            continue
        if span := _trim(text, begin, match.end()):
            yield span
        begin = match.end()
    if span := _trim(text, begin, end):
        yield span


def _ends_sentence(text: str, begin: int, match: re.Match[str], end: int) -> bool:
    following = text[match.end() : match.end() + 200 if match.end() + 200 < end else end].lstrip().lstrip("*_\"'“‘«([")
    if following[:1].islower():
        return False
    if text[match.start()] == "." and (
        word := _LAST_WORD.search(text, max(begin, match.start() - 40), match.start() + 1)
    ):
        last = word[1]
        return last.lower() not in _ABBREVIATIONS and (len(last) > 1 or not last.isupper() or last == "I")
    return True


def _trim(text: str, start: int, end: int) -> Span | None:
    piece = text[start:end]
    if not any(character.isalnum() for character in piece):
        return None
    start += len(piece) - len(piece.lstrip())
    return Span(start, start + len(piece.strip()))


def _code_spans(text: str, start: int, end: int) -> list[Span]:
    """Pairs of backtick runs of the same length (CommonMark 6.1)."""
    runs = [Span(*run.span()) for run in _BACKTICKS.finditer(text, start, end)]
    following: list[int | None] = [None] * len(runs)
    nearest: dict[int, int] = {}
    for i in range(len(runs) - 1, -1, -1):
        length = runs[i].end - runs[i].start
        following[i] = nearest.get(length)
        nearest[length] = i
    found: list[Span] = []
    i = 0
    while i < len(runs):
        closing = following[i]
        if closing is None:
            i += 1
        else:
            found.append(Span(runs[i].start, runs[closing].end))
            i = closing + 1
    return found
