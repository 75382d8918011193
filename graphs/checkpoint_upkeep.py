"""Removing and copying checkpoints: rows in, rows out, inside a transaction of the saver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import orjson

from retinue.database.base import Transaction
from retinue.errors import UsageError

Versions = Callable[[str, bytes], Mapping[str, float]]
"""Decodes a stored checkpoint (type, body) and returns its channel versions."""

COUNTERS = "counters_since_delta_snapshot"
"""LangGraph's metadata that names the DeltaChannels without a snapshot here. Provisional: contract-tested."""


def delete_thread(tx: Transaction, thread: str) -> None:
    tx.execute("DELETE FROM checkpoints WHERE thread = ?", (thread,))
    tx.execute("DELETE FROM checkpoint_values WHERE thread = ?", (thread,))
    tx.execute("DELETE FROM checkpoint_writes WHERE thread = ?", (thread,))


def threads_of(tx: Transaction, run_ids: Iterable[str]) -> list[str]:
    sql = "SELECT DISTINCT thread FROM checkpoints WHERE run = ?"
    return sorted({thread for run in run_ids for (thread,) in tx.all(sql, (run,))})


def delete_runs(tx: Transaction, thread: str, run_ids: Sequence[str], versions: Versions) -> None:
    for ns in _namespaces(tx, thread):
        sql = "SELECT id FROM checkpoints WHERE thread = ? AND ns = ? AND run = ?"
        gone = [checkpoint for run in run_ids for (checkpoint,) in tx.all(sql, (thread, ns, run))]
        _remove(tx, thread, ns, gone, versions)


def copy_thread(tx: Transaction, source: str, target: str) -> None:
    if tx.one("SELECT 1 FROM checkpoints WHERE thread = ? LIMIT 1", (target,)) is not None:
        raise UsageError(f"the thread {target} has checkpoints already", hint="Copy to a new thread id.")
    tx.execute(
        "INSERT INTO checkpoints (thread, ns, id, seq, parent, type, body, metadata, run)"
        " SELECT ?, ns, id, seq, parent, type, body, metadata, run FROM checkpoints WHERE thread = ?",
        (target, source),
    )
    tx.execute(
        "INSERT INTO checkpoint_values (thread, ns, channel, version, type, body)"
        " SELECT ?, ns, channel, version, type, body FROM checkpoint_values WHERE thread = ?",
        (target, source),
    )
    tx.execute(
        "INSERT INTO checkpoint_writes (thread, ns, checkpoint, task, idx, channel, type, body, path)"
        " SELECT ?, ns, checkpoint, task, idx, channel, type, body, path FROM checkpoint_writes WHERE thread = ?",
        (target, source),
    )


def keep_latest(tx: Transaction, thread: str, versions: Versions) -> None:
    for ns in _namespaces(tx, thread):
        rows = tx.all(
            "SELECT id, parent, type, body, metadata FROM checkpoints WHERE thread = ? AND ns = ? ORDER BY seq DESC",
            (thread, ns),
        )
        by_id = {row[0]: row for row in rows}
        head, parent, kind, body, metadata = rows[0]
        stored = _stored_values(tx, thread, ns)
        at_head = versions(kind, body)
        # These channels are rebuilt from their last stored value and every write after it, so that stretch stays.
        open_channels = at_head.keys() & orjson.loads(metadata).get(COUNTERS, {}).keys()
        kept = {head}
        while open_channels and parent in by_id:
            kept.add(parent)
            _, parent, kind, body, _ = by_id[parent]
            found = versions(kind, body)
            open_channels -= {channel for channel in open_channels if (channel, found.get(channel)) in stored}
        _remove(tx, thread, ns, by_id.keys() - kept, versions)


def _namespaces(tx: Transaction, thread: str) -> list[str]:
    return [ns for (ns,) in tx.all("SELECT DISTINCT ns FROM checkpoints WHERE thread = ?", (thread,))]


def _stored_values(tx: Transaction, thread: str, ns: str) -> set[tuple[str, float]]:
    rows = tx.all("SELECT channel, version FROM checkpoint_values WHERE thread = ? AND ns = ?", (thread, ns))
    return {(channel, version) for channel, version in rows}


def _remove(tx: Transaction, thread: str, ns: str, gone: Iterable[str], versions: Versions) -> None:
    """Remove checkpoints with their writes, then the values that no other checkpoint refers to."""
    keys = [(thread, ns, checkpoint) for checkpoint in gone]
    if not keys:
        return
    tx.executemany("DELETE FROM checkpoint_writes WHERE thread = ? AND ns = ? AND checkpoint = ?", keys)
    tx.executemany("DELETE FROM checkpoints WHERE thread = ? AND ns = ? AND id = ?", keys)
    rest = tx.all("SELECT type, body FROM checkpoints WHERE thread = ? AND ns = ?", (thread, ns))
    used = {item for kind, body in rest for item in versions(kind, body).items()}
    unused = [(thread, ns, channel, version) for channel, version in _stored_values(tx, thread, ns) - used]
    tx.executemany("DELETE FROM checkpoint_values WHERE thread = ? AND ns = ? AND channel = ? AND version = ?", unused)
