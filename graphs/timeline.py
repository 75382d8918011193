"""The supersteps of a run, and what differs between two of them: read from the database alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import orjson
from langgraph.checkpoint.serde.types import INTERRUPT, TASKS

from retinue.database.base import Database, Row, Transaction
from retinue.errors import UsageError

from . import questions
from .questions import Question
from .serializer import serializer_for
from .untyped import read_untyped

EDITED = "retinue_edited"
"""Key of a checkpoint's metadata: the nodes in whose place an edit was made."""

_STEP = re.compile(r"[^/]*@(\d+)")
_NESTED = re.compile(r"([^/~]+)~([0-9a-f]{8})/")
_INNER = re.compile(r"__|branch:|join:")
"""Channels of LangGraph's own. Provisional: contract-tested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One checkpoint of the graph itself, without its values."""

    id: str
    step: int
    source: str
    ts: str
    edited: Sequence[str]
    versions: Mapping[str, float]
    seen: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Superstep:
    """What a run had done after one superstep. Step -1 is the input."""

    step: int
    nodes: Sequence[str]
    """The nodes that ran in it, one entry for each time; ``input``, or those in whose place an edit was made."""
    source: str
    """``input``, ``loop`` or ``update`` (an edit)."""
    ts: str
    """RFC 3339, of the process that ran it."""
    next: Sequence[str]
    """What runs after it; empty at the end."""
    questions: Sequence[Question]
    """What was asked in it. At the last one also what is asked by what runs after it."""

    def to_json(self) -> dict[str, Any]:
        """What ``runs checkpoints --json`` prints."""
        asked = [{"question": q.id, "title": q.title, "status": q.status, "path": q.path} for q in self.questions]
        nodes, following = list(self.nodes), list(self.next)
        return {
            "step": self.step, "nodes": nodes, "source": self.source, "ts": self.ts, "next": following,
            "questions": asked,
        }  # fmt: skip


class History:
    """The checkpoints of one run, read in one transaction."""

    def __init__(self, tx: Transaction, run: str) -> None:
        serde = serializer_for()
        rows = tx.all(
            "SELECT id, type, body, metadata FROM checkpoints WHERE thread = ? AND ns = '' ORDER BY seq", (run,)
        )
        self.run = run
        self.frames = [_frame(row, serde.loads_typed((row[1], row[2]))) for row in rows]
        self._nested = tx.all("SELECT ns, metadata FROM checkpoints WHERE thread = ? AND ns <> ''", (run,))
        self._tx = tx

    def at(self, step: int) -> Frame:
        """The checkpoint after superstep ``step``. Raises `UsageError` where there is none."""
        found = [frame for frame in self.frames if frame.step == step]
        if not found:
            steps = [frame.step for frame in self.frames]
            hint = f"`retinue runs checkpoints {self.run[:8]}` lists them."
            last = f"; its last one is {steps[-1]}" if steps else "; it has none yet"
            raise UsageError(f"run {self.run[:8]} has no superstep {step}{last}", hint=hint)
        return found[-1]

    def values(self, frame: Frame, *, inner: bool = False) -> dict[str, Any]:
        """State as JSON, by field; with ``inner``, LangGraph's own channels alone."""
        found: dict[str, Any] = {}
        for channel, version in frame.versions.items():
            if bool(_INNER.match(channel)) == inner and (row := self._value(channel, version)) is not None:
                found[channel] = read_untyped(*row)
        return found

    def _value(self, channel: str, version: float) -> Row | None:
        return self._tx.one(
            "SELECT type, body FROM checkpoint_values WHERE thread = ? AND ns = '' AND channel = ? AND version = ?",
            (self.run, channel, version),
        )

    def next(self, frame: Frame) -> list[str]:
        """The nodes that run after a checkpoint: those with a trigger they have not seen, and one for each Send."""
        return due(self.values(frame, inner=True), frame.versions, frame.seen)

    def nodes(self, frame: Frame) -> list[str]:
        """The nodes that ran in the superstep that ended with this checkpoint."""
        if frame.source == "update":
            return list(frame.edited)
        place = self.frames.index(frame)
        return self.next(self.frames[place - 1]) if place else ["input"]

    @cached_property
    def _steps_of_tasks(self) -> dict[str, int]:
        """``node~task`` of a subgraph to the superstep it ran in."""
        steps = {frame.id: frame.step for frame in self.frames}
        found: dict[str, int] = {}
        for ns, metadata in self._nested:
            node, _, task = ns.split("|")[0].partition(":")
            above = orjson.loads(metadata).get("parents", {}).get("")
            if above in steps:
                found[f"{node}~{task[:8]}"] = steps[above] + 1
        return found

    def superstep(self, path: str) -> int | None:
        """The superstep of the graph itself that a journal path belongs to."""
        if nested := _NESTED.match(path):
            return self._steps_of_tasks.get(f"{nested[1]}~{nested[2]}")
        return int(found[1]) if (found := _STEP.match(path)) else None

    @cached_property
    def _steps_of_interrupts(self) -> dict[str, int]:
        """Interrupt of a user's own node to the superstep that raised it."""
        steps = {frame.id: frame.step for frame in self.frames}
        rows = self._tx.all(
            "SELECT checkpoint, type, body FROM checkpoint_writes WHERE thread = ? AND ns = '' AND channel = ?",
            (self.run, INTERRUPT),
        )
        return {
            interrupt["id"]: steps[checkpoint] + 1
            for checkpoint, kind, body in rows
            if checkpoint in steps
            for interrupt in read_untyped(kind, body)
        }

    def asked_in(self, question: Question) -> int | None:
        """The superstep that asked."""
        if question.interrupt_id is not None:
            return self._steps_of_interrupts.get(question.interrupt_id)
        return self.superstep(question.path)


