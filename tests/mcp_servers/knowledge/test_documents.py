from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from retinue.mcp_servers.knowledge import pdf as pdf_reader
from retinue.mcp_servers.knowledge.documents import Document, MediaType, UnreadableDocument, read_document

from .pdfs import pdf


def read(data: bytes | str, media_type: MediaType, name: str = "folder/some-name.x") -> Document:
    return read_document(data.encode() if isinstance(data, str) else data, PurePosixPath(name), media_type)


def html(body: str, head: str = "") -> Document:
    return read(f"<!doctype html><html><head><meta charset=utf-8>{head}</head><body>{body}</body></html>", "text/html")


def refused(data: bytes, media_type: MediaType) -> str:
    with pytest.raises(UnreadableDocument) as caught:
        read(data, media_type)
    return caught.value.reason


# Markdown and plain text


@pytest.mark.parametrize("media_type", ["text/markdown", "text/plain"])
@pytest.mark.parametrize("text", ["\ufeffmark", "a\r\nb\r\n", "a\rb", "tab\tand \u2028 é 😀\n\n"])
def test_the_text_of_a_text_file_is_its_own(text: str, media_type: MediaType) -> None:
    assert read(text, media_type).text == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "encoding"),
        ("text".encode("utf-16"), "encoding"),
        (b"a\0b", "binary"),
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
        (b"\xef\xbb\xbf \n", "empty"),
    ],
)
@pytest.mark.parametrize("media_type", ["text/markdown", "text/plain"])
def test_what_is_not_text_is_refused_with_a_reason(data: bytes, reason: str, media_type: MediaType) -> None:
    assert refused(data, media_type) == reason


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## Second\n\n# First\n", "First"),
        ("## Only *this*\n", "Only this"),
        ("---\ntitle: 'From the top'\n---\n# Other\n", "From the top"),
        ("---\nauthor: x\n---\n# Other\n", "Other"),
        ("no heading", "some-name"),
        ("> # Quoted heading\n", "some-name"),
    ],
)
def test_the_title_of_markdown_is_its_front_matters_or_its_top_headings(text: str, title: str) -> None:
    assert read(text, "text/markdown").title == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("A title\n\ntext", "A title"),
        ("Underlined\n==========\ntext", "Underlined"),
        ("just a line that goes on\nand on", "some-name"),
        ("one line", "some-name"),
        ("----\n\ntext", "some-name"),
    ],
)
def test_the_title_of_plain_text_is_a_line_that_stands_alone(text: str, title: str) -> None:
    assert read(text, "text/plain").title == title


# HTML


def test_html_keeps_headings_lists_tables_and_code() -> None:
    document = html(
        "<h1>Guide</h1><p>One <code>x</code>,\n two.<br>three</p>"
        "<ul><li>a<ul><li>a1</li></ul></li><li><p>b</p></li></ul>"
        "<ol start=3><li>c<li>d</ol><pre><span>def</span> f():\n    return 1\n</pre>"
        "<h2>Table</h2><table><tr><th>A</th><th>B</th></tr>\n<tr> <td>1</td> <td>2</td> </tr></table>"
    )
    assert document.text == (
        "# Guide\n\nOne x, two. three\n\n- a\n  - a1\n- b\n\n3. c\n4. d\n\n```\ndef f():\n    return 1\n```\n\n"
        "## Table\n\nA | B\n1 | 2"
    )
    assert [(h.level, h.title, document.text[h.start : h.end]) for h in document.headings] == [
        (1, "Guide", "# Guide"),
        (2, "Table", "## Table"),
    ]


@pytest.mark.parametrize(
    "noise",
    [
        "<script>noise()</script>",
        "<style>noise{}</style>",
        "<nav>noise</nav>",
        "<footer>noise</footer>",
        "<header>noise</header>",
        "<aside>noise</aside>",
        "<template>noise</template>",
        "<noscript>noise</noscript>",
        "<form>noise</form>",
        "<svg><text>noise</text></svg>",
        "<div role=navigation>noise</div>",
        "<div class='site sphinxsidebar'>noise</div>",
        "<p hidden>noise</p>",
        "<p aria-hidden=true>noise</p>",
        "<!-- noise -->",
        "<?php noise ?>",
    ],
)
def test_html_noise_is_left_out_and_the_text_after_it_is_not(noise: str) -> None:
    assert html(f"<p>before</p>{noise} after").text == "before\n\nafter"


