"""What other processes do with a Postgres database."""

from __future__ import annotations

import asyncio

from retinue.database import postgres_session, postgres_watch
from retinue.database.base import Transaction
from retinue.database.postgres import PostgresDatabase
from retinue.errors import RetinueError
from tests.support.forked import Talk, told

INSERT = "INSERT INTO artifacts (run, id, media_type, body) VALUES (?, ?, '', ?)"


async def own(talk: Talk, url: str) -> None:
    """Take the name's lock; let go of it when told."""
    postgres_watch.YOUNG = 0.0  # the server of a test has only just been started
    database = await PostgresDatabase.open(url)
    talk.send(await asyncio.to_thread(lambda: database.owner))
    await told(talk)
    await database.close()


async def increment(talk: Talk, url: str, times: int) -> None:
    """Read a number and write the next one, over and over."""
    database = await PostgresDatabase.open(url)

    def one_more(tx: Transaction) -> None:
        row = tx.one("SELECT body FROM artifacts WHERE run = 'counter'", lock=True)
        assert row is not None
        tx.execute("UPDATE artifacts SET body = ? WHERE run = 'counter'", (str(int(row[0]) + 1).encode(),))

    talk.send("ready")
    await told(talk)
    for _ in range(times):
        await database.write(one_more)
    await database.close()
    talk.send("done")


async def hold(talk: Talk, url: str, name: str, idle_timeout: float) -> None:
    """Stop in the middle of a transaction that has a lock, until told; say how it ends."""
    postgres_session.IDLE_TIMEOUT = idle_timeout
    database = await PostgresDatabase.open(url)

    def work(tx: Transaction) -> None:
        tx.lock(name)
        tx.execute(INSERT, ("held", str(tx.now), b""))
        talk.send("holding")
        talk.recv()

    try:
        await database.write(work)
    except RetinueError as error:
        talk.send(error.code)
    else:
        talk.send("written")
    await database.close()
