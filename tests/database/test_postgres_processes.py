"""Several processes on one Postgres database, and processes that die or freeze on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import anyio
import pytest

from retinue.database import postgres_watch
from retinue.database.base import Transaction
from retinue.database.postgres import PostgresDatabase
from tests.support.forked import Child, children

from . import postgres_child as there
from .support import INSERT, keys, until

pytestmark = pytest.mark.anyio

Children = Callable[..., Child]


@pytest.fixture
def child() -> Iterator[Children]:
    with children() as start:
        yield start


@pytest.fixture(autouse=True)
def _old_server(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]  # by being autouse
    monkeypatch.setattr(postgres_watch, "YOUNG", 0.0)


async def test_processes_that_write_at_once_lose_no_write(postgres_url: str, child: Children) -> None:
    database = await PostgresDatabase.open(postgres_url)
    await database.write(lambda tx: tx.execute(INSERT, ("counter", "", b"0")))
    writers = [child(there.increment, postgres_url, 100) for _ in range(3)]
    for writer in writers:
        assert await asyncio.to_thread(writer.hear) == "ready"
    for writer in writers:
        writer.tell()
    for writer in writers:
        assert await asyncio.to_thread(writer.hear) == "done"
        await asyncio.to_thread(writer.finish)
    assert await database.read(lambda tx: tx.one("SELECT body FROM artifacts WHERE run = 'counter'")) == (b"300",)
    await database.close()


async def test_an_owner_lives_as_long_as_its_process(postgres_url: str, child: Children) -> None:
    database = await PostgresDatabase.open(postgres_url)
    owners = [child(there.own, postgres_url) for _ in range(3)]
    first, second, third = [await asyncio.to_thread(owner.hear) for owner in owners]
    assert len({first, second, third, database.owner}) == 4
    assert [database.alive(name) for name in (first, second, third)] == [True, True, True]
    owners[2].freeze()
    owners[0].kill()
    await until(lambda: database.alive(first) is False)
    assert [database.alive(name) for name in (second, third)] == [True, True]
    owners[1].tell()
    await asyncio.to_thread(owners[1].finish)
    assert database.alive(second) is False
    assert database.alive(third) is True  # frozen, not dead
    assert database.alive(database.owner) is True
    await database.close()


async def test_a_process_killed_in_a_transaction_leaves_what_it_had_committed(
    postgres_url: str, child: Children
) -> None:
    database = await PostgresDatabase.open(postgres_url)
    held = child(there.hold, postgres_url, "x", 60.0)
    assert await asyncio.to_thread(held.hear) == "holding"
    held.kill()

    def after(tx: Transaction) -> None:
        tx.lock("x")
        tx.execute(INSERT, ("r", "a", b""))

    with anyio.fail_after(10):
        await database.write(after)
    assert await keys(database) == ["a"]
    await database.close()


async def test_a_process_frozen_in_a_transaction_holds_nobody_up_and_goes_on_when_it_wakes(
    postgres_url: str, child: Children
) -> None:
    database = await PostgresDatabase.open(postgres_url)
    held = child(there.hold, postgres_url, "x", 0.5)
    assert await asyncio.to_thread(held.hear) == "holding"
    held.freeze()

    def after(tx: Transaction) -> None:
        tx.lock("x")
        tx.execute(INSERT, ("r", "a", b""))

    with anyio.fail_after(10):
        await database.write(after)
    held.wake()
    held.tell()
    assert await asyncio.to_thread(held.hear) == "holding"  # its transaction was ended; it does the work again
    held.tell()
    assert await asyncio.to_thread(held.hear) == "written"
    rows = await database.read(lambda tx: tx.all("SELECT run FROM artifacts ORDER BY run"))
    assert rows == [("held",), ("r",)]
    await database.close()
