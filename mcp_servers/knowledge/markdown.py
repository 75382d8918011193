"""The blocks of a Markdown text (CommonMark 0.31 with tables), each with its place in the text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

BlockKind = Literal["heading", "paragraph", "list", "quote", "table", "code", "html", "rule", "front_matter"]

_LINE_END = re.compile(r"\r\n?|\n")  # what markdown-it counts as one; other Unicode line ends are not
_FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*(?:\r\n?|\n)(?P<body>(?:[^\r\n]*(?:\r\n?|\n))*?)---[ \t]*(?:\r\n?|\n|\Z)")
_MAX_FRONT_MATTER = 20_000
_SIMPLE: dict[str, BlockKind] = {
    "fence": "code",
    "code_block": "code",
    "html_block": "html",
    "hr": "rule",
}


@dataclass(frozen=True, slots=True)
class Block:
    """``text[start:end]`` is the block with its markers, without the line end after it.

    Containers are given as their parts: a paragraph in a list has the kind ``list``, in a quotation ``quote``.
    """

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    """1 to 6 for a heading."""
    title: str = ""
    """A heading's text without its markup; the content of front matter."""
    depth: int = 0
    """How many containers (lists, quotations) it is in. A document's sections begin at headings of depth 0."""


def blocks(text: str) -> list[Block]:
    """All blocks in their order. They do not overlap; between them there is white space and reference definitions."""
    found: list[Block] = []
    offset = 0
    if front := _FRONT_MATTER.match(text, 0, _MAX_FRONT_MATTER):
        offset = front.end()
        found.append(Block("front_matter", 0, offset, title=front["body"]))
    elif text.startswith("\ufeff"):
        offset = 1
    body = text[offset:]
    starts = [offset, *(offset + match.end() for match in _LINE_END.finditer(body))]
    containers: list[BlockKind] = []
    tokens = _parser().parse(body)
    for i, token in enumerate(tokens):
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                containers.append("list")
            case "blockquote_open":
                containers.append("quote")
            case "bullet_list_close" | "ordered_list_close" | "blockquote_close":
                containers.pop()
            case "heading_open":
                level, title = int(token.tag[1:]), plain(tokens[i + 1].content)
                found.append(_block("heading", token, starts, text, level=level, title=title, depth=len(containers)))
            case "paragraph_open":
                kind = containers[-1] if containers else "paragraph"
                found.append(_block(kind, token, starts, text, depth=len(containers)))
            case "table_open":
                found.append(_block("table", token, starts, text, depth=len(containers)))
            case other if other in _SIMPLE:
                found.append(_block(_SIMPLE[other], token, starts, text, depth=len(containers)))
            case _:
                pass
    return found


def plain(source: str) -> str:
    """A line of Markdown without its inline markup, cut at 300 characters. Links and images keep their text."""
    source = source[:300]  # these patterns are quadratic in the worst case
    source = re.sub(r"!?\[([^\]\[]*)\](?:\([^()\s]*(?:\s[^()]*)?\)|\[[^\]]*\])", r"\1", source)
    source = re.sub(r"<[^<>]{1,200}>", "", source)
    source = re.sub(r"(`+)(.+?)\1", r"\2", source)
    source = re.sub(r"(\*{1,3}|~~)(?=\S)(.+?)(?<=\S)\1", r"\2", source)
    source = re.sub(r"\s\{#[\w-]+\}\s*$", "", source)
    source = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", source)
    return " ".join(source.split())


def _block(
    kind: BlockKind, token: Token, starts: list[int], text: str, *, level: int = 0, title: str = "", depth: int = 0
) -> Block:
    first, past = token.map or (0, 0)
    start = starts[first]
    end = starts[past] if past < len(starts) else len(text)
    while end > start and text[end - 1] in "\r\n":
        end -= 1
    return Block(kind, start, end, level, title, depth)


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.disable(["inline", "text_join"])  # blocks are enough, and a tenth of the work
    return parser
