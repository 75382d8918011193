"""At a terminal a question is asked at once, shown whole, and answered by a person."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.terminal import CTRL_C, CTRL_D, Terminal
from tests.support.workflows import NASTY

from .conftest import Shell

MENU = "[l]ater: "


@contextmanager
def asked(retinue: Shell, *args: str) -> Generator[Terminal]:
    with retinue.warm.terminal(retinue.folder, *args) as terminal:
        yield terminal


@pytest.fixture
def editor(retinue: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the editor's place: it runs this shell script on the file."""
    script = retinue.folder / "editor.sh"
    monkeypatch.setenv("EDITOR", f"sh {script}")
    return script


def test_what_is_approved_is_done_in_the_same_process(retinue: Shell) -> None:
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.answer(MENU, "a")
        assert terminal.finish() == 0
    assert "No language model is configured; functions of the workflow do the work." in terminal.text
    assert "Done: sent to ann@example.org" in terminal.text
    assert len(retinue.sent()) == 1


def test_the_whole_document_is_shown_before_it_is_approved(retinue: Shell) -> None:
    with asked(retinue, "run", "letter", "Tea", "--set", "lines=300") as terminal:
        terminal.expect(MENU)
        for number in (1, 150, 300):
            assert f"│ Line {number} of the letter." in terminal.text
        assert "to: ann@example.org" in terminal.text


def test_enter_alone_approves_nothing(retinue: Shell) -> None:
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.expect(MENU)
        terminal.type("\n\nyes\n")
        terminal.expect("Please type one of")
        assert retinue.sent() == []
        terminal.type("later\n")
        assert terminal.finish() == 10


def test_later_leaves_the_question_open_and_says_how_to_answer(retinue: Shell) -> None:
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.answer(MENU, "l")
        assert terminal.finish() == 10
    question = retinue("inbox", "--json").document["questions"][0]
    assert f"Answer with: retinue answer {question['run'][:6]} --approve" in terminal.text


@pytest.mark.parametrize("key", [CTRL_C, CTRL_D])
def test_leaving_a_question_by_key_is_later(retinue: Shell, key: str) -> None:
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.expect(MENU)
        terminal.type(key)
        assert terminal.finish() == 10
    assert "Answer with: retinue answer" in terminal.text
    assert len(retinue("inbox", "--json").document["questions"]) == 1


def test_a_rejection_tells_the_agent_why(retinue: Shell) -> None:
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.answer(MENU, "r")
        terminal.answer("(the agent is told): ", "not on a Sunday")
        assert terminal.finish() == 0
    assert "not on a Sunday" in terminal.text.partition("Done:")[2]
    assert retinue.sent() == []


def test_an_edit_changes_the_document_and_shows_the_difference(retinue: Shell, editor: Path) -> None:
    editor.write_text('sed -i "s/Line 2/Row two/" "$1"')
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.answer(MENU, "e")
        assert terminal.finish() == 0
    assert "│ +Row two of the letter." in terminal.text
    assert retinue.sent() == [
        r"ann@example.org: '# Tea\n\nLine 1 of the letter.\nRow two of the letter.\nLine 3 of the letter.\n'"
    ]


def test_all_arguments_can_be_edited_as_json_and_are_asked_for_again_when_they_do_not_fit(
    retinue: Shell, editor: Path
) -> None:
    editor.write_text('echo "{\\"to\\": 7}" > "$1"')
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.answer(MENU, "j")
        terminal.expect("is a required property")
        editor.write_text('echo "{\\"to\\": \\"bob@example.org\\", \\"text\\": \\"Hi\\"}" > "$1"')
        terminal.answer(MENU, "j")
        assert terminal.finish() == 0
    assert retinue.sent() == ["bob@example.org: 'Hi'"]


@pytest.mark.parametrize(("script", "said"), [("true", "Nothing was changed."), ("exit 1", "The editor failed")])
def test_an_editor_that_changes_nothing_decides_nothing(retinue: Shell, editor: Path, script: str, said: str) -> None:
    editor.write_text(script)
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.answer(MENU, "e")
        terminal.expect(said)
        terminal.answer(MENU, "l")
        assert terminal.finish() == 10
    assert retinue.sent() == []


def test_what_was_typed_before_the_question_is_no_answer_to_it(retinue: Shell) -> None:
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.type("a\na\n")
        terminal.expect(MENU)
        terminal.type("l\n")
        assert terminal.finish() == 10
    assert retinue.sent() == []


def test_nothing_that_a_terminal_obeys_reaches_it_and_all_of_it_is_told(retinue: Shell) -> None:
    with asked(retinue, "run", "nasty", "Tea") as terminal:
        terminal.answer(MENU, "a")
        assert terminal.finish() == 0
    assert not {"\x9b", "\x07", "\u202e"} & set(terminal.raw)
    assert "\x1b]0;owned" not in terminal.raw
    assert "\x1b[2J" not in terminal.raw
    assert r"\x1b]0;owned\x07\x1b[2J\x9b31mred \u202eevil [bold]markup[/bold]" in terminal.text
    assert "characters that a terminal does not show" in terminal.text
    assert repr(NASTY)[1:-1] in retinue.sent()[0]


def test_a_call_in_doubt_is_asked_about(retinue: Shell) -> None:
    with asked(retinue, "run", "doubt", "Tea") as terminal:
        terminal.expect("Did this call of functions/vanish happen?", "what: the payment")
        terminal.answer(MENU, "y")
        terminal.answer("do not know): ", "paid in full")
        assert terminal.finish() == 0
    assert "paid in full" in terminal.text


