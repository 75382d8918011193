"""A new run that shares the history of another one up to a superstep.

A thread is never rewound. What the other run had at that superstep is copied to the new one's id, in the transaction
that makes it: checkpoints, the facts of finished paths with their closed questions, the artifacts that those refer to.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from retinue.database.base import Database, Transaction
from retinue.errors import UsageError

from . import questions, timeline
from .checkpoints import Checkpoints
from .edit import edit
from .fingerprint import differences
from .records import RunRecord
from .workflow import Workflow

GRAPH = ("nodes", "edges", "branches", "state")
"""The sections of a fingerprint that a state depends on."""


def graph_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a state from going on in a graph. Prompts and tools do not: no path that is carried is run again."""
    return differences({name: then.get(name) for name in GRAPH}, {name: now.get(name) for name in GRAPH})


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a fork begins with."""

    input: dict[str, Any]
    origin: dict[str, Any]
    """``run``, ``step``, and the fields that were ``changed``."""
    write: Callable[[Transaction], None]
    empty: bool
    """At step -1 there is nothing but the input."""


async def prepare(
    db: Database,
    saver: Checkpoints,
    record: RunRecord,
    at: int,
    workflow: Workflow,
    id_: str,
    changes: Mapping[str, Any],
) -> History:
    """What the run ``id_`` begins with as a fork of ``record``. See `Runs.fork`."""
    if record.root is not None:
        raise UsageError(f"run {record.id[:8]} is part of another one", hint=f"Fork {record.root[:8]}.")
    origin = {"run": record.id, "step": at, "changed": sorted(changes)}
    if at == -1:
        data = workflow.read_input({**record.input, **changes})
        return History(input=data, origin=origin, write=lambda _: None, empty=True)

    def look(tx: Transaction) -> tuple[timeline.Frame, list[str]]:
        history = timeline.History(tx, record.id)
        frame = history.at(at)
        return frame, history.nodes(frame)

    frame, nodes = await db.read(look)
    last: Callable[[Transaction], None] | None = None
    if changes:
        stored = await saver.aget_tuple(_place(record.id, frame.id))
        assert stored is not None
        edited = await edit(workflow, saver, stored, nodes, changes)
        last = saver.storing(_place(id_, frame.id), edited.checkpoint, edited.metadata, edited.versions)

    def write(tx: Transaction) -> None:
        _copy(tx, record.id, id_, at)
        if last is not None:
            last(tx)

    return History(input=record.input, origin=origin, write=write, empty=False)


def _place(thread: str, checkpoint: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": checkpoint}}


def _copy(tx: Transaction, source: str, target: str, at: int) -> None:
    history = timeline.History(tx, source)
    frame = history.at(at)
    _copy_checkpoints(tx, source, target, history.frames[: history.frames.index(frame) + 1])

    def carried(path: str) -> bool:
        step = history.superstep(path)
        return step is not None and step <= at

    paths = [path for (path,) in tx.all("SELECT DISTINCT path FROM journal WHERE run = ?", (source,)) if carried(path)]
    tx.executemany(
        "INSERT INTO journal (run, path, key, body, ts) SELECT ?, path, key, body, ts FROM journal "
        "WHERE run = ? AND path = ?",
        [(target, source, path) for path in paths],
    )
    closed = [
        question.id
        for question in questions.of_run(tx, source)
        if question.status != "open" and (step := history.asked_in(question)) is not None and step <= at
    ]
    tx.executemany(
        "INSERT INTO questions (id, run, path, key, kind, body, schema, status, answer, answered_by, channel, "
        "interrupt_id, asked_at, expires_at, answered_at) SELECT ?, ?, path, key, kind, body, schema, status, answer, "
        "answered_by, channel, interrupt_id, asked_at, expires_at, answered_at FROM questions WHERE id = ?",
        [(secrets.token_hex(6), target, id_) for id_ in closed],
    )
    kept: set[str] = set()
    for (body,) in tx.all("SELECT body FROM events WHERE run = ? AND type = 'tool.finished'", (source,)):
        told = orjson.loads(body)
        if told["artifacts"] and carried(told.get("path", "")):
            kept.update(told["artifacts"])
    tx.executemany(
        "INSERT INTO artifacts (run, id, media_type, body) SELECT ?, id, media_type, body FROM artifacts "
        "WHERE run = ? AND id = ?",
        [(target, source, id_) for id_ in sorted(kept)],
    )


def _copy_checkpoints(tx: Transaction, source: str, target: str, frames: Sequence[timeline.Frame]) -> None:
    """The frames with their values; the writes of all but the last one, which belong to what ran after it."""
    before = {frame.id for frame in frames[:-1]}
    keys = [("", frame.id) for frame in frames]
    versions = {("", channel, version) for frame in frames for channel, version in frame.versions.items()}
    nested = [
        (ns, id_)
        for ns, id_, metadata in tx.all(
            "SELECT ns, id, metadata FROM checkpoints WHERE thread = ? AND ns <> '' ORDER BY ns, seq", (source,)
        )
        if orjson.loads(metadata).get("parents", {}).get("") in before
    ]
    places = sorted({ns for ns, _ in nested})
    tx.executemany(
        "INSERT INTO checkpoints (thread, ns, id, seq, parent, type, body, metadata, run) "
        "SELECT ?, ns, id, seq, parent, type, body, metadata, run FROM checkpoints "
        "WHERE thread = ? AND ns = ? AND id = ?",
        [(target, source, ns, id_) for ns, id_ in [*keys, *nested]],
    )
    tx.executemany(
        "INSERT INTO checkpoint_values (thread, ns, channel, version, type, body) "
        "SELECT ?, ns, channel, version, type, body FROM checkpoint_values "
        "WHERE thread = ? AND ns = ? AND channel = ? AND version = ?",
        [(target, source, *version) for version in sorted(versions)],
    )
    tx.executemany(
        "INSERT INTO checkpoint_values (thread, ns, channel, version, type, body) "
        "SELECT ?, ns, channel, version, type, body FROM checkpoint_values WHERE thread = ? AND ns = ?",
        [(target, source, ns) for ns in places],
    )
    tx.executemany(
        "INSERT INTO checkpoint_writes (thread, ns, checkpoint, task, idx, channel, type, body, path) "
        "SELECT ?, ns, checkpoint, task, idx, channel, type, body, path FROM checkpoint_writes "
        "WHERE thread = ? AND ns = ? AND checkpoint = ?",
        [(target, source, ns, id_) for ns, id_ in [*keys[:-1], *nested]],
    )
