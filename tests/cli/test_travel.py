"""``retinue runs checkpoints``, ``diff``, ``fork`` and ``replay``, each in a process of its own."""

from __future__ import annotations

import json

from .conftest import Shell


def finished(retinue: Shell) -> str:
    run = retinue.waiting("letter", "Tea")
    assert retinue("answer", run[:6], "--approve").code == 0
    return run


def test_checkpoints_lists_what_ran_what_is_next_and_what_was_asked(retinue: Shell) -> None:
    run = finished(retinue)
    done = retinue("runs", "checkpoints", run[:6])
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].split() == ["STEP", "RAN", "TIME", "NEXT", "QUESTIONS"]
    (told,) = retinue("runs", "checkpoints", run, "--json").lines
    steps = [(step["step"], step["nodes"], step["next"]) for step in told["checkpoints"]]
    assert steps == [(-1, ["input"], ["__start__"]), (0, ["__start__"], ["work"]), (1, ["work"], [])]
    assert [question["status"] for question in told["checkpoints"][2]["questions"]] == ["answered"]


def test_diff_names_the_field_and_the_facts_that_are_new(retinue: Shell) -> None:
    run = finished(retinue)
    (told,) = retinue("runs", "diff", run[:6], "0", "1", "--json").lines
    assert told["state"] == [{"where": "reply", "before": "", "after": "sent to ann@example.org"}]
    assert [fact["where"] for fact in told["facts"]] == [
        f"work@1 {key}" for key in ("intent:0.0", "output", "reply:0", "reply:1", "result:0.0", "task")
    ]
    assert '~ reply: "" -> "sent to ann@example.org"' in retinue("runs", "diff", run[:6], "0", "1").out
    assert retinue("runs", "diff", run[:6], "1", "1").out == "Nothing changed.\n"
    missing = retinue("runs", "diff", run[:6], "0", "7")
    assert missing.code == 2
    assert "has no superstep 7" in missing.err


def test_a_fork_asks_again_and_its_parent_stays_done(retinue: Shell) -> None:
    run = finished(retinue)
    forked = retinue("runs", "fork", run[:6], "--at", "0", "--set", "subject=Milk", "--json")
    assert (forked.code, forked.err) == (10, "")
    first = forked.lines[0]
    assert (first["type"], first["seq"]) == ("run.started", 1)
    assert first["forked_from"] == {"run": run, "step": 0, "changed": ["subject"]}
    assert retinue("answer", first["run"], "--approve").code == 0
    assert [line.partition("#")[2][:5] for line in retinue.sent()] == [" Tea\\", " Milk"]
    assert f"a fork of {run} at step 0" in retinue("runs", "show", first["run"]).out
    assert json.loads(retinue("runs", "show", run, "--json").out)["status"] == "done"


def test_a_replay_sends_nothing_and_its_recording_is_kept(retinue: Shell) -> None:
    run = finished(retinue)
    done = retinue("runs", "replay", run[:6], "--record", "letter.json")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("The same: ")
    kept = json.loads((retinue.folder / "letter.json").read_text(encoding="utf-8"))
    assert (kept["format"], kept["run"], kept["status"]) == ("retinue-recording/1", run, "done")
    assert len(retinue.sent()) == 1
    (told,) = retinue("runs", "replay", run[:6], "--json").lines
    assert told == {"run": run, "same": True, "differences": [], "file": None}


def test_a_fork_is_not_recorded(retinue: Shell) -> None:
    run = finished(retinue)
    fork = retinue("runs", "fork", run[:6], "--at", "1", "--json").lines[0]["run"]
    done = retinue("runs", "replay", fork)
    assert done.code == 2
    assert "it is a fork" in done.err
