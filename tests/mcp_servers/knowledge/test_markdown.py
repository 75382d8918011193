from __future__ import annotations

import pytest

from retinue.mcp_servers.knowledge.markdown import blocks, plain


def kinds(text: str) -> list[tuple[str, str]]:
    return [(block.kind, text[block.start : block.end]) for block in blocks(text)]


def test_blocks_are_found_with_their_markers() -> None:
    text = "# Head\n\npara\nmore\n\n- item\n\n  inner\n\n> quote\n\n***\n\n| a |\n|---|\n| 1 |\n\nSet\n---\n"
    assert kinds(text) == [
        ("heading", "# Head"),
        ("paragraph", "para\nmore"),
        ("list", "- item"),
        ("list", "  inner"),
        ("quote", "> quote"),
        ("rule", "***"),
        ("table", "| a |\n|---|\n| 1 |"),
        ("heading", "Set\n---"),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_offsets_hold_for_every_line_end(newline: str) -> None:
    text = newline.join(["---", "title: x", "---", "# Head", "", "para", "", "```", "# no", "```", "", "## Two"])
    assert [(kind, piece) for kind, piece in kinds(text) if kind == "heading"] == [
        ("heading", "# Head"),
        ("heading", "## Two"),
    ]


def test_a_byte_order_mark_does_not_hide_a_heading() -> None:
    text = "\ufeff# Head\n"
    assert kinds(text) == [("heading", "# Head")]


def test_headings_in_containers_are_told_apart() -> None:
    assert [(b.title, b.depth) for b in blocks("# a\n\n> # b\n\n- # c\n") if b.kind == "heading"] == [
        ("a", 0),
        ("b", 1),
        ("c", 1),
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("The `Store` *class*", "The Store class"),
        ('See [the docs](https://x.y/z "t") and ![logo](l.png)', "See the docs and logo"),
        ("snake_case_name stays", "snake_case_name stays"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        (r"a \* b \# c", "a * b # c"),
        ("Install {#install}", "Install"),
        ("<a id='x'></a>Anchored", "Anchored"),
    ],
)
def test_titles_lose_their_markup(source: str, expected: str) -> None:
    assert plain(source) == expected
