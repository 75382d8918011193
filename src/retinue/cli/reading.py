"""Reading a database without executing anything: no framework is imported, and no file is made."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from difflib import get_close_matches
from pathlib import Path

from retinue.database.base import Database
from retinue.database.choose import is_postgres, open_database, sqlite_path
from retinue.errors import RunNotFound
from retinue.graphs import records
from retinue.graphs.records import RunRecord
from retinue.local import local_principal

from .group import App

SHORTEST = 6
"""Characters of a run's id that are shown at least."""


@asynccontextmanager
async def reading(app: App) -> AsyncGenerator[Database | None]:
    """The configured database; None where there is none yet. Raises `DatabaseError`, `ConfigError`."""
    url = app.settings.database
    if not is_postgres(url) and not _is_there(sqlite_path(url)):
        yield None
        return
    db = await open_database(url, create=False)
    try:
        yield db
    finally:
        await db.close()


def _is_there(path: str) -> bool:
    return path == ":memory:" or Path(path).exists()


async def find(db: Database | None, prefix: str) -> RunRecord:
    """One's own run, by its id or the beginning of it. Raises `RunNotFound`, with the nearest ones."""
    if db is None:
        raise RunNotFound(f"there is no run {prefix}: there is no database yet", hint="`retinue run` makes the first.")
    subject = local_principal().key
    try:
        return await records.find(db, prefix, subject=subject)
    except RunNotFound as error:
        near = await _near(db, prefix, subject)
        if not near:
            raise
        raise RunNotFound(f"{error.message}; did you mean {' or '.join(near)}?") from None


async def find_whole(db: Database | None, prefix: str) -> RunRecord:
    """The same; for a run that is part of another one, that one: it is what is resumed, answered and cancelled."""
    record = await find(db, prefix)
    return record if record.root is None else await find(db, record.root)


async def _near(db: Database, prefix: str, subject: str) -> list[str]:
    length = max(len(prefix), SHORTEST)
    ids = [record.id[:length] for record in await records.recent(db, subject=subject, limit=200)]
    return get_close_matches(prefix, ids, 2, 0.7)


async def short_id(db: Database, run: str) -> str:
    """The shortest beginning of the id that names this run alone."""
    ids = await db.read(
        lambda tx: tx.all("SELECT id FROM runs WHERE id >= ? AND id < ?", (run[:SHORTEST], run[:SHORTEST] + "g"))
    )
    others = [other for (other,) in ids if other != run]
    length = SHORTEST
    while any(other.startswith(run[:length]) for other in others):
        length += 1
    return run[:length]


def ago(then: float, now: float | None = None) -> str:
    """``3 min ago``."""
    return f"{span((time.time() if now is None else now) - then)} ago"


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit: ``45 s``, ``3 min``, ``2 h``, ``5 d``."""
    seconds = max(0.0, seconds)
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
