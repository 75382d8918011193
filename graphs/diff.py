"""What changed between two supersteps, of one run or of two: fields of the state, and facts of the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson

from retinue.database.base import Database, Transaction

from .timeline import History

MISSING: Final = object()
"""In the place of a value that is not there."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that is another one, or is there on one side only (`MISSING` on the other)."""

    where: str
    before: Any
    after: Any

    def to_json(self) -> dict[str, Any]:
        sides = {"before": self.before, "after": self.after}
        return {"where": self.where} | {side: value for side, value in sides.items() if value is not MISSING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """``state`` by field, down to the value; ``facts`` by ``path key``."""

    state: list[Change]
    facts: list[Change]

    def to_json(self) -> dict[str, Any]:
        """What ``runs diff --json`` prints."""
        return {"state": [c.to_json() for c in self.state], "facts": [c.to_json() for c in self.facts]}


async def diff(db: Database, run: str, a: int, b: int, *, other: str | None = None) -> Difference:
    """From superstep ``a`` of a run to superstep ``b`` of it, or of the run ``other``. Raises `UsageError`."""

    def work(tx: Transaction) -> Difference:
        state: list[dict[str, Any]] = []
        facts: list[dict[str, Any]] = []
        for id_, step in ((run, a), (other or run, b)):
            history = History(tx, id_)
            state.append(history.values(history.at(step)))
            facts.append(_facts(tx, history, step))
        changed = [
            Change(name, facts[0].get(name, MISSING), facts[1].get(name, MISSING))
            for name in sorted({*facts[0], *facts[1]})
            if any(True for _ in changes(facts[0].get(name, MISSING), facts[1].get(name, MISSING)))
        ]
        return Difference(state=list(changes(state[0], state[1])), facts=changed)

    return await db.read(work)


def _facts(tx: Transaction, history: History, step: int) -> dict[str, Any]:
    rows = tx.all("SELECT path, key, body FROM journal WHERE run = ? ORDER BY path, key", (history.run,))
    found: dict[str, Any] = {}
    for path, key, body in rows:
        at = history.superstep(path)
        if at is not None and at <= step:
            found[f"{path} {key}"] = orjson.loads(body)
    return found


def changes(before: Any, after: Any, where: str = "") -> Iterator[Change]:
    """Each smallest value that differs, by its place: ``draft.title``, ``findings[2]``."""
    same = _same(before, after)
    if isinstance(before, dict) and isinstance(after, dict):
        old, new = cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", after)
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{where}.{name}" if where else name
            yield from changes(old.get(name, MISSING), new.get(name, MISSING), inner)
    elif isinstance(before, list) and isinstance(after, list):
        left, right = cast("list[Any]", before), cast("list[Any]", after)
        for n in range(max(len(left), len(right))):
            sides = [items[n] if n < len(items) else MISSING for items in (left, right)]
            yield from changes(sides[0], sides[1], f"{where}[{n}]")
    elif not same:
        yield Change(where, before, after)


def _same(before: object, after: object) -> bool:
    return before == after and type(before) is type(after)  # True == 1