def test_texts_numbers_and_choices_are_asked_for_until_they_fit(retinue: Shell) -> None:
    with asked(retinue, "run", "talk", "--set", "day=?") as terminal:
        terminal.answer("Enter for later, :e for the editor): ", "Tuesday")
        terminal.expect("many hours")
        terminal.answer("for the editor): ", "soon")
        terminal.expect("this is not JSON")
        terminal.answer("for the editor): ", "0")
        terminal.expect("0 is less than the minimum of 1")
        terminal.answer("for the editor): ", "3")
        terminal.expect("1  small", "2  large")
        terminal.answer("(1–2; Enter for later): ", "medium")
        terminal.expect("is not among the choices")
        terminal.answer("(1–2; Enter for later): ", "2")
        assert terminal.finish() == 0
    output = retinue("runs", "list", "--json").document["runs"][0]["output"]
    assert output == {"day": "Tuesday", "hours": 3, "size": "large"}


def test_of_two_questions_one_can_be_left_for_later(retinue: Shell) -> None:
    with asked(retinue, "run", "pair", "Tea") as terminal:
        terminal.answer(MENU, "a")
        terminal.expect("[l]ater: a")
        terminal.answer(MENU, "l")
        assert terminal.finish() == 10
    assert len(retinue.sent()) == 1
    assert len(retinue("inbox", "--json").document["questions"]) == 1


def test_a_question_answered_in_another_terminal_is_not_asked_any_longer(retinue: Shell) -> None:
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.expect(MENU)
        run = retinue("inbox", "--json").document["questions"][0]["run"]
        elsewhere = retinue("answer", run, "--approve", "--json")
        assert (elsewhere.code, elsewhere.lines[-1]["type"]) == (0, "run.done")
        terminal.expect("Somebody has answered it elsewhere.")
        assert terminal.finish() == 0
    assert "Done: sent to ann@example.org" in terminal.text
    assert len(retinue.sent()) == 1


def test_a_run_that_goes_on_elsewhere_is_shown_and_its_next_question_asked(retinue: Shell) -> None:
    with asked(retinue, "run", "pair", "Tea") as terminal:
        terminal.expect(MENU)
        first, _ = retinue("inbox", "--json").document["questions"]
        assert retinue("answer", first["run"], first["question"], "--approve", "--json").code == 10
        terminal.expect("Somebody has answered it elsewhere.")
        # What is typed before the next question is shown is not taken for an answer to it.
        terminal.expect(MENU, after=terminal.text.index("Somebody has"))
        terminal.type("a\n")
        assert terminal.finish() == 0
    assert len(retinue.sent()) == 2


def test_of_two_terminals_that_answer_one_question_the_first_counts(retinue: Shell) -> None:
    run = retinue.waiting()
    with asked(retinue, "answer", run) as first, asked(retinue, "answer", run) as second:
        first.expect(MENU)
        second.expect(MENU)
        first.type("a\n")
        second.type("r\nno\n")
        codes = [first.finish(), second.finish()]
    assert codes == [0, 0]
    answers = [line for line in retinue("runs", "events", run, "--json").lines if line["type"] == "question.answered"]
    assert len(answers) == 1


def test_ctrl_c_stops_a_run_that_can_be_resumed(retinue: Shell) -> None:
    with asked(retinue, "run", "slow", "Tea") as terminal:
        terminal.expect("functions/look")
        terminal.type(CTRL_C)
        assert terminal.finish() == 130
    run = retinue("runs", "list", "--json").document["runs"][0]
    assert run["status"] == "stopped"
    assert f"Go on with: retinue resume {run['run'][:6]}" in terminal.text
    (retinue.folder / "go").touch()
    done = retinue("resume", run["run"][:6])
    assert (done.code, done.out.splitlines()[-1]) == (0, "seen")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_stops_a_run_in_order(retinue: Shell, number: signal.Signals) -> None:
    with asked(retinue, "run", "slow", "Tea") as terminal:
        terminal.expect("functions/look")
        os.kill(terminal.pid, number)
        assert terminal.finish() == 130
    assert retinue("runs", "list", "--json").document["runs"][0]["status"] == "stopped"


def test_the_second_ctrl_c_leaves_at_once_and_gives_the_terminal_back(retinue: Shell) -> None:
    with asked(retinue, "run", "stubborn", "Tea") as terminal:
        terminal.expect("functions/hold")
        terminal.type(CTRL_C)
        terminal.expect("Ctrl-C again leaves at once")
        terminal.type(CTRL_C)
        assert terminal.finish() == 130
    assert terminal.raw.rstrip().endswith("\x1b[?25h")  # the cursor shows again
    assert retinue("runs", "list", "--json").document["runs"][0]["status"] == "running"
    assert "abandoned" in retinue("runs", "list").out


def test_without_colour_plain_lines_are_shown_and_questions_still_asked(
    retinue: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with asked(retinue, "run", "letter", "Tea") as terminal:
        terminal.answer(MENU, "a")
        assert terminal.finish() == 0
    assert "\x1b" not in terminal.raw
    assert "work@1: calls mail/send" in terminal.text


def test_an_answer_without_flags_asks(retinue: Shell) -> None:
    run = retinue.waiting()
    with asked(retinue, "answer", run[:6]) as terminal:
        terminal.expect("clerk wants to call mail/send", "│ Line 3 of the letter.")
        terminal.answer(MENU, "a")
        assert terminal.finish() == 0
    assert len(retinue.sent()) == 1
