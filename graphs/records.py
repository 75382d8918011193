"""The rows of runs: made, read, ended, pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from retinue.database.base import Database, Row, Transaction
from retinue.errors import ErrorBody, RunExists, RunNotFound, UsageError

from ..agents.budget import MICRO, Budget
from ..auth.principal import Principal
from .events import timestamp

Status = Literal["running", "waiting", "stopped", "done", "failed", "refused", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"done", "failed", "refused", "cancelled"})

_COLUMNS = (
    "id, workflow, status, input, output, error, principal, settings, fingerprint, budget, tokens, cost, turns, "
    "active, seq, owner, epoch, lease_until, cancelling, traceparent, retry_of, root, created_at, updated_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as its row has it. Times are seconds since the epoch; money is millionths of a US dollar."""

    id: str
    workflow: str
    status: Status
    input: dict[str, Any]
    output: Any
    error: ErrorBody | None
    principal: Principal
    settings: dict[str, Any]
    fingerprint: dict[str, Any]
    budget: Budget
    tokens: int
    cost: int
    turns: int
    active: float
    seq: int
    owner: str | None
    epoch: int
    lease_until: float | None
    cancelling: bool
    traceparent: str | None
    retry_of: str | None
    root: str | None
    """The run that has the lease and the budget, where a member of a run made this one."""
    created_at: float
    updated_at: float

    @property
    def spent(self) -> dict[str, Any]:
        return spent(self.tokens, self.cost, self.turns, self.active)

    @property
    def forked_from(self) -> dict[str, Any] | None:
        """``run`` and ``step`` that this one shares its history with, and what was ``changed``."""
        return self.settings.get("forked_from")

    def to_json(self) -> dict[str, Any]:
        """What ``runs show --json`` prints."""
        return {
            "run": self.id,
            "workflow": self.workflow,
            "status": self.status,
            "input": self.input,
            "output": self.output,
            "error": self.error,
            "budget": self.budget.to_json(),
            "spent": self.spent,
            "owner": self.owner,
            "epoch": self.epoch,
            "events": self.seq,
            "retry_of": self.retry_of,
            "forked_from": self.forked_from,
            "root": self.root,
            "by": self.principal.key,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
        }


def spent(tokens: int, cost: int, turns: int, active: float) -> dict[str, Any]:
    return {"tokens": tokens, "usd": cost / MICRO, "turns": turns, "seconds": round(active, 3)}


def _record(row: Row) -> RunRecord:
    named = dict(zip(_COLUMNS.split(", "), row, strict=True))
    for column in ("input", "output", "error", "settings", "fingerprint"):
        named[column] = None if named[column] is None else orjson.loads(named[column])
    named["principal"] = Principal.from_json(orjson.loads(named["principal"]))
    named["budget"] = Budget(**orjson.loads(named["budget"]))
    named["cancelling"] = bool(named["cancelling"])
    return RunRecord(**named)


def get(tx: Transaction, run: str, *, lock: bool = False) -> RunRecord:
    row = tx.one(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", (run,), lock=lock)  # noqa: S608
    if row is None:
        raise RunNotFound(f"there is no run {run}")
    return _record(row)


def insert(
    tx: Transaction,
    run: str,
    *,
    workflow: str,
    input: Mapping[str, Any],  # noqa: A002
    principal: Principal,
    settings: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    budget: Budget,
    traceparent: str | None,
    retry_of: str | None,
    root: str | None = None,
) -> None:
    """Make the row of a new run. Raises `RunExists` for an id that is taken."""
    made = tx.execute(
        "INSERT INTO runs (id, workflow, status, input, principal, subject, settings, fingerprint, budget, "
        "traceparent, retry_of, root, created_at, updated_at) "
        "VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO NOTHING",
        (
            run, workflow, _json(input), _json(principal.to_json()), principal.key, _json(settings), _json(fingerprint),
            _json(budget.to_json()), traceparent, retry_of, root, tx.now, tx.now,
        ),
    )  # fmt: skip
    if not made:
        raise RunExists(f"there is a run {run} already")


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


async def find(db: Database, prefix: str, *, subject: str | None = None) -> RunRecord:
    """The run with this id, or the only one whose id begins so. Others' runs are as if they were not there."""
    if not prefix or any(c not in "0123456789abcdef" for c in prefix):
        raise RunNotFound(f"there is no run {prefix!r}")

    def work(tx: Transaction) -> list[Row]:
        sql = f"SELECT {_COLUMNS} FROM runs WHERE id >= ? AND id < ?"  # noqa: S608
        params: list[Any] = [prefix, prefix + "g"]
        if subject is not None:
            sql += " AND subject = ?"
            params.append(subject)
        return tx.all(sql + " LIMIT 6", params)

    rows = await db.read(work)
    if not rows:
        raise RunNotFound(f"there is no run {prefix}")
    if len(rows) > 1:
        ids = ", ".join(row[0][: len(prefix) + 4] for row in rows[:5])
        raise UsageError(f"{prefix} is the beginning of more than one run: {ids}", hint="Write more of the id.")
    return _record(rows[0])


async def recent(
    db: Database,
    *,
    subject: str | None = None,
    workflow: str | None = None,
    status: Sequence[str] = (),
    limit: int = 20,
    before: float | None = None,
) -> list[RunRecord]:
    """Runs, newest first, without those that members of runs made."""
    sql, params = f"SELECT {_COLUMNS} FROM runs WHERE root IS NULL", list[Any]()  # noqa: S608
    for condition, value in (("subject = ?", subject), ("workflow = ?", workflow), ("created_at < ?", before)):
        if value is not None:
            sql += f" AND {condition}"
            params.append(value)
    if status:
        sql += f" AND status IN ({', '.join('?' * len(status))})"
        params += status
    sql += " ORDER BY created_at DESC, id LIMIT ?"
    rows = await db.read(lambda tx: tx.all(sql, [*params, limit]))
    return [_record(row) for row in rows]


async def prune(db: Database, *, older_than: float, subject: str | None = None, dry_run: bool = False) -> list[str]:
    """Delete what ended runs keep (rows, events, journal, checkpoints, artifacts) and return their ids.

    ``older_than`` seconds since the last change. Audit rows stay: they hold hashes, not content.
    """

    def work(tx: Transaction) -> list[str]:
        sql = (
            "SELECT id FROM runs WHERE root IS NULL AND status IN ('done', 'failed', 'refused', 'cancelled') "
            "AND updated_at <= ?"
        )
        params: list[Any] = [tx.now - older_than]
        if subject is not None:
            sql += " AND subject = ?"
            params.append(subject)
        ids = sorted(row[0] for row in tx.all(sql, params))  # two that prune at once take rows in one order
        ids += sorted(row[0] for id_ in ids for row in tx.all("SELECT id FROM runs WHERE root = ?", (id_,)))
        if not dry_run:
            for table, column in _OF_A_RUN:
                tx.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(id_,) for id_ in ids])  # noqa: S608
        return ids

    return await (db.read(work) if dry_run else db.write(work))


_OF_A_RUN = (
    ("events", "run"),
    ("journal", "run"),
    ("questions", "run"),
    ("artifacts", "run"),
    ("checkpoint_writes", "thread"),
    ("checkpoint_values", "thread"),
    ("checkpoints", "thread"),
    ("runs", "id"),
)
