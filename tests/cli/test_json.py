"""With ``--json`` stdout holds JSON lines and nothing else, from the first process through the last."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from retinue.graphs.events import parse
from tests.support.terminal import ROOT, wait_for
from tests.support.workflows import NASTY

from .conftest import Shell


def _texts(value: Any) -> Iterator[str]:
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in cast("dict[str, Any]", value).values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in cast("list[Any]", value):
            yield from _texts(inner)


def test_a_run_that_waits_ends_with_exit_code_10_and_a_line_of_that_type(retinue: Shell) -> None:
    done = retinue("run", "letter", "Tea", "--json")
    assert (done.code, done.err) == (10, "")
    assert done.lines[0]["type"] == "run.started"
    assert done.lines[0]["language_model"] is False
    assert done.lines[-1]["type"] == "run.waiting"


def test_the_numbers_have_no_gap_through_both_processes(retinue: Shell) -> None:
    first = retinue("run", "letter", "Tea", "--json")
    run = first.lines[-1]["run"]
    second = retinue("answer", run[:6], "--approve", "--json")
    assert (second.code, second.err) == (0, "")
    assert second.lines[0]["type"] == "question.answered"
    assert second.lines[-1]["type"] == "run.done"
    both = [*first.lines, *second.lines]
    for line in both:
        assert {"type", "run", "ts"} <= line.keys()
        parse(line)
        assert ("seq" in line) != ("after" in line)
    stored = [line for line in both if "seq" in line]
    assert [line["seq"] for line in stored] == list(range(1, len(stored) + 1))
    again = retinue("runs", "events", run[:6], "--json")
    assert again.lines == stored
    assert len(retinue.sent()) == 1


def test_text_as_it_comes_says_after_which_event_it_came(retinue: Shell) -> None:
    done = retinue("run", "paid", "Tea", "--json")
    deltas = [line for line in done.lines if line["type"] == "text.delta"]
    assert "".join(line["text"] for line in deltas) == "A short answer."
    calls = {line["seq"] for line in done.lines if line["type"] == "model.called"}
    assert {line["after"] for line in deltas} <= calls


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["run", "lettre", "Tea"], 2, "workflow_not_found"),
        (["run", "letter", "--set", "nonsense=1"], 2, "invalid_input"),
        (["run", "letter", "Tea", "--budget", "money=1"], 2, "usage"),
        (["run", "letter", "Tea", "--no-such-option"], 2, "usage"),
        (["answer", "abc123", "--approve"], 2, "run_not_found"),
        (["runs", "show", "zzz"], 2, "run_not_found"),
        (["resume", "abc123"], 2, "run_not_found"),
        (["inbox", "--config", "nowhere.toml"], 2, "config_invalid"),
    ],
)
def test_an_error_before_a_run_is_one_json_object_on_stdout(
    retinue: Shell, args: list[str], code: int, error: str
) -> None:
    done = retinue(*args, "--json")
    assert (done.code, done.err) == (code, "")
    assert done.document["error"].keys() == {"code", "message", "hint"}
    assert done.document["error"]["code"] == error
    assert done.out.count("\n") == 1


@pytest.mark.parametrize(
    ("how", "code", "error"),
    [
        ("tool", 5, "tool_failed"),
        ("sign-in", 3, "sign_in_needed"),
        ("unreachable", 4, "unreachable"),
        ("timeout", 124, "timeout"),
        ("node", 1, "node_failed"),
    ],
)
def test_a_failed_run_exits_with_the_code_of_its_error(retinue: Shell, how: str, code: int, error: str) -> None:
    done = retinue("run", "failing", how, "--json")
    assert done.code == code
    assert done.lines[-1]["type"] == "run.failed"
    assert done.lines[-1]["error"]["code"] == error


def test_a_refused_run_exits_with_1(retinue: Shell) -> None:
    done = retinue("run", "letter", "Tea", "--budget", "turns=0", "--json")
    assert (done.code, done.lines[-1]["type"]) == (1, "run.refused")


def test_an_error_after_the_run_began_is_a_line_of_its_own(retinue: Shell) -> None:
    run = retinue.waiting()
    (retinue.folder / "retinue.toml").write_text('database = "runs.db"\nstate = "state"\n', encoding="utf-8")
    done = retinue("answer", run, "--approve", "--json")
    assert done.code == 2
    last = done.lines[-1]
    assert last["type"] == "error"
    assert last["run"] == run
    assert last["error"]["code"] == "workflow_not_found"


def test_stopping_ends_with_a_line_that_says_so(retinue: Shell) -> None:
    out = retinue.folder / "lines"
    pid = retinue.warm.start(
        ["run", "slow", "Tea", "--json"], retinue.folder, stdin=os.devnull, stdout=str(out), stderr=os.devnull
    )
    wait_for(lambda: out.exists() and "tool.called" in out.read_text())
    os.kill(pid, signal.SIGINT)
    assert retinue.warm.wait(pid) == 130
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[-1]["type"] == "run.stopped"
    assert [line["seq"] for line in lines if "seq" in line] == list(range(1, len(lines) + 1))


def test_an_answer_to_a_run_at_work_elsewhere_is_taken_there(retinue: Shell) -> None:
    out = retinue.folder / "lines"
    pid = retinue.warm.start(
        ["run", "both", "Tea", "--json"], retinue.folder, stdin=os.devnull, stdout=str(out), stderr=os.devnull
    )
    wait_for(lambda: out.exists() and "question.asked" in out.read_text() and "tool.called" in out.read_text())
    run = json.loads(out.read_text().splitlines()[0])["run"]
    answered = retinue("answer", run, "--approve", "--json")
    assert answered.code == 0
    assert answered.lines[0]["type"] == "question.answered"
    (retinue.folder / "go").touch()
    assert retinue.warm.wait(pid) == 0
    stored = [line for line in map(json.loads, out.read_text().splitlines()) if "seq" in line]
    assert [line["seq"] for line in stored] == list(range(1, len(stored) + 1))
    assert stored[-1]["output"] == {"subject": "Tea", "reply": "sent to ann@example.org", "seen": "seen"}


def test_nothing_that_a_terminal_obeys_is_in_json(retinue: Shell) -> None:
    run = retinue.waiting("nasty")
    for args in (["answer", run, "--approve"], ["runs", "show", run], ["runs", "events", run]):
        done = retinue(*args, "--json")
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(done.out)
        assert any(NASTY in value for line in done.lines for value in _texts(line))


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (["inbox"], "questions"),
        (["runs", "list"], "runs"),
        (["runs", "prune", "--older-than", "30d"], "pruned"),
        (["workflows"], "workflows"),
        (["config", "show"], "settings"),
        (["config", "validate"], "valid"),
        (["config", "path"], "files"),
        (["audit", "verify"], "head"),
        (["doctor"], "checks"),
    ],
)
def test_reading_commands_print_one_document_also_without_a_database(retinue: Shell, args: list[str], key: str) -> None:
    done = retinue(*args, "--json")
    assert (done.code, done.err) == (0, "")
    assert key in done.document
    assert not (retinue.folder / "runs.db").exists()


def test_runs_show_tells_what_each_agent_spent(retinue: Shell) -> None:
    run = retinue("run", "paid", "Tea", "--json").lines[-1]["run"]
    shown = retinue("runs", "show", run, "--json").document
    assert shown["agents"] == {"writer": {"tokens": 1200, "usd": 0.006, "turns": 1}}
    assert shown["status"] == "done"
    assert shown["output"] == {"reply": "A short answer."}


def test_events_after_a_number(retinue: Shell) -> None:
    run = retinue.waiting()
    assert [line["seq"] for line in retinue("runs", "events", run, "--json", "--after", "4").lines] == [5, 6]


def test_a_reader_that_goes_away_stops_the_run_quietly(retinue: Shell, folder: Path) -> None:
    script = f"{sys.executable} -m retinue run slow Tea --json 2>err.txt | head -1; echo ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=True, env=env
    )
    first, code = done.stdout.splitlines()
    assert '"run.started"' in first
    assert (code, (folder / "err.txt").read_text()) == ("141", "")
    assert retinue("runs", "list", "--json").document["runs"][0]["status"] == "stopped"
    (folder / "go").touch()
    assert retinue("resume", json.loads(first)["run"]).code == 0