def test_the_main_part_of_a_page_is_taken_where_it_is_marked() -> None:
    assert html("<div>menu</div><main><p>content</p></main><div>rest</div>").text == "content"
    assert html("<div>menu</div><div role=main>content</div>").text == "content"
    assert html("<div>menu</div><article>content</article>").text == "content"
    assert html("<article>one</article><article>two</article>").text == "one\n\ntwo"


def test_the_title_of_html_is_its_heading_or_its_title() -> None:
    assert html("<h1>Heading</h1>", "<title>Title</title>").title == "Heading"
    assert html("<p>x</p>", "<title>Title &amp; more</title>").title == "Title & more"
    assert html("<p>x</p>").title == "some-name"


def test_code_with_fences_gets_a_longer_fence() -> None:
    assert html("<pre>```\ncode\n```</pre>").text == "````\n```\ncode\n```\n````"


@pytest.mark.parametrize(
    "data",
    [
        "<meta charset=iso-8859-1><p>café</p>".encode("iso-8859-1"),
        b"\xef\xbb\xbf" + "<p>café</p>".encode(),
        "<p>café</p>".encode("utf-16"),
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body>café</body></html>'.encode(),
        b"<p>caf&eacute;",
    ],
)
def test_html_is_read_in_the_encoding_that_it_declares(data: bytes) -> None:
    assert read(data, "text/html").text == "café"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<p>caf\xe9</p>", "encoding"),
        (b"<meta charset=no-such><p>caf\xe9</p>", "encoding"),
        (b"<p>a\0b", "binary"),
        (b"", "empty"),
        (b"<script>only()</script>", "empty"),
    ],
)
def test_html_that_cannot_be_read_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    assert refused(data, "text/html") == reason


def test_an_external_entity_of_html_is_not_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    source = f'<!DOCTYPE html [<!ENTITY x SYSTEM "{secret.as_uri()}">]><p>text &x;</p>'
    assert "hunter2" not in read(source, "text/html").text


@pytest.mark.parametrize("source", ["<div>" * 50_000 + "x", "<p>" * 50_000 + "x", "<b " * 50_000, "<" * 50_000])
def test_deep_or_broken_html_ends(source: str) -> None:
    with contextlib.suppress(UnreadableDocument):
        read(source, "text/html")


# PDF


def test_a_pdf_is_its_pages() -> None:
    document = read(pdf([["One (first) line,", "two."], [], ["Third page."]], title="Report"), "application/pdf")
    assert document.text == "One (first) line,\ntwo.\n\nThird page."
    assert document.title == "Report"
    assert [(h.title, document.text[h.start :][:5]) for h in document.headings] == [
        ("Page 1", "One ("),
        ("Page 3", "Third"),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pdf([["secret"]], encrypted=True), "encrypted"),
        (pdf([[]]), "no_text"),
        (b"%PDF-1.7 and nothing more", "damaged"),
        (pdf([["text"]])[:150], "damaged"),
        (b"not a pdf at all", "damaged"),
    ],
)
def test_a_pdf_that_gives_no_text_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    assert refused(data, "application/pdf") == reason


def fake_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    script = tmp_path / "reader.py"
    script.write_text(code)
    pdf_reader.close()
    monkeypatch.setattr(pdf_reader, "_WORKER", script)


def test_a_pdf_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_reader(monkeypatch, tmp_path, "import sys\nwhile True: sys.stdin.read(1)")
    monkeypatch.setattr(pdf_reader, "TIMEOUT", 0.05)
    started = time.monotonic()
    assert refused(pdf([["text"]]), "application/pdf") == "timeout"
    assert time.monotonic() - started < 10


def test_a_pdf_that_kills_its_reader_is_skipped_and_the_next_one_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        fake_reader(patch, tmp_path, "import os\nos.abort()")
        assert refused(pdf([["text"]]), "application/pdf") == "damaged"
    assert read(pdf([["text"]]), "application/pdf").text == "text"
    pdf_reader.close()


def test_the_pdf_reader_is_given_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary")
    code = (
        "import json, os, sys\nsys.stdin.buffer.read(8)\n"
        "print(json.dumps({'title': '', 'pages': [repr(dict(os.environ)) + repr(sys.path)]}), flush=True)"
    )
    fake_reader(monkeypatch, tmp_path, code)
    text = read(pdf([["x"]]), "application/pdf").text
    pdf_reader.close()
    assert "PATH" in text
    assert "canary" not in text
    assert sys.executable
