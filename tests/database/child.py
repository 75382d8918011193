"""Another process on a database: ``child.py WHAT PATH…``. Says on stdout what happened, one JSON value a line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from retinue.database.base import Transaction
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import DatabaseError

INSERT = "INSERT INTO artifacts (run, id, media_type, body) VALUES (?, ?, '', ?)"
COUNT = "SELECT count(*) FROM artifacts"


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def wait_for_word() -> None:
    if not sys.stdin.readline():
        raise SystemExit("the parent has gone")


async def attempt(step: Awaitable[Any]) -> dict[str, Any] | None:
    """What went wrong, as the error's body, or None."""
    try:
        await step
    except DatabaseError as error:
        return {**error.body(), "sqlite": error.details.get("sqlite")}
    return None


async def count(database: SQLiteDatabase) -> int:
    return await database.read(lambda tx: tx.all(COUNT)[0][0])


async def open_many(*paths: str) -> None:
    """Open each file as soon as it is named on stdin, write one row to it and close it."""
    for path in paths:
        wait_for_word()
        database = await SQLiteDatabase.open(path)
        await database.write(lambda tx: tx.execute(INSERT, (str(os.getpid()), "", b"")))
        await database.close()
        say("done")


async def increment(path: str, times: str) -> None:
    """Read a number and write the next one, over and over."""
    database = await SQLiteDatabase.open(path)

    def one_more(tx: Transaction) -> None:
        (body,) = tx.all("SELECT body FROM artifacts WHERE run = 'counter'")[0]
        tx.execute("UPDATE artifacts SET body = ? WHERE run = 'counter'", (str(int(body) + 1).encode(),))

    say("ready")
    wait_for_word()
    for _ in range(int(times)):
        await database.write(one_more)
    await database.close()


async def hang_in_a_transaction(path: str) -> None:
    """Commit one row, then stop in the middle of the next transaction, waiting to be killed."""
    database = await SQLiteDatabase.open(path)
    await database.write(lambda tx: tx.execute(INSERT, ("committed", "", b"")))

    def forever(tx: Transaction) -> None:
        tx.executemany(INSERT, [("open", str(n), b"x" * 10_000) for n in range(500)])
        say(database.owner)
        wait_for_word()

    await database.write(forever)


async def own(path: str) -> None:
    database = await SQLiteDatabase.open(path)
    say(database.owner)
    wait_for_word()
    await database.close()


async def fill(path: str, limit: str) -> None:
    """Write until no file may grow beyond ``limit`` bytes, see what is left, go on when the limit is gone."""
    import resource

    database = await SQLiteDatabase.open(path)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
    written, error = 0, None
    while error is None:
        key = str(written)
        error = await attempt(database.write(lambda tx, key=key: tx.execute(INSERT, ("r", key, b"x" * 20_000))))
        written += error is None
    say({"written": written, "error": error, "left": await count(database)})
    say(await attempt(database.write(lambda tx: tx.execute(INSERT, ("r", "again", b"x" * 500_000)))))
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await database.write(lambda tx: tx.execute(INSERT, ("r", "more", b"x" * 500_000)))
    say(await count(database))
    await database.close()


async def as_somebody_else(*paths: str) -> None:
    """Open each file without the rights of root; say what happened."""
    await (await SQLiteDatabase.open(":memory:")).close()  # loads what root's own folders may hold
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    for path in paths:
        database: SQLiteDatabase | None = None
        with contextlib.suppress(DatabaseError):
            database = await SQLiteDatabase.open(path)
        if database is None:
            say(await attempt(SQLiteDatabase.open(path)))
            continue
        say(await attempt(database.write(lambda tx: tx.execute(INSERT, ("r", "", b"")))))
        await database.close()


WHAT: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    call.__name__: call for call in (open_many, increment, hang_in_a_transaction, own, fill, as_somebody_else)
}


def command(what: Callable[..., object], *arguments: object) -> list[str]:
    return [sys.executable, str(Path(__file__)), what.__name__, *map(str, arguments)]


if __name__ == "__main__":
    asyncio.run(WHAT[sys.argv[1]](*sys.argv[2:]))
