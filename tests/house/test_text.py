"""Text of others is harmless before a terminal or a log sees it."""

from __future__ import annotations

import json
import unicodedata

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.text import json_safe, one_line, printable, visible

ANY_TEXT = st.text(alphabet=st.characters(), max_size=80)
PIECES = [
    *["\x1b", "[", "]", "0;", "2J", "31m", "\x07", "\x1b\\", "\x9b", "\x9d", "\x9c", "P", "(B", "c", " ", "a", "é"],
    *["\r", "\n", "\t", "\u202e", "\u2066", "\U000e0041", "\ud800", "\x85", "\u2028"],
]
NASTY = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> bool:
    return not any(c in BIDI or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") for c in text)


@given(st.one_of(ANY_TEXT, NASTY))
def test_no_control_character_gets_through(text: str) -> None:
    assert harmless(printable(text))
    assert harmless(visible(text))
    printable(text).encode()
    visible(text).encode()


@given(st.one_of(ANY_TEXT, NASTY))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    assert printable(printable(text)) == printable(text)
    assert visible(visible(text)) == visible(text)


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Zl", "Zp"], include_characters="\n\t"), max_size=80))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert visible(text) == text


@given(st.one_of(ANY_TEXT, NASTY), st.integers(min_value=1, max_value=20))
def test_one_line_is_one_line_within_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert "\n" not in line
    assert len(line) <= limit


@given(st.recursive(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))), st.lists, max_leaves=5))
def test_escaped_json_has_the_same_value(value: object) -> None:
    safe = json_safe(orjson.dumps(value).decode())
    assert orjson.loads(safe) == value
    assert harmless(safe)
    indented = json_safe(json.dumps(value, indent=2, ensure_ascii=False))
    assert json.loads(indented) == value


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[Hgone", "gone"),
        ("\x9b31mred", "red"),
        ("\x1b]0;a title\x07after", "after"),
        ("\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1b]52;c;aGk=\x9cpaste", "paste"),
        ("\x1bP1$tx\x1b\\dcs", "dcs"),
        ("\x1b]0;never ends\nnext line", "0;never ends\nnext line"),
        ("\x1b(Bset", "set"),
        ("\x1bcreset", "reset"),
        ("over\rwritten", "over\nwritten"),
        ("a\r\nb", "a\nb"),
        ("safe \u202eexe.txt", "safe exe.txt"),
        ("hidden\U000e0049\U000e0047", "hidden"),
        ("bell\x07 null\x00 back\b", "bell null back"),
        ("lone \ud800 surrogate", "lone  surrogate"),
        ("👩\u200d👧 नमस्ते مرحبا", "👩\u200d👧 नमस्ते مرحبا"),
    ],
)
def test_sequences_go_and_what_they_wrapped_stays(text: str, clean: str) -> None:
    assert printable(text) == clean


def test_what_is_approved_shows_what_would_be_hidden() -> None:
    assert visible("a\x1b]0;evil\x07b\u202e") == "a\\x1b]0;evil\\x07b\\u202e"
    assert visible("tag\U000e0041 and\u200bspace") == "tag\\U000e0041 and\\u200bspace"
