"""HTML to simple Markdown: the main content with headings, lists, tables and code; no scripts, no navigation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Protocol, cast

from .documents import Document, Heading, UnreadableDocument

_etree: Any = import_module("lxml.etree")  # without types
_lxml_html: Any = import_module("lxml.html")

_DROPPED_TAGS = """
    script style noscript template head nav aside form button select textarea input iframe object embed svg canvas
    audio video map dialog footer"""
_BLOCK_TAGS = """
    address article blockquote body center dd details div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 header
    hgroup hr html li main ol p pre section summary table tbody td tfoot th thead tr ul caption"""
_DROPPED = frozenset(_DROPPED_TAGS.split())
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_DROPPED_ROLES = frozenset({"navigation", "search", "banner", "contentinfo", "complementary", "menu", "dialog"})
_DROPPED_CLASS = re.compile(
    r"(?:^|[\s_-])(?:headerlink|sidebar|sphinxsidebar|navbar|breadcrumbs?|toc|cookie|visually-hidden|sr-only)(?:$|[\s_-])"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")


class _Element(Protocol):
    """What is used of an lxml element; the package has no types."""

    tag: Any
    text: str | None
    tail: str | None

    def get(self, name: str, default: str = ...) -> str: ...
    def getparent(self) -> _Element | None: ...
    def iter(self, *tags: str) -> Iterator[_Element]: ...
    def iterancestors(self, *tags: str) -> Iterator[_Element]: ...
    def itertext(self) -> Iterator[str]: ...


class _Walk(Protocol):
    def __iter__(self) -> Iterator[tuple[str, _Element]]: ...
    def skip_subtree(self) -> None: ...


def read(data: bytes, fallback: str) -> Document:
    """The document of an HTML file. Its title is the first ``h1``, else ``title``, else ``fallback``."""
    source = _decode(data)
    # No network, no entities from outside, libxml2's own limits on depth and size.
    parser = _lxml_html.HTMLParser(no_network=True, remove_comments=True, remove_pis=True)
    try:
        root = cast(_Element, _lxml_html.document_fromstring(source, parser=parser))
    except (_etree.LxmlError, ValueError, AssertionError):
        if not source.strip():
            raise UnreadableDocument("empty", "there is no text in it") from None
        raise UnreadableDocument("damaged", "the HTML cannot be parsed") from None
    writer = _Writer()
    writer.walk(_main(root))
    headings = tuple(writer.headings)
    top = next((h.title for h in headings if h.level == 1), "")
    title = top or next((_inline("".join(e.itertext())) for e in root.iter("title")), "") or fallback
    return Document(writer.text(), title[:200], "text/html", headings)


def _decode(data: bytes) -> str:
    if b"\0" in data[:1024] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableDocument("binary", "it holds NUL bytes")
    declared = _CHARSET.search(data[:4096])
    encodings = ["UTF-16"] if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ["UTF-8"]
    if declared:
        encodings.append(declared[1].decode("ascii"))
    for encoding in encodings:
        try:
            return _XML_DECLARATION.sub("", data.decode(encoding).lstrip("\ufeff").replace("\0", ""), count=1)
        except (UnicodeDecodeError, LookupError):
            continue
    raise UnreadableDocument("encoding", f"it is not {' nor '.join(encodings)}")


def _main(root: _Element) -> _Element:
    """The element that holds the content, if the page says which one: ``main``, or a single ``article``."""
    for element in root.iter("main", "div", "section"):
        if (element.tag == "main" or element.get("role", "") == "main") and _inline("".join(element.itertext())):
            return element
    articles = [a for a in root.iter("article") if next(a.iterancestors("article"), None) is None]
    return articles[0] if len(articles) == 1 else root


class _Writer:
    def __init__(self) -> None:
        self.headings: list[Heading] = []
        self._out: list[str] = []
        self._length = 0
        self._inline: list[str] = []
        self._pre = 0
        self._lists: list[int | None] = []  # the next number of each open list, None without numbers
        self._prefix = ""
        self._tight = False
        self._row = False  # the next block is a table's row

    def text(self) -> str:
        return "".join(self._out)

    def walk(self, top: _Element) -> None:
        walk = cast(_Walk, _etree.iterwalk(top, events=("start", "end")))
        noise: _Element | None = None
        for event, element in walk:
            if event == "start":
                if element is not top and _is_noise(element):
                    noise = element
                    walk.skip_subtree()  # its end event still comes, and its tail belongs to the text
                else:
                    self._start(element)
            else:
                if element is noise:
                    noise = None
                else:
                    self._end(element)
                if element is not top:
                    self._add(element.tail)
        self._flush()

    def _start(self, element: _Element) -> None:
        tag = element.tag
        if tag in _BLOCKS and not self._pre:
            if tag in ("td", "th"):
                if any(piece.strip() for piece in self._inline):
                    self._inline.append(" | ")
            else:
                self._flush()
        match tag:
            case "pre":
                self._pre += 1
            case "ul" | "ol":
                if not self._lists:
                    self._tight = False  # two lists in a row are two
                self._lists.append(_first_number(element) if tag == "ol" else None)
            case "li" if not self._pre:
                self._prefix = self._marker()
            case "tr":
                self._row = True
            case "br":
                self._inline.append("\n" if self._pre else " ")
            case "img":
                self._inline.append(f" {element.get('alt', '')} ")
            case _:
                pass
        self._add(element.text)

    def _end(self, element: _Element) -> None:
        tag = element.tag
        if tag == "pre":
            self._pre -= 1
            if not self._pre:
                self._code()
        elif self._pre or tag not in _BLOCKS or tag in ("td", "th"):
            return
        elif tag in _HEADINGS:
            self._heading(_HEADINGS[tag])
        else:
            self._flush()
            if tag in ("ul", "ol") and self._lists:
                self._lists.pop()
            self._prefix = ""

    def _add(self, text: str | None) -> None:
        if text:
            self._inline.append(text)

    def _marker(self) -> str:
        indent = "  " * max(len(self._lists) - 1, 0)
        number = self._lists[-1] if self._lists else None
        if number is None:
            return f"{indent}- "
        self._lists[-1] = number + 1
        return f"{indent}{number}. "

    def _take(self) -> str:
        text = "".join(self._inline)
        self._inline.clear()
        return text

    def _flush(self) -> None:
        if text := _inline(self._take()):
            prefix, self._prefix = self._prefix, ""
            self._write(prefix + text, tight=bool(prefix) or self._row)
            self._row = False

    def _heading(self, level: int) -> None:
        self._prefix = ""
        if text := _inline(self._take()):
            start = self._write(f"{'#' * level} {text}")
            self.headings.append(Heading(start, self._length, level, text))

    def _code(self) -> None:
        code = self._take().replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()
        if code.strip():
            longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
            fence = "`" * (longest + 1)
            self._write(f"{fence}\n{code}\n{fence}")

    def _write(self, block: str, *, tight: bool = False) -> int:
        """Append a block; items of one list are not parted by an empty line. Returns where the block begins."""
        gap = "" if not self._out else "\n" if tight and self._tight else "\n\n"
        self._tight = tight
        self._out.append(gap + block)
        start = self._length + len(gap)
        self._length = start + len(block)
        return start


def _is_noise(element: _Element) -> bool:
    tag = element.tag
    if not isinstance(tag, str) or tag in _DROPPED:
        return True
    if element.get("role", "") in _DROPPED_ROLES or element.get("aria-hidden", "") == "true":
        return True
    if element.get("hidden", "\0") != "\0":
        return True
    if tag == "header" and (parent := element.getparent()) is not None and parent.tag == "body":
        return next(element.iter("h1"), None) is None  # the site's, not the document's
    return tag not in ("body", "main", "html") and bool(_DROPPED_CLASS.search(element.get("class", "")))


def _first_number(element: _Element) -> int:
    start = element.get("start", "")
    return int(start) if start.isascii() and start.isdigit() and len(start) < 10 else 1


def _inline(text: str) -> str:
    return " ".join(text.split())
