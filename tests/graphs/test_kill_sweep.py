"""Killing a run anywhere loses nothing and repeats nothing that is known to have happened.

Each test takes one kind of point (a kind of commit, or an effect), kills a process with SIGKILL at every point of that
kind, lets another process take the run over, and compares what is left with a run that nobody killed.
"""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from retinue import audit
from retinue.database.sqlite import SQLiteDatabase
from retinue.graphs import follow, records
from retinue.graphs.events import Line, parse
from tests.graphs.kill_child import lines

ROOT = Path(__file__).parents[2]
WORKERS = 3

COMMITS = {"start": 1, "journal": 21, "writes": 7, "checkpoint": 6, "pause": 1, "answer": 1, "resume": 1, "close": 1}
"""Transactions of a run that nobody kills, by what they are for."""
EFFECTS = {"model": 6, "note": 3, "send": 1}
"""Calls that leave the process."""
POINTS = {f"{side} {kind}": count for kind, count in (COMMITS | EFFECTS).items() for side in ("before", "after")}


class Warm:
    """A warm process that forks a child for each job."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.graphs.kill_child"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._ended: dict[int, Future[str]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, code = line.split()
            self._ended.pop(int(number)).set_result(code)

    def run(self, folder: Path, kill: tuple[str, int] | None = None, **asked: Any) -> dict[str, Any] | None:
        """Run one child; None when it was killed, else what it says."""
        number = next(self._numbers)
        job = {
            "number": number,
            "folder": str(folder),
            "kill": kill,
            "person": "all",
            "flow": "sweep",
            "seed": 0,
            **asked,
        }
        ended = self._ended[number] = Future[str]()
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        code = ended.result(timeout=60)
        if code == "-9":
            return None
        assert code == "0", (folder / "error.txt").read_text()
        return json.loads((folder / "result.json").read_text())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()


@dataclass(kw_only=True)
class Left:
    """What a folder holds."""

    facts: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    questions: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    models: Counter[str] = field(default_factory=Counter[str])
    notes: Counter[str] = field(default_factory=Counter[str])
    sent: list[str] = field(default_factory=list[str])

    @classmethod
    def of(cls, folder: Path) -> Left:
        left = cls(
            models=Counter(lines(folder, "model.log")),
            notes=Counter(lines(folder, "note.log")),
            sent=lines(folder, "send.log"),
        )
        if (folder / "runs.db").exists():
            with closing(sqlite3.connect(folder / "runs.db")) as db:
                rows = db.execute(
                    "SELECT r.workflow, r.input, j.path, j.key, j.body FROM journal j JOIN runs r ON r.id = j.run"
                ).fetchall()
                for workflow, given, path, key, body in rows:
                    question = json.loads(given)["question"]
                    run = "" if question == "?" else f"{workflow} {question}: "
                    left.facts[run + path, key] = json.loads(body)
                left.questions = db.execute("SELECT kind, status FROM questions").fetchall()
        return left

    def has(self, path: str, key: str) -> bool:
        return (path, key) in self.facts

    @property
    def known(self) -> dict[tuple[str, str], Any]:
        """The facts without intents, whose keys depend on the run, and of which a doubt makes more."""
        return {place: fact for place, fact in self.facts.items() if not place[1].startswith("intent")}

    @property
    def in_doubt(self) -> bool:
        """Whether the tool that must not be repeated was about to be called, and nobody knows whether it was."""
        path = "send[0]@4"
        return self.has(path, "intent:0.1") and not self.has(path, "result:0.1")


PATHS = {"scout a": "scout[0]@2", "scout b": "scout[1]@2", "clerk to 0": "send[0]@4"}
"""What the model's log calls an agent at work, to its journal path."""


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    made = Warm()
    yield made
    made.close()


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The run that nobody killed."""

    left: Left
    output: Any
    passed: dict[str, int]
    story: list[str]


@pytest.fixture(scope="module")
def whole(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    result = warm.run(folder)
    assert result is not None
    assert result["status"] == "done"
    events = anyio.run(stored, folder)
    return Whole(left=Left.of(folder), output=result["output"], passed=result["passed"], story=story(events))


def story(events: list[Line]) -> list[str]:
    """What happened, without times, numbers, and what a process that dies adds: sorted, as branches interleave."""
    kept = ("agent.started", "model.replied", "tool.finished", "agent.finished", "run.done")
    noise = ("run", "ts", "seq", "seconds", "spent", "question")
    asked = [line for line in events if line["type"] == "question.asked" and line["kind"] != "in_doubt"]
    told = [line for line in events if line["type"] in kept] + asked
    return sorted(json.dumps({k: v for k, v in line.items() if k not in noise}, sort_keys=True) for line in told)


async def stored(folder: Path) -> list[Line]:
    """All events, of which none is missing, in a database whose audit trail is whole."""
    db = await SQLiteDatabase.open(folder / "runs.db")
    try:
        (root,) = await records.recent(db)
        told: list[Line] = []
        for (id_,) in await db.read(lambda tx: tx.all("SELECT id FROM runs ORDER BY root IS NULL, id")):
            run = await records.find(db, id_)
            events = [line async for line in follow.all_events(db, id_)]
            assert [line["seq"] for line in events] == list(range(1, run.seq + 1))
            for line in events:
                assert parse(line).run == id_
            assert (run.status, run.owner, run.lease_until) == (root.status, None, None)
            told += events
        report = await audit.verify(db)
        assert report.ok, report.problem
        # A reservation that no reply settled counts as spent.
        assert root.turns == sum(line["type"] == "model.called" for line in told)
        return told
    finally:
        await db.close()


def test_the_points_are_those_of_a_run_that_nobody_kills(whole: Whole) -> None:
    assert {point: count for point, count in whole.passed.items() if point != "any"} == POINTS


def judge(folder: Path, killed: Left, whole: Whole) -> None:
    """Compare the end with the state at the kill and with the run that nobody killed."""
    end = Left.of(folder)
    # No call with a committed row was made again; at most one call of each agent was, the one in flight.
    again: Counter[str] = Counter()
    for call, times in end.models.items():
        name, _, turn = call.rpartition(" ")
        path = PATHS[name]
        if killed.has(path, f"reply:{turn}"):
            assert times == killed.models[call], f"{call} was made again"
        again[path] += times - 1
    assert set(end.models) == set(whole.left.models)
    # The tool that may be repeated: with the same key, so the same lines but for how often they come.
    assert {line.split("|")[0] for line in end.notes} == {line.split("|")[0] for line in whole.left.notes}
    assert len(end.notes) == len(whole.left.notes), "a repeated call came with another key"
    for line, times in end.notes.items():
        path, key = next((p, k) for (p, k), fact in end.facts.items() if fact.get("key") == line.split("|")[1])
        if killed.has(path, key.replace("intent", "result")):
            assert times == killed.notes[line], f"{line} was called again"
        again[path] += times - 1
    assert all(times <= 1 for path, times in again.items() if path != "send[0]@4"), again
    # The clerk has two calls in flight side by side; each is made again at most once.
    assert max((*end.models.values(), *end.notes.values())) <= 2
    # The one that may not: at most once, and a person was asked exactly when nobody could know.
    assert len(end.sent) <= 1
    assert len(killed.sent) <= 1
    assert (("in_doubt", "answered") in end.questions) == killed.in_doubt
    if killed.sent and not killed.has("send[0]@4", "result:0.1"):
        assert killed.in_doubt
    # The end is the same.
    assert end.known == whole.left.known
    assert story(anyio.run(stored, folder)) == whole.story


def sweep(warm: Warm, whole: Whole, folder: Path, point: str, number: int) -> None:
    folder.mkdir()
    assert warm.run(folder, (point, number)) is None, f"{point} {number} was not reached"
    killed = Left.of(folder)
    result = warm.run(folder)
    assert result is not None
    assert (result["status"], result["output"]) == ("done", whole.output)
    # The run waited with the question, rather than going on by itself.
    assert ("in_doubt" in result["answered"]) == killed.in_doubt
    judge(folder, killed, whole)


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_there_ends_as_if_nobody_had_killed_it(
    warm: Warm, whole: Whole, tmp_path: Path, point: str
) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        done = [pool.submit(sweep, warm, whole, tmp_path / str(n), point, n) for n in range(1, POINTS[point] + 1)]
        for future in done:
            future.result()


@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_again_and_again_ends_whole(warm: Warm, whole: Whole, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "run"
    folder.mkdir()
    result = None
    for _ in range(200):
        if (result := warm.run(folder, ("any", chance.randint(1, 40)))) is not None and result["status"] == "done":
            break
    assert result is not None
    assert result["output"] == whole.output
    assert len(lines(folder, "send.log")) == 1
    assert story(anyio.run(stored, folder)) == whole.story


@pytest.mark.parametrize("seed", range(4))
def test_a_fan_out_whose_questions_are_answered_in_any_order_asks_and_calls_each_thing_once(
    warm: Warm, tmp_path: Path, seed: int
) -> None:
    """Three agents with a question each; every segment is a new process; some or none of the answers come."""
    folder = tmp_path / "run"
    folder.mkdir()
    result: dict[str, Any] | None = None
    for segment in range(100):
        result = warm.run(folder, person="some", flow="fan", seed=seed * 1000 + segment)
        assert result is not None
        if result["status"] == "done":
            break
        assert result["status"] == "waiting"
    assert result is not None
    assert result["output"]["sent"] == [f"noted before sending + sent to {n}" for n in range(3)]
    left = Left.of(folder)
    assert sorted(left.sent) == ["to 0", "to 1", "to 2"]
    assert set(left.models.values()) == {1}
    assert set(left.notes.values()) == {1}
    assert left.questions == [("approval", "answered")] * 3
    assert anyio.run(stored, folder)[-1]["type"] == "run.done"


def test_a_run_in_doubt_waits_until_a_person_says_what_happened(warm: Warm, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert warm.run(folder, ("after send", 1)) is None
    for _ in range(3):
        result = warm.run(folder, person="nobody")
        assert result is not None
        assert result["status"] == "waiting"
    assert lines(folder, "send.log") == ["to 0"]
    assert Left.of(folder).questions == [("approval", "answered"), ("in_doubt", "open")]


def test_a_call_that_a_person_says_did_not_happen_is_made_once_more(warm: Warm, whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    assert warm.run(folder, ("after send", 1)) is None
    result = warm.run(folder, person="forgetful")
    assert result is not None
    assert result["output"] == whole.output
    assert lines(folder, "send.log") == ["to 0", "to 0"]


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(("flow", "every"), [("people", 4), ("members", 12)])
def test_other_shapes_of_work_killed_anywhere_end_as_if_nobody_had_killed_them(
    warm: Warm, tmp_path: Path, flow: str, every: int, part: int
) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    whole = warm.run(folder, flow=flow)
    assert whole is not None
    assert whole["status"] == "done"
    expected, unkilled = story(anyio.run(stored, folder)), Left.of(folder)

    def one(point: int) -> None:
        folder = tmp_path / str(point)
        folder.mkdir()
        if warm.run(folder, ("any", point), flow=flow) is None:
            killed = Left.of(folder)
            result = warm.run(folder, flow=flow)
            assert result is not None
            assert (result["status"], result["output"]) == ("done", whole["output"]), (point, result)
            end = Left.of(folder)
            assert end.sent == unkilled.sent
            assert all(times <= unkilled.models[call] + 1 for call, times in end.models.items())
            assert sum(end.models.values()) <= sum(unkilled.models.values()) + 2
            assert {place: fact for place, fact in end.facts.items() if place in killed.facts} == killed.facts
            assert story(anyio.run(stored, folder)) == expected, point

    with ThreadPoolExecutor(WORKERS) as pool:
        points = range(1 + part * every // 4, whole["passed"]["any"] + 1, every)
        list(pool.map(one, points))
