"""Runs that wait for a process: made without one, found, and given up."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from retinue import audit, telemetry
from retinue.database.base import Database, Transaction
from retinue.errors import RetinueError

from ...agents.budget import Budget
from ...agents.scope import Note
from ...auth.principal import Principal
from .. import records
from ..drive import end
from ..journal import append_events
from ..lease import LEASE_SECONDS, acquire
from ..records import TERMINAL, RunRecord
from ..workflow import Workflow

MANY = 500
"""Runs that are looked at in one round."""

_UNTOLD = """EXISTS (
    SELECT 1 FROM runs part JOIN events last ON last.run = part.id AND last.seq = part.seq
    WHERE (part.id = runs.id OR part.root = runs.id) AND part.status = 'waiting' AND last.type <> 'run.waiting'
)"""
"""An answer came after the pause: it is the last that was told of the run, or of one that its members made."""

_NOTHING_OPEN = """NOT EXISTS (
    SELECT 1 FROM questions q JOIN runs part ON part.id = q.run
    WHERE (part.id = runs.id OR part.root = runs.id) AND q.status = 'open'
    AND (q.expires_at IS NULL OR q.expires_at > ?)
)"""


async def enqueue(
    db: Database,
    workflow: Workflow,
    input: Any,  # noqa: A002
    *,
    principal: Principal,
    settings: Mapping[str, Any],
    budget: Budget,
    run: str | None = None,
    retry_of: str | None = None,
) -> RunRecord:
    """Make a run that nobody executes yet. Whoever takes it first keeps the workflow's fingerprint with it.

    Raises `InvalidInput`, `RunExists` for an id that is taken, `DatabaseError`.
    """
    data = workflow.read_input(input)
    id_ = run or uuid.uuid4().hex

    def work(tx: Transaction) -> RunRecord:
        insert(
            tx, id_, workflow=workflow.name, input=data, principal=principal, settings=settings, budget=budget,
            retry_of=retry_of,
        )  # fmt: skip
        return records.get(tx, id_)

    return await db.write(work)


def insert(
    tx: Transaction,
    run: str,
    *,
    workflow: str,
    input: Mapping[str, Any],  # noqa: A002
    principal: Principal,
    settings: Mapping[str, Any],
    budget: Budget,
    retry_of: str | None = None,
) -> None:
    """The row of a run that nobody executes yet, and its first event. Raises `RunExists`."""
    records.insert(
        tx, run, workflow=workflow, input=input, principal=principal, settings=settings, fingerprint={}, budget=budget,
        traceparent=telemetry.traceparent(), retry_of=retry_of,
    )  # fmt: skip
    tx.execute("UPDATE runs SET seq = 1 WHERE id = ?", (run,))
    # Which models it uses is told by the process that takes it.
    body: dict[str, Any] = {"workflow": workflow, "models": {}, "language_model": True}
    append_events(tx, run, 1, [Note(type="run.started", body=body)])
    about = {"workflow": workflow, "input": audit.digest(dict(input))}
    audit.append(tx, actor=principal.key, action="run.started", run=run, body=about)


def is_due(tx: Transaction, run: RunRecord) -> bool:
    """Whether a process that took the run would find something to do."""
    if run.status in TERMINAL:
        return False
    if run.status != "waiting":
        return True
    sql = f"SELECT 1 FROM runs WHERE id = ? AND ({_UNTOLD} OR {_NOTHING_OPEN})"  # noqa: S608
    return tx.one(sql, (run.id, tx.now)) is not None


async def due(db: Database, *, limit: int = MANY) -> list[RunRecord]:
    """Runs that somebody should execute while nobody does, the oldest first: they were left or lost, or what they
    waited for has come."""

    def work(tx: Transaction) -> list[RunRecord]:
        rows = tx.all(
            "SELECT id, owner, lease_until FROM runs WHERE root IS NULL AND (status = 'running' "  # noqa: S608
            f"OR status = 'waiting' AND ({_UNTOLD} OR {_NOTHING_OPEN})) ORDER BY created_at, id",
            (tx.now,),
        )
        found = [
            run
            for run, owner, until in rows
            if owner is None or until is None or until <= tx.now or db.alive(owner) is False
        ]
        return [records.get(tx, run) for run in found[:limit]]

    return await db.read(work)


async def give_up(db: Database, run: RunRecord, error: RetinueError, *, seconds: float = LEASE_SECONDS) -> None:
    """Stop a run that cannot be executed as things are, with the error that says why. It can be resumed.

    Raises `RunBusy` while somebody does execute it.
    """

    def work(tx: Transaction) -> None:
        fresh = records.get(tx, run.id, lock=True)
        if fresh.status in TERMINAL or fresh.status == "stopped":
            return
        lease = acquire(tx, run.id, owner=db.owner, seconds=seconds, alive=db.alive)
        end(tx, lease, "stopped", error=error, by=fresh.principal.key, active=fresh.active, then=_nothing)

    await db.write(work)


def _nothing(outcome: object, lines: Sequence[object]) -> None:
    return
