"""A run as a file that it can be run from again: what went in, what models, tools and people said, what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from retinue.database.base import Database, Transaction
from retinue.errors import ErrorBody, UsageError

from ..agents.models.base import Price
from ..agents.policy import Policy
from ..agents.tools.base import Effect, digest
from . import questions, records
from .events import Line, stored
from .questions import Question
from .records import RunRecord

FORMAT = "retinue-recording/1"
RECORDABLE = ("done", "failed", "refused", "waiting")
PAUSES = ("run.waiting", "run.resumed", "run.stopped")

_SUBGRAPH = re.compile(r"[^/~]+~[0-9a-f]{8}/")
_UNSTABLE = frozenset({"run", "seq", "ts", "by", "epoch", "seconds"})
"""Fields of events that no two runs share."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecordedModel(_Part):
    name: str
    price: Price | None
    language_model: bool


class RecordedTool(_Part):
    """A tool as its server listed it."""

    name: str
    description: str
    input_schema: dict[str, Any]
    effect: Effect
    policy: Policy
    timeout: float


class RecordedAnswer(_Part):
    """How a question was closed. ``place`` is what it is about, the same in every run of the recording."""

    place: str
    value: Any = None
    channel: Literal["terminal", "command", "api", "console", "link", "elicitation"] = "terminal"
    expired: bool = False
    round: int
    """How often the run had been resumed before."""


class RecordedRun(_Part):
    """The run, or one that a member of it made."""

    journal: dict[str, dict[str, Any]]
    """Path to key to fact."""
    doubts: list[str] = []
    """``path key`` of calls whose results never came."""
    events: dict[str, list[dict[str, Any]]]
    """By path, and by call or question on it; under "" those of the run itself. What runs side by side keeps an order
    of its own, not a common one."""


class Recording(_Part):
    """What `retinue.testing.replay` reads."""

    format: Literal["retinue-recording/1"] = FORMAT
    workflow: str
    run: str
    input: dict[str, Any]
    approve: list[str]
    budget: dict[str, Any]
    fingerprint: dict[str, Any]
    models: dict[str, RecordedModel]
    """By agent."""
    servers: dict[str, list[RecordedTool]] = {}
    answers: list[RecordedAnswer]
    artifacts: dict[str, str]
    """Texts of results that were too long for a model, by sha256."""
    pauses: bool
    """Whether pauses are compared: not where an answer or a crash came in between."""
    runs: dict[str, RecordedRun]
    status: str
    output: Any
    error: ErrorBody | None

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for run in self.runs.values() for lane in run.events.values() for event in lane]

    def write(self, path: Path) -> None:
        """Raises `UsageError`."""
        data = orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        try:
            path.write_bytes(data)
        except OSError as error:
            raise UsageError(f"the recording cannot be written to {path}: {error.strerror}") from None

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Raises `UsageError` for a file that is not there or is none."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = "/".join(map(str, first["loc"])) or "the file"
            raise UsageError(f"{path} is no recording of this Retinue: {where}: {first['msg']}") from None


def refusal(record: RunRecord, paths: Sequence[str]) -> str | None:
    """Why a run cannot be recorded."""
    if record.root is not None:
        return f"it is part of run {record.root[:8]}: record that one"
    if record.forked_from is not None and record.forked_from["step"] >= 0:
        return f"it is a fork, whose history is that of run {record.forked_from['run'][:8]}"
    if record.status not in RECORDABLE:
        return f"it is {record.status}"
    if any(_SUBGRAPH.match(path) for path in paths):
        return "its agents are inside a subgraph, whose name in the journal is another one in every run"
    return None


