from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.mcp_servers.knowledge.text import Span, sentences, terms


def split(text: str, *, markdown: bool = True, lists: bool = False) -> list[str]:
    return [text[span.start : span.end] for span in sentences(text, markdown=markdown, lists=lists)]


# Sentences


def test_sentences_end_at_their_marks_and_carry_their_offsets() -> None:
    text = "One here. Two there! Three?"
    assert sentences(text) == [Span(0, 9), Span(10, 20), Span(21, 27)]


@pytest.mark.parametrize(
    "sentence",
    [
        "See e.g. the manual, Fig. 3 and Dr. J. Smith's note.",
        "Version 1.2.3 costs 4.50 euros.",
        "Call `run(). Then` stop.",
        "It says ``a `b. C` d. E`` here.",
        "Wait... then go on.",
        "Das gilt z.B. für Nr. 5.",
        "A line\nthat is wrapped\nthree times.",
        "It runs on node.js and ends there.",
    ],
)
def test_these_are_one_sentence(sentence: str) -> None:
    assert split(f"Before it. {sentence} After it.") == ["Before it.", sentence, "After it."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Quoted." Next.', ['"Quoted."', "Next."]),
        ("(In brackets.) Next.", ["(In brackets.)", "Next."]),
        ("**Bold claim.** Next.", ["**Bold claim.**", "Next."]),
        ("So do I. You too.", ["So do I.", "You too."]),
        ("It ended in 2024. The rest followed.", ["It ended in 2024.", "The rest followed."]),
        ("Bread, milk etc. All fresh.", ["Bread, milk etc.", "All fresh."]),
        ("承認が必要です。三十日以内です！本当？", ["承認が必要です。", "三十日以内です！", "本当？"]),
        ("「はい。」彼は言った。", ["「はい。」", "彼は言った。"]),
        ("One.\r\n\r\nTwo.", ["One.", "Two."]),
        ("No mark at the end", ["No mark at the end"]),
        ("An unclosed `tick. Next.", ["An unclosed `tick.", "Next."]),
    ],
)
def test_these_are_several(text: str, expected: list[str]) -> None:
    assert split(text) == expected


MARKDOWN = """---
title: Front matter. Not prose.
---
# A heading. With a dot

Prose one. Prose two.

- Item one. Item two.
  Item three.
- [ ] A task. Another.

1. Numbered. Yes.

> Quoted. Words.

| Cell. One | Cell. Two |
|---|---|
| a. B | c. D |

```python
code = "Not. Prose."
```

    indented.code()

<div>
Html. Block.
</div>

Prose three.
"""


def test_only_running_text_of_markdown_is_split() -> None:
    assert split(MARKDOWN) == ["Prose one.", "Prose two.", "Prose three."]


def test_lists_are_split_on_request_without_their_markers() -> None:
    assert split(MARKDOWN, lists=True) == [
        "Prose one.",
        "Prose two.",
        "Item one.",
        "Item two.",
        "Item three.",
        "A task.",
        "Another.",
        "Numbered.",
        "Yes.",
        "Prose three.",
    ]


def test_plain_text_has_no_markup_to_leave_out() -> None:
    assert split("# One.\n\n    Two.\n\n| Three.", markdown=False) == ["# One.", "Two.", "| Three."]


def test_nothing_but_signs_is_no_sentence() -> None:
    assert split("...\n\n!?\n\n--- . ---") == []


def test_an_empty_text_has_no_sentences() -> None:
    assert split("") == split("\ufeff") == []


@given(
    text=st.text(alphabet="aB.!?。`*- \n\r#>|1[]'\"é\ufeff", max_size=200), markdown=st.booleans(), lists=st.booleans()
)
def test_sentences_lie_in_order_inside_the_text_without_space_around_them(
    text: str, markdown: bool, lists: bool
) -> None:
    last = 0
    for start, end in sentences(text, markdown=markdown, lists=lists):
        assert last <= start < end <= len(text)
        assert text[start:end].strip() == text[start:end]
        last = end


# Terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("approved", "approves"),
        ("Refunds", "refund"),
        ("café", "CAFE"),
        ("Straße", "STRASSE"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("ﬁle", "file"),
        ("Łódź", "lodz"),
        ("Ærø", "aero"),
        ("e\u0301te\u0301", "été"),
        ("שָׁלוֹם", "שלום"),
        ("ｶﾞｽ", "ガス"),
    ],
)
def test_two_spellings_give_the_same_terms(one: str, other: str) -> None:
    assert terms(one) == terms(other) != []


def test_stop_words_of_the_texts_own_language_are_left_out() -> None:
    assert terms("How does the refund get approved?") == ["refund", "approv"]
    assert terms("Wie lange ist die Frist für den Vertrag?") == ["lang", "frist", "vertrag"]
    assert terms("Quelle est la date de la résiliation ?") == ["date", "resili"]


def test_stop_words_stay_on_request_and_where_there_is_nothing_else() -> None:
    assert terms("the refund", keep_stop_words=True) == ["the", "refund"]
    assert terms("to be or not to be") == ["to", "be", "or", "not", "to", "be"]


def test_terms_keep_order_and_repetition() -> None:
    assert terms("money, refund; money") == ["money", "refund", "money"]


def test_scripts_without_word_breaks_become_pairs() -> None:
    assert terms("返金は") == ["返金", "金は"]
    assert terms("猫") == ["猫"]
    assert terms("iPhone手机v2") == ["iphon", "手机", "v2"]


def test_signs_and_emoji_are_no_terms() -> None:
    assert terms("😀 — … !? \x00 \ud800 _") == []


@given(text=st.text(max_size=100))
def test_terms_are_fit_for_the_index(text: str) -> None:
    for term in terms(text):
        assert term
        assert not any(c.isspace() or (c.isascii() and not c.isalnum()) for c in term)