def _frame(row: Row, body: Mapping[str, Any]) -> Frame:
    metadata = orjson.loads(row[3])
    return Frame(
        id=row[0],
        step=metadata["step"],
        source=metadata["source"],
        ts=body["ts"],
        edited=metadata.get(EDITED, ()),
        versions=body["channel_versions"],
        seen=body["versions_seen"],
    )


def due(values: Mapping[str, Any], versions: Mapping[str, float], seen: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The nodes that run after a checkpoint with these channels."""
    found: set[str] = set()
    for channel, value in values.items():
        node = _triggered(channel, value)
        if node is not None and versions[channel] > seen.get(node, {}).get(channel, 0):
            found.add(node)
    sends = cast("list[Any]", values.get(TASKS) or [])
    return sorted(found) + [send["node"] if isinstance(send, dict) else send.node for send in sends]


def _triggered(channel: str, value: Any) -> str | None:
    """The node that a channel with this value sets off."""
    if channel == "__start__":
        return channel
    if channel.startswith("branch:to:"):
        return channel.removeprefix("branch:to:")
    if channel.startswith("join:"):
        sources, _, node = channel.removeprefix("join:").rpartition(":")
        return node if set(value) == set(sources.split("+")) else None
    return None


async def checkpoints(db: Database, run: str) -> list[Superstep]:
    """The supersteps of a run, in order."""

    def work(tx: Transaction) -> list[Superstep]:
        history = History(tx, run)
        asked: dict[int, list[Question]] = {}
        last = len(history.frames) - 1
        for question in questions.of_run(tx, run):
            if (step := history.asked_in(question)) is not None and history.frames:
                asked.setdefault(min(step, history.frames[last].step), []).append(question)
        return [
            Superstep(
                step=frame.step, nodes=history.nodes(frame), source=frame.source, ts=frame.ts,
                next=history.next(frame), questions=asked.get(frame.step, []),
            )
            for frame in history.frames
        ]  # fmt: skip

    return await db.read(work)
