"""What a person is shown: all of it, and nothing but it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from retinue.cli.ask import chosen, value_of
from retinue.cli.display import (
    BAR,
    answer_text,
    document_of,
    how_to_answer,
    output_text,
    program,
    question_lines,
    wrapped,
)
from retinue.cli.group import App
from retinue.cli.inputs import put, seconds
from retinue.cli.progress import gist, short_arguments, spent_text
from retinue.cli.reading import span
from retinue.errors import AnswerRejected, UsageError
from retinue.graphs.questions import Question


def question(
    kind: str = "approval", *, schema: dict[str, Any] | None = None, answer: Any = None, **body: Any
) -> Question:
    return Question(
        id="9c36b7aea8b4", run="7f3a12" + "0" * 26, path="", key="", kind=kind, body={"title": "A title", **body},
        schema=schema or {}, status="open", answer=answer, answered_by=None, channel=None, interrupt_id=None,
        asked_at=0.0, expires_at=None, answered_at=None,
    )  # fmt: skip


WORDS = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" 日本語"), max_size=200)


@given(WORDS, st.integers(20, 60))
def test_wrapped_lines_fit_and_lose_nothing_but_the_spaces_they_are_broken_at(line: str, width: int) -> None:
    rest = line
    for piece in wrapped(line, width):
        assert cell_len(piece) <= width
        if not rest.startswith(piece):
            assert rest[0] == " "
            rest = rest[1:]
        assert rest.startswith(piece)
        rest = rest[len(piece) :]
    assert rest in ("", " ")


@given(st.text(max_size=300), st.one_of(st.none(), st.integers(30, 80)))
def test_every_line_of_a_document_stands_behind_the_bar(text: str, width: int | None) -> None:
    shown = list(question_lines(question(arguments={"text": text + "\n"}), width=width))
    assert shown[0] == ("title", "A title")
    for style, line in shown:
        assert style != "text" or line.startswith(BAR)
        assert "\n" not in line
        assert width is None or style != "text" or cell_len(line) < width


def test_short_arguments_are_shown_in_full_and_control_characters_by_name() -> None:
    lines = [line for _, line in question_lines(question(arguments={"to": "a\x1b[31m", "n": 7, "all": ["x"]}))]
    assert lines[1:] == ["to: a\\x1b[31m", "n: 7", "all:", f"{BAR}[", f'{BAR}  "x"', f"{BAR}]"]


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        ({"to": "ann", "text": "Hi"}, "text"),
        ({"to": "ann", "note": "two\nlines"}, "note"),
        ({"subject": "s", "text": "short", "body": "also short"}, None),
        ({"text": "one\ntwo", "body": "one\ntwo\nthree"}, "body"),
        ({"amount": 3}, None),
    ],
)
def test_the_document_among_the_arguments(arguments: dict[str, Any], document: str | None) -> None:
    assert document_of(arguments) == document


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        (question(), "retinue answer 7f3a12 --approve   (or --reject WHY, --edit FILE)"),
        (question("in_doubt"), "retinue answer 7f3a12 --happened   (or --not-happened)"),
        (question("text"), "retinue answer 7f3a12 --text TEXT"),
        (question("choice", schema={"enum": ["a", "b"]}), "retinue answer 7f3a12 --text CHOICE"),
        (question("choice", schema={"type": "boolean"}), "retinue answer 7f3a12 --text CHOICE"),
        (question("text", schema={"type": "integer"}), "retinue answer 7f3a12 --json-value JSON"),
        (question("text", schema={"type": "object"}), "retinue answer 7f3a12 --json-value JSON"),
    ],
)
def test_the_command_fits_the_question(asked: Question, command: str) -> None:
    assert how_to_answer(App(), "7f3a12", asked, alone=True) == command
    assert how_to_answer(App(), "7f3a12", asked, alone=False) == command.replace("7f3a12", "7f3a12 9c36b7aea8b4")


@pytest.mark.parametrize(
    ("kind", "answer", "text"),
    [
        ("approval", {"decision": "approve"}, "approved"),
        ("approval", {"decision": "edit", "arguments": {}}, "approved with changes"),
        ("approval", {"decision": "reject", "reason": "no"}, "rejected: no"),
        ("in_doubt", {"happened": True, "result": "paid"}, "it happened: paid"),
        ("in_doubt", {"happened": False}, "it did not happen"),
        ("text", "Tuesday", "Tuesday"),
        ("choice", 3, "3"),
        ("text", None, ""),
    ],
)
def test_an_answer_in_words(kind: str, answer: Any, text: str) -> None:
    assert answer_text(question(kind, answer=answer)) == text


def test_a_choice_is_meant_by_its_number_or_its_text() -> None:
    assert chosen(["small", "large"], "2") == "large"
    assert chosen(["small", "large"], "SMALL") == "small"
    assert chosen([True, False], "no") is False
    assert chosen([3, 1, 2], "1") == 1  # the number itself, where it is a choice
    with pytest.raises(AnswerRejected):
        chosen(["small"], "9")


def test_typed_text_becomes_what_the_schema_wants() -> None:
    assert value_of({}, "7") == "7"
    assert value_of({"type": "integer"}, "7") == 7
    assert value_of({"type": ["string", "null"]}, "7") == "7"
    with pytest.raises(AnswerRejected):
        value_of({"type": "integer"}, "seven")


def test_an_output_for_people() -> None:
    def summary(output: dict[str, int]) -> str:
        return f"It is {output['a']}\x1b[2J"

    assert output_text({"a": 1}, summary) == "It is 1"
    assert output_text({"reply": "Hi"}) == "Hi"
    assert output_text({"a": 1, "b": "x"}) == '{\n  "a": 1,\n  "b": "x"\n}'
    assert output_text(None) == ""


def test_facts_on_one_line() -> None:
    assert short_arguments({"query": "two\nlines", "limit": 3}) == 'query="two lines" limit=3'
    assert len(short_arguments({"query": "long " * 99, "more": "x" * 99})) <= 72
    assert spent_text(4.21, 3112, 0.0123, 1) == "4.2 s · 3,112 tokens · $0.0123 · 1 turn"
    assert spent_text(312, 0, 0, 0) == "312 s"
    assert gist({"n": 3, "question": "Why?"}, 20) == "Why?"
    assert gist({"n": 3, "m": None}, 20) == "n=3"
    assert [span(s) for s in (3, 200, 7300, 200000)] == ["3 s", "3 min", "2 h", "2 d"]


def test_fields_are_put_where_their_names_say() -> None:
    data: dict[str, Any] = {}
    put(data, "a.b", "[1]")
    put(data, "a.c", "text")
    put(data, "d", "7", as_text=True)
    assert data == {"a": {"b": [1], "c": "text"}, "d": "7"}
    with pytest.raises(UsageError):
        put(data, "d.e", "1")


def test_lengths_of_time() -> None:
    assert [seconds(text) for text in ("90s", "1.5h", "30d", "2w")] == [90, 5400, 2592000, 1209600]
    with pytest.raises(UsageError):
        seconds("tomorrow")


@pytest.mark.parametrize(
    ("called", "on_path", "shown"),
    [
        ("/somewhere/.venv/bin/retinue", True, "retinue"),
        ("/somewhere/.venv/bin/retinue", False, ".venv/bin/retinue"),
        ("/usr/local/bin/retinue", False, "/usr/local/bin/retinue"),
        ("/somewhere/src/retinue/__main__.py", False, "retinue"),
    ],
)
def test_a_command_to_paste_begins_with_what_the_shell_finds(
    monkeypatch: pytest.MonkeyPatch, called: str, on_path: bool, shown: str
) -> None:
    def which(name: str) -> str | None:
        return called if on_path else None

    def relpath(path: str) -> str:
        return path.removeprefix("/somewhere/") if path.startswith("/somewhere/") else "../" * 30 + path

    monkeypatch.setattr("sys.argv", [called])
    monkeypatch.setattr("shutil.which", which)
    monkeypatch.setattr("os.path.relpath", relpath)
    assert program() == shown
