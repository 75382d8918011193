"""Each command without a terminal: exit code, what goes to stdout, what to stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from retinue.cli import COMMANDS, cli
from retinue.cli.errors import execute
from retinue.cli.group import App
from tests.support.terminal import ROOT

from .conftest import Shell


def test_without_a_terminal_the_document_is_printed_and_how_to_answer(retinue: Shell) -> None:
    done = retinue("run", "letter", "Tea")
    assert done.code == 10
    assert done.err.startswith("No language model is configured; functions of the workflow do the work.")
    assert "  │ Line 3 of the letter.\n" in done.out
    last = done.out.splitlines()[-1]
    run = retinue("inbox", "--json").document["questions"][0]["run"]
    assert last.startswith(f"Run {run[:6]} waits. Answer with: retinue answer {run[:6]} --approve")


def test_the_answer_ends_with_the_workflows_own_summary(retinue: Shell) -> None:
    run = retinue.waiting()
    done = retinue("answer", run[:6], "--approve")
    assert (done.code, done.out) == (0, "**Done:** sent to ann@example.org\n")


def test_the_command_that_answers_keeps_the_options_it_needs(retinue: Shell, folder: Path) -> None:
    done = retinue("--database", "other file.db", "run", "letter", "Tea")
    command = done.out.splitlines()[-1].partition("Answer with: ")[2].partition("   (")[0]
    assert "--database 'other file.db'" in command
    done = subprocess.run(
        ["bash", "-c", command.replace("retinue", f"{sys.executable} -m retinue", 1)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "**Done:** sent to ann@example.org\n"


def test_global_options_may_stand_anywhere(retinue: Shell) -> None:
    assert retinue("run", "letter", "Tea", "--database", "b.db").code == 10
    assert "clerk wants" in retinue("inbox", "--database", "b.db").out
    assert retinue("inbox").out == "No question waits for you.\n"


def test_calls_approved_in_advance_are_not_asked_about(retinue: Shell) -> None:
    done = retinue("run", "letter", "Tea", "--approve", "mail/*")
    assert (done.code, len(retinue.sent())) == (0, 1)


def test_input_from_a_file_and_single_fields(retinue: Shell) -> None:
    (retinue.folder / "in.json").write_text('{"subject": "From a file", "lines": 1}')
    retinue("run", "letter", "--input", "in.json", "--set", "lines=2", "--approve", "*")
    assert "# From a file" in retinue.sent()[0]
    assert "Line 2" in retinue.sent()[0]
    (retinue.folder / "in.toml").write_text('subject = "3"\n')
    retinue("run", "letter", "--input", "in.toml", "--set", "subject=4", "--approve", "*")
    assert "# 4" in retinue.sent()[1]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["run", "lettre", "x"], 2, "there is no workflow 'lettre'; did you mean 'letter'?"),
        (["run", "letter"], 2, "letter needs its subject"),
        (["run", "letter", "x", "--set", "lines=many"], 2, "the input of letter is not valid: lines:"),
        (["run", "letter", "x", "--budget", "tokens=few"], 2, "--budget: tokens should be a number, not 'few'"),
        (["run", "letter", "--input", "none.json"], 2, "none.json cannot be read: No such file or directory"),
        (["run", "letter", "x", "--library", "nowhere"], 2, "--library: there is no folder nowhere"),
        (["run", "failing", "tool"], 5, "the mail server said no"),
        (["run", "failing", "timeout"], 124, "it took too long"),
        (["rnu"], 2, "No such command 'rnu'. Did you mean 'run'?"),
        (["runs", "lst"], 2, "No such command 'lst'. Did you mean 'list'?"),
        (["answer", "abc", "--approve", "--reject", "no"], 2, "--approve and --reject are different answers"),
        (["answer", "abc"], 2, "what is the answer?"),
        (["runs", "prune", "--older-than", "soon"], 2, "'soon' is no length of time"),
        (["runs", "show", "abc"], 2, "there is no run abc: there is no database yet"),
        (["mcp", "serve", "workspace"], 2, "say how to serve it"),
        (["mcp", "serve", "kitchen", "--stdio"], 2, "there is no built-in server 'kitchen'"),
        (["mcp", "serve", "workspace", "--http", "nonsense"], 2, "--http takes HOST:PORT, not 'nonsense'"),
        (["mcp", "tools", "kitchen"], 2, "there is no server 'kitchen'"),
        (["audit", "verify", "--head", "x"], 2, "a head looks like"),
    ],
)
def test_an_error_is_a_sentence_and_a_hint_on_stderr(retinue: Shell, args: list[str], code: int, message: str) -> None:
    if args[0] == "audit":
        retinue.waiting()
    done = retinue(*args)
    assert (done.code, done.out) == (code, "")
    error = next(line for line in done.err.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: {message}")
    assert "Traceback" not in done.err


def test_a_run_is_named_by_the_beginning_of_its_id_and_a_near_miss_is_told(retinue: Shell) -> None:
    run = retinue.waiting()
    assert retinue("runs", "show", run[:4]).code == 0
    wrong = run[:5] + ("0" if run[5] != "0" else "1")
    done = retinue("runs", "show", wrong)
    assert done.err.startswith(f"error: there is no run {wrong}; did you mean {run[:6]}?")


def test_a_bug_is_told_without_a_traceback_which_goes_to_the_log(retinue: Shell) -> None:
    (retinue.folder / "broken.py").write_text("class W:\n    name = 'w'\n    graph = None\nw = W()\n")
    done = retinue("graph", "broken:w")
    assert (done.code, done.out) == (1, "")
    found = re.fullmatch(r"error: internal error \(id (\w+)\)\nhint: The details are in (.+)\.\n", done.err)
    assert found is not None
    log = Path(found[2])
    assert f"internal error {found[1]}" in log.read_text()
    assert "AttributeError" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert "AttributeError" in retinue("--verbose", "graph", "broken:w").err


def test_control_characters_in_an_error_are_stripped(retinue: Shell) -> None:
    done = retinue("run", "failing", "node")
    assert done.code == 1
    assert "error: ValueError: a red mistake" in done.err
    assert "\x1b" not in done.err


# Answering


def test_a_rejection_an_edited_document_and_edited_arguments(retinue: Shell) -> None:
    assert retinue("answer", retinue.waiting(), "--reject", "too long").code == 0
    assert retinue.sent() == []
    (retinue.folder / "new.md").write_text("A new letter.\n")
    assert retinue("answer", retinue.waiting(), "--edit", "new.md").code == 0
    (retinue.folder / "new.json").write_text('{"to": "bob@example.org", "text": "Hi"}')
    assert retinue("answer", retinue.waiting(), "--edit", "new.json").code == 0
    assert retinue.sent() == [r"ann@example.org: 'A new letter.\n'", "bob@example.org: 'Hi'"]


def test_a_call_in_doubt_is_settled_by_flags(retinue: Shell) -> None:
    done = retinue("answer", retinue.waiting("doubt"), "--happened", "--result", "paid")
    assert (done.code, done.out) == (0, "paid\n")
    again = retinue("answer", retinue.waiting("doubt"), "--not-happened")
    assert again.code == 10  # it was called again, and again nothing came back


def test_texts_and_values_answer_questions_of_a_workflows_own(retinue: Shell) -> None:
    run = retinue("run", "talk", "--set", "day=?", "--json").lines[-1]["run"]
    assert retinue("answer", run, "--text", "Tuesday").code == 10
    wrong = retinue("answer", run, "--json-value", "0")
    assert (wrong.code, "0 is less than the minimum of 1" in wrong.err) == (2, True)
    assert retinue("answer", run, "--json-value", "3").code == 10
    assert "not among the choices" in retinue("answer", run, "--text", "medium").err
    done = retinue("answer", run, "--text", "large", "--json")
    assert done.lines[-1]["output"] == {"day": "Tuesday", "hours": 3, "size": "large"}


@pytest.mark.parametrize(
    ("workflow", "flag", "fits"),
    [("letter", "--text=x", "--approve"), ("letter", "--happened", "--approve"), ("doubt", "--approve", "--happened")],
)
def test_an_answer_of_the_wrong_kind_says_which_would_fit(retinue: Shell, workflow: str, flag: str, fits: str) -> None:
    done = retinue("answer", retinue.waiting(workflow), flag)
    assert done.code == 2
    assert fits in done.err


def test_of_several_questions_one_must_be_named(retinue: Shell) -> None:
    run = retinue.waiting("pair")
    done = retinue("answer", run, "--approve")
    assert (done.code, "has 2 open questions" in done.err) == (2, True)
    first, second = retinue("inbox", "--json").document["questions"]
    assert retinue("answer", run, first["question"], "--approve").code == 10
    assert f"retinue answer {run[:6]} --approve" in retinue("inbox").out
    assert retinue("answer", run, second["question"][:4], "--approve").code == 0
    assert len(retinue.sent()) == 2


def test_an_answer_can_be_kept_without_going_on(retinue: Shell) -> None:
    run = retinue.waiting()
    done = retinue("answer", run, "--approve", "--no-resume")
    assert done.out == f"The answer is kept. Go on with: retinue resume {run[:6]}\n"
    assert retinue.sent() == []
    assert retinue("answer", run, "--approve").code == 2
    assert retinue("resume", run[:6]).code == 0
    assert len(retinue.sent()) == 1


# Control


def test_a_cancelled_run_is_over(retinue: Shell) -> None:
    run = retinue.waiting()
    assert retinue("cancel", run).out == f"Run {run[:6]} is cancelled.\n"
    assert retinue("inbox").out == "No question waits for you.\n"
    assert retinue("resume", run).code == 1
    assert retinue("cancel", run).code == 1


def test_a_run_in_another_process_is_busy_and_ends_when_it_is_cancelled(retinue: Shell) -> None:
    with retinue.warm.terminal(retinue.folder, "run", "slow", "Tea") as terminal:
        terminal.expect("functions/look")
        run = retinue("runs", "list", "--json").document["runs"][0]["run"]
        busy = retinue("resume", run, "--json")
        assert (busy.code, busy.lines[-1]["error"]["code"]) == (1, "run_busy")
        assert "was asked to end it" in retinue("cancel", run).out
        assert terminal.finish() == 1
    assert retinue("runs", "show", run, "--json").document["status"] == "cancelled"


def test_following_a_run_of_another_process_ends_with_it(retinue: Shell) -> None:
    with retinue.warm.terminal(retinue.folder, "run", "slow", "Tea") as terminal:
        terminal.expect("functions/look")
        run = retinue("runs", "list", "--json").document["runs"][0]["run"]
        with retinue.warm.terminal(retinue.folder, "runs", "events", run, "--follow") as follower:
            follower.expect("calls functions/look")
            (retinue.folder / "go").touch()
            assert terminal.finish() == 0
            assert follower.finish() == 0
            assert f"Run {run[:6]} is done." in follower.text


def test_a_run_that_lost_its_process_is_recovered(retinue: Shell) -> None:
    assert retinue("recover").out == "There is nothing to recover.\n"
    with retinue.warm.terminal(retinue.folder, "run", "slow", "Tea") as terminal:
        terminal.expect("functions/look")
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.finish()
    run = retinue("runs", "list", "--json").document["runs"][0]["run"]
    assert "abandoned" in retinue("runs", "show", run).out
    assert f"retinue recover {run[:6]}" in retinue("runs", "show", run).out
    (retinue.folder / "go").touch()
    done = retinue("recover", "--json")
    assert (done.code, done.lines[0]["type"], done.lines[-1]["type"]) == (0, "run.resumed", "run.done")
    assert retinue("recover", run).err.startswith(f"error: run {run[:6]} was not abandoned: it is done")


# Reading


def test_runs_are_listed_shown_and_pruned(retinue: Shell) -> None:
    assert retinue("runs", "list").out == "There are no runs.\n"
    run = retinue("run", "paid", "Tea", "--json").lines[-1]["run"]
    waiting = retinue.waiting()
    listed = retinue("runs", "list").out.splitlines()
    assert [line.split()[:3] for line in listed[1:]] == [[waiting[:6], "waiting", "letter"], [run[:6], "done", "paid"]]
    assert "$0.0060" in listed[2]
    assert retinue("runs", "list", "--status", "failed").out == "There are no such runs.\n"
    shown = retinue("runs", "show", run[:6]).out
    assert f"paid {run}  done" in shown
    assert "writer  1 turn  1,200 tokens  $0.0060" in shown
    assert "A short answer." in shown
    assert retinue("runs", "prune", "--older-than", "0s", "--dry-run").out.splitlines()[0] == "1 run would be pruned."
    assert retinue("runs", "prune", "--older-than", "0s").out == "1 run pruned.\n"
    assert retinue("runs", "show", run).code == 2
    assert retinue("audit", "verify").code == 0


def test_the_audit_trail_is_verified_against_a_head_that_was_kept(retinue: Shell) -> None:
    retinue.waiting()
    head = retinue("audit", "verify", "--json").document["head"]
    retinue.waiting()
    assert retinue("audit", "verify", "--head", head).code == 0
    number, _, hash_ = head.partition(":")
    done = retinue("audit", "verify", "--head", f"{number}:{'0' * len(hash_)}")
    assert (done.code, done.err.splitlines()[0].startswith("error: the audit trail is broken")) == (1, True)


def test_workflows_are_listed_with_what_is_wrong_with_them(retinue: Shell) -> None:
    with (retinue.folder / "retinue.toml").open("a") as file:
        file.write('gone = "nowhere:flow"\n')
    done = retinue("workflows")
    assert done.code == 0
    assert 'letter "SUBJECT"  Writes a letter and asks before it is sent.' in done.out
    assert "there is no module 'nowhere'" in done.out
    listed = {w["name"]: w for w in retinue("workflows", "--json").document["workflows"]}
    assert listed["letter"]["agents"] == ["clerk"]
    assert listed["gone"]["error"]


def test_the_graph_is_printed_as_mermaid(retinue: Shell) -> None:
    done = retinue("graph", "letter")
    assert done.code == 0
    assert "graph TD;" in done.out
    assert "work" in done.out


def test_config_show_names_origins_and_validate_names_mistakes(retinue: Shell) -> None:
    assert re.search(r"^database +\S+/runs\.db +\S+/retinue\.toml:1$", retinue("config", "show").out, re.MULTILINE)
    assert retinue("config", "validate").out.startswith("The configuration is valid (")
    assert retinue("config", "path").out == f"{retinue.folder}/retinue.toml\n"
    (retinue.folder / "retinue.toml").write_text("modle = 1\n")
    done = retinue("config", "validate")
    assert done.code == 2
    assert "retinue.toml:1: modle: there is no such setting; did you mean 'model'?" in done.err


def test_a_file_is_up_to_date_once_it_is_there(retinue: Shell) -> None:
    assert retinue("db", "status").out == "There is no database yet; the first run makes it.\n"
    assert retinue("db", "upgrade").out == "The database is up to date.\n"
    status = retinue("db", "status", "--json")
    assert (status.code, status.document["problem"]) == (0, "")
    assert status.document["schema"] == status.document["newest"]


def test_completion_is_switched_on_by_a_line(retinue: Shell) -> None:
    assert retinue("completion", "zsh").out == 'eval "$(_RETINUE_COMPLETE=zsh_source retinue)"\n'


def test_the_shell_is_offered_commands_workflows_and_runs(retinue: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    run = retinue.waiting()

    def offered(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_RETINUE_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        return [item.partition(",")[2] for item in retinue().out.split()]

    assert offered("retinue ru") == ["run", "runs"]
    assert offered("retinue run le") == ["letter"]
    assert offered("retinue answer ") == [run[:6]]
    assert offered("retinue --database none.db answer ") == []
    assert "--older-than" in offered("retinue runs prune --")


# The doctor


def checks(done: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for check in done.document["checks"]:
        found.setdefault(check["check"], []).append(check["verdict"])
    return found


def test_the_doctor_finds_a_healthy_house(retinue: Shell) -> None:
    retinue.waiting()
    done = retinue("doctor", "--json")
    assert done.code == 0
    found = checks(done)
    assert found.keys() == {
        "python", "packages", "configuration", "state", "database", "audit", "model", "workflows", "telemetry",
    }  # fmt: skip
    assert "bad" not in {verdict for verdicts in found.values() for verdict in verdicts}
    text = retinue("doctor").out
    assert "no language model is configured" in text


def test_the_doctor_names_what_is_bad(retinue: Shell) -> None:
    retinue.waiting()
    (retinue.folder / "runs.db").chmod(0o644)
    with (retinue.folder / "retinue.toml").open("a") as file:
        file.write('gone = "nowhere:flow"\n[servers.mail]\ncommand = "no-such-program"\n')
        file.write('[servers.facts]\nurl = "https://facts.example/mcp"\ntokens = "dpop+bearer"\n')
    done = retinue("doctor", "--json")
    assert done.code == 1
    found = checks(done)
    assert found["database"] == ["ok", "bad"]
    assert found["servers"] == ["bad", "ok", "note"]
    assert "bad" in found["workflows"]
    text = " ".join(check["text"] for check in done.document["checks"])
    assert "facts takes bearer tokens, too" in text
    assert "no-such-program is not found" in text


def test_the_doctor_says_which_model_and_why_without_naming_a_secret(
    retinue: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary")
    done = retinue("doctor", "--json")
    (model,) = [check for check in done.document["checks"] if check["check"] == "model"]
    assert "since ANTHROPIC_API_KEY is set" in model["text"]
    assert "canary" not in done.out


def test_the_doctor_reports_a_file_that_is_no_database(retinue: Shell) -> None:
    (retinue.folder / "runs.db").write_text("not a database, by far" * 100)
    done = retinue("doctor", "--json")
    assert (done.code, checks(done)["database"]) == (1, ["bad"])


# Help


def all_commands(group: click.Group, *above: str) -> list[list[str]]:
    found = [list(above)]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found += all_commands(command, *above, name) if isinstance(command, click.Group) else [[*above, name]]
    return found


@pytest.mark.parametrize("path", all_commands(cli), ids=" ".join)
def test_every_help_fits_a_terminal(path: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(cli, [*path, "--help"], App()) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("Usage: retinue")
    assert max(map(len, shown.out.splitlines())) < 100


def test_what_the_program_says_of_a_command_is_what_the_command_says() -> None:
    listed = {name: text for commands in COMMANDS.values() for name, text in commands.items()}
    context = click.Context(cli)
    assert set(listed) == set(cli.list_commands(context))
    for name in listed:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help


def test_the_module_runs_as_a_program(folder: Path) -> None:
    for module in ("retinue", "retinue.cli"):
        done = subprocess.run(
            [sys.executable, "-m", module, "inbox", "--json"],
            cwd=folder, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == {"questions": []}