async def record(
    db: Database,
    run: RunRecord,
    *,
    target: str,
    models: Mapping[str, RecordedModel],
    servers: Mapping[str, Sequence[RecordedTool]],
) -> Recording:
    """The recording of a run, secrets and all. Raises `UsageError` for one that cannot be recorded."""

    def work(tx: Transaction) -> Recording:
        ids = [run.id, *(id_ for (id_,) in tx.all("SELECT id FROM runs WHERE root = ? ORDER BY id", (run.id,)))]
        fresh = records.get(tx, run.id)
        asked = [question for id_ in ids for question in questions.of_run(tx, id_)]
        places = question_places(asked)
        lines = {id_: _lines(tx, id_) for id_ in ids}
        resumed = [line["ts"] for line in lines[run.id] if line["type"] == "run.resumed"]
        runs = {id_: _run(tx, id_, lines[id_], places, asked) for id_ in ids}
        if (why := refusal(fresh, [path for found in runs.values() for path in found.journal])) is not None:
            raise UsageError(f"run {run.id[:8]} cannot be recorded: {why}")
        artifacts = {
            id_: bytes(body).decode()
            for one in ids
            for id_, body in tx.all("SELECT id, body FROM artifacts WHERE run = ?", (one,))
        }
        return Recording(
            workflow=target,
            run=run.id,
            input=fresh.input,
            approve=list(fresh.settings.get("approve", ())),
            budget=fresh.budget.to_json() | {"seconds": None},
            fingerprint=fresh.fingerprint,
            models=dict(models),
            servers={name: list(tools) for name, tools in servers.items()},
            answers=_answers(asked, places, resumed),
            artifacts=artifacts,
            pauses=_regular(lines[run.id], asked),
            runs=runs,
            status=fresh.status,
            output=fresh.output,
            error=fresh.error,
        )

    return await db.read(work)


def _lines(tx: Transaction, run: str) -> list[Line]:
    rows = tx.all("SELECT seq, ts, type, body FROM events WHERE run = ? ORDER BY seq", (run,))
    return [stored(run, seq, ts, kind, body) | {"ts": ts} for seq, ts, kind, body in rows]


def _run(
    tx: Transaction, run: str, lines: Sequence[Line], places: Mapping[str, str], asked: Sequence[Question]
) -> RecordedRun:
    journal: dict[str, dict[str, Any]] = {}
    for path, key, body in tx.all("SELECT path, key, body FROM journal WHERE run = ? ORDER BY path, key", (run,)):
        journal.setdefault(path, {})[key] = orjson.loads(body)
    doubts = [f"{q.path} {q.key}" for q in asked if q.run == run and q.kind == "in_doubt"]
    events: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        event = _stable(line, places)
        lane = str(line.get("path", ""))
        if "call" in line or line["type"] == "question.asked":  # calls of one reply run side by side
            lane = f"{lane} {line['call'] if 'call' in line else event['question']}"
        events.setdefault(lane, []).append(event)
    return RecordedRun(journal=journal, doubts=doubts, events=dict(sorted(events.items())))


def _stable(line: Line, places: Mapping[str, str]) -> dict[str, Any]:
    event = {name: value for name, value in line.items() if name not in _UNSTABLE}
    if "spent" in event:
        event["spent"] = {name: value for name, value in event["spent"].items() if name != "seconds"}
    if "question" in event:
        event["question"] = places.get(event["question"], event["question"])
    if "questions" in event:
        named = [{**q, "id": places.get(q["id"], q["id"])} for q in event["questions"]]
        event["questions"] = sorted(named, key=lambda q: q["id"])
    return event


def question_places(asked: Sequence[Question]) -> dict[str, str]:
    """Question id to what it is about. The interrupts of users' own nodes have no name but what they ask."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for question in asked:
        if question.interrupt_id is None:
            found[question.id] = f"{question.run[:8]} {question.path} {question.key}"
            continue
        about = digest([question.run, question.body.get("value"), question.schema])[:12]
        counts[about] = counts.get(about, 0) + 1
        found[question.id] = f"interrupt {about} {counts[about]}"
    return found


def _answers(asked: Sequence[Question], places: Mapping[str, str], resumed: Sequence[float]) -> list[RecordedAnswer]:
    found: list[RecordedAnswer] = []
    for question in sorted(asked, key=lambda q: (q.answered_at or 0, q.id)):
        if question.answered_at is None:
            continue
        found.append(
            RecordedAnswer.model_validate(
                {
                    "place": places[question.id],
                    "value": question.answer,
                    "channel": question.channel or "terminal",
                    "expired": question.status == "expired",
                    "round": sum(ts < question.answered_at for ts in resumed),
                }
            )
        )
    return found


def _regular(lines: Sequence[Line], asked: Sequence[Question]) -> bool:
    """Whether the run was resumed only after it had waited, and answered only while it waited."""
    pauses = [line for line in lines if line["type"] in PAUSES]
    kinds = [line["type"] for line in pauses]
    if any(kind != PAUSES[n % 2] for n, kind in enumerate(kinds)):
        return False
    begun = [line["ts"] for line in pauses if line["type"] == "run.waiting"]
    ended = [line["ts"] for line in pauses if line["type"] == "run.resumed"]
    windows = list(zip(begun, [*ended, float("inf")], strict=False))
    times = [q.answered_at for q in asked if q.answered_at is not None]
    return all(any(a <= time <= b for a, b in windows) for time in times)
