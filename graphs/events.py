"""The one event stream of a run: what happened, in order, without gaps.

Stored events carry ``seq`` from 1, gapless over the life of the run and across processes. Text as it comes and progress
are not stored; they carry ``after``, the number of the last stored event. The live view, ``--json``, and every protocol
edge are projections of this stream.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from retinue.errors import ErrorBody, NotSerializable

Line = dict[str, Any]
"""An event as JSON: ``type``, ``run``, ``ts`` (RFC 3339), ``seq`` or ``after``, and the fields of its type."""


class Event(BaseModel):
    """What all events have."""

    model_config = ConfigDict(extra="allow", frozen=True)

    run: str
    ts: datetime
    seq: int | None = None
    after: int | None = None


class Spent(BaseModel):
    tokens: int
    usd: float
    turns: int
    seconds: float


class OpenQuestion(BaseModel):
    id: str
    kind: str
    title: str


class ForkedFrom(BaseModel):
    run: str
    step: int
    changed: list[str]
    """The fields of the state (of the input, at step -1) that were set."""


class RunStarted(Event):
    type: Literal["run.started"] = "run.started"
    workflow: str
    models: dict[str, str]
    language_model: bool
    """False: no language model is used; functions of the workflow do the work."""
    forked_from: ForkedFrom | None = None
    """The run, and its superstep, that this one shares its history with."""


class RunResumed(Event):
    type: Literal["run.resumed"] = "run.resumed"
    epoch: int
    models: dict[str, str]
    language_model: bool


class RunWaiting(Event):
    type: Literal["run.waiting"] = "run.waiting"
    questions: list[OpenQuestion]
    spent: Spent


class RunDone(Event):
    type: Literal["run.done"] = "run.done"
    output: Any
    spent: Spent


class RunEnded(Event):
    """Any end but success. ``stopped`` can be resumed."""

    type: Literal["run.failed", "run.refused", "run.cancelled", "run.stopped"]
    error: ErrorBody
    spent: Spent


class AgentEvent(Event):
    path: str
    agent: str
    prompt: str
    """The first 12 hex digits of the sha256 of the agent's prompt."""


class AgentStarted(AgentEvent):
    type: Literal["agent.started"] = "agent.started"
    model: str
    task: str


class AgentFinished(AgentEvent):
    type: Literal["agent.finished"] = "agent.finished"
    output: str


class ModelCalled(AgentEvent):
    type: Literal["model.called"] = "model.called"
    model: str
    turn: int


class ModelReplied(AgentEvent):
    type: Literal["model.replied"] = "model.replied"
    model: str
    turn: int
    stop_reason: str
    usage: dict[str, int]
    cost_usd: float
    text: str


class ToolCalled(AgentEvent):
    type: Literal["tool.called"] = "tool.called"
    call: str
    server: str
    tool: str
    arguments: dict[str, Any]


class ToolFinished(AgentEvent):
    type: Literal["tool.finished"] = "tool.finished"
    call: str
    server: str
    tool: str
    is_error: bool
    preview: str
    seconds: float
    artifacts: list[str]


class ToolInDoubt(AgentEvent):
    type: Literal["tool.in_doubt"] = "tool.in_doubt"
    call: str
    server: str
    tool: str


class QuestionAsked(Event):
    type: Literal["question.asked"] = "question.asked"
    question: str
    kind: str
    title: str
    path: str


class QuestionClosed(Event):
    type: Literal["question.answered", "question.expired"]
    question: str
    kind: str
    by: str
    channel: str


class TextDelta(AgentEvent):
    type: Literal["text.delta"] = "text.delta"
    text: str


class TextRestart(AgentEvent):
    """The text told so far is void: the stream was cut, and the model is asked again."""

    type: Literal["text.restart"] = "text.restart"


class ToolProgress(AgentEvent):
    type: Literal["tool.progress"] = "tool.progress"
    server: str
    tool: str
    done: float
    total: float | None
    message: str | None


AnyEvent = Annotated[
    RunStarted
    | RunResumed
    | RunWaiting
    | RunDone
    | RunEnded
    | AgentStarted
    | AgentFinished
    | ModelCalled
    | ModelReplied
    | ToolCalled
    | ToolFinished
    | ToolInDoubt
    | QuestionAsked
    | QuestionClosed
    | TextDelta
    | TextRestart
    | ToolProgress,
    Field(discriminator="type"),
]

_adapter: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)

LAST_LINES = frozenset({"run.waiting", "run.done", "run.failed", "run.refused", "run.cancelled", "run.stopped"})
"""Types after which nothing more comes until somebody resumes the run."""


def parse(line: Line) -> AnyEvent:
    """The typed event of a line."""
    return _adapter.validate_python(line)


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def stored(run: str, seq: int, ts: float, kind: str, body: str | bytes) -> Line:
    """A line from its row."""
    return {"type": kind, "run": run, "seq": seq, "ts": timestamp(ts), **orjson.loads(body)}


def dump(value: Any, what: str) -> bytes:
    """JSON bytes, or `NotSerializable` that names what could not be kept."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotSerializable(f"{what} cannot be kept as JSON: {error}") from None
