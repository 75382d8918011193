"""Connections and servers that go away: what was committed stays, what was not is done again, nothing is done twice."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from retinue.database import postgres as engine
from retinue.database import postgres_session, postgres_watch
from retinue.database.base import Transaction
from retinue.database.postgres import PostgresDatabase
from retinue.database.postgres_session import PostgresTransaction, Session
from retinue.errors import DatabaseUnreachable, SchemaTooNew
from tests.support.postgres import Server
from tests.support.proxy import Break, Proxy, proxied

from .support import INSERT, keys, put, until

pytestmark = pytest.mark.anyio


class Breaking(PostgresDatabase):
    """Breaks the network at a chosen commit."""

    proxy: Proxy
    breaks: Break = ""
    attempts = 0

    def _commit(self, session: Session, transaction: PostgresTransaction, flush: bool) -> None:
        self.attempts += 1
        self.proxy.breaks, self.breaks = self.breaks, ""
        super()._commit(session, transaction, flush)


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    with proxied(postgres.port) as made:
        yield made


def through(url: str, proxy: Proxy, postgres: Server) -> str:
    return url.replace(f":{postgres.port}/", f":{proxy.port}/")


@pytest.fixture
async def database(postgres: Server, postgres_url: str, proxy: Proxy) -> AsyncGenerator[Breaking]:
    opened = await Breaking.open(through(postgres_url, proxy, postgres))
    assert isinstance(opened, Breaking)
    opened.proxy = proxy
    yield opened
    await opened.close()


@pytest.fixture(autouse=True)
def _old_server(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]  # by being autouse
    monkeypatch.setattr(postgres_watch, "YOUNG", 0.0)


def end_sessions(postgres: Server, which: str = "true") -> None:
    with postgres.admin() as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE application_name = 'retinue' AND {which}".encode()
        )


async def count(database: PostgresDatabase) -> int:
    row = await database.read(lambda tx: tx.one("SELECT count(*) FROM artifacts"))
    assert row is not None
    return row[0]


# A commit whose answer is lost


@pytest.mark.parametrize(("breaks", "attempts"), [("before", 2), ("after", 1)])
async def test_a_commit_whose_answer_is_lost_takes_place_once(database: Breaking, breaks: Break, attempts: int) -> None:
    await put(database, "warm")
    heard: list[str] = []
    for n in range(5):
        database.attempts, database.breaks = 0, breaks

        def work(tx: Transaction, key: str = f"{n}") -> str:
            tx.execute(INSERT, ("r", key, b""))
            tx.after_commit(lambda: heard.append(key))
            return key

        with anyio.fail_after(10):
            assert await database.write(work, flush=n % 2 == 0) == f"{n}"
        assert database.attempts == attempts
    assert heard == ["0", "1", "2", "3", "4"]
    assert await keys(database) == ["0", "1", "2", "3", "4", "warm"]


async def test_a_counter_is_raised_once_for_each_success_whenever_the_network_breaks(
    database: Breaking, proxy: Proxy
) -> None:
    await database.write(lambda tx: tx.execute(INSERT, ("counter", "", b"0")))

    def one_more(tx: Transaction) -> None:
        row = tx.one("SELECT body FROM artifacts WHERE run = 'counter'", lock=True)
        assert row is not None
        tx.execute("UPDATE artifacts SET body = ? WHERE run = 'counter'", (str(int(row[0]) + 1).encode(),))

    async def breaker() -> None:
        while True:
            await asyncio.sleep(0.03)
            proxy.cut()

    breaking = asyncio.ensure_future(breaker())
    with anyio.fail_after(30):
        for _ in range(30):
            await asyncio.gather(*(database.write(one_more) for _ in range(4)))
    breaking.cancel()
    row = await database.read(lambda tx: tx.one("SELECT body FROM artifacts WHERE run = 'counter'"))
    assert row == (b"120",)


async def test_a_commit_that_cannot_be_looked_up_says_that_nobody_knows(
    database: Breaking, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(database, "warm")
    monkeypatch.setattr(engine, "PATIENCE", 0.2)
    database.breaks, proxy.open = "after", False
    with pytest.raises(DatabaseUnreachable) as caught:
        await put(database, "a")
    assert caught.value.details == {"outcome": "unknown"}
    assert "not known" in caught.value.message
    assert "retinue recover" in caught.value.hint
    proxy.open = True
    assert await keys(database) == ["a", "warm"]
    await put(database, "b")
    assert await keys(database) == ["a", "b", "warm"]


async def test_what_is_told_of_later_commits_waits_until_an_earlier_one_is_looked_up(database: Breaking) -> None:
    await put(database, "warm")
    heard: list[str] = []
    committing = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(tx: Transaction, key: str) -> None:
        tx.execute(INSERT, ("r", key, b""))
        tx.after_commit(lambda: heard.append(key))
        if key == "first":
            loop.call_soon_threadsafe(committing.set)

    database.breaks = "after"
    first = asyncio.ensure_future(database.write(lambda tx: work(tx, "first")))
    await committing.wait()
    await until(lambda: not database.breaks)
    with anyio.fail_after(10):
        await asyncio.gather(*(database.write(lambda tx, key=f"{n}": work(tx, key)) for n in range(5)), first)
    assert heard[0] == "first"
    assert sorted(heard) == ["0", "1", "2", "3", "4", "first"]


async def test_the_same_work_waits_for_the_transaction_that_was_cut_off(postgres: Server, postgres_url: str) -> None:
    """The server has not noticed the loss: its session must be over before the work is done again."""
    with proxied(postgres.port) as proxy:
        database = await PostgresDatabase.open(through(postgres_url, proxy, postgres))
        session = Session(database._address, writes=True)  # pyright: ignore[reportPrivateUsage]
        session.connect()
        transaction = session.begin(write=True)
        transaction.execute(INSERT, ("r", "a", b""))
        stays, session.connection = session.connection, None  # as if only the client had lost it
        session.drop()
        tried = threading.Thread(target=session.connect, daemon=True)
        tried.start()
        with postgres.admin() as admin:
            waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: admin.execute(waiting).fetchone())
        assert stays is not None
        stays.close()
        await asyncio.to_thread(tried.join, 5)
        assert not tried.is_alive()
        assert not session.committed()
        session.close()
        await database.close()


# Connections that end between and inside transactions


async def test_connections_that_ended_are_made_again(postgres: Server, database: Breaking) -> None:
    for n in range(3):
        await put(database, f"{n}")
        assert len(await keys(database)) == n + 1
        end_sessions(postgres)


async def test_a_transaction_that_is_cut_in_the_middle_is_done_again(postgres: Server, database: Breaking) -> None:
    attempts: list[int] = []

    def work(tx: Transaction) -> None:
        attempts.append(tx.execute(INSERT, ("r", "a", b"")))
        if len(attempts) == 1:
            end_sessions(postgres, "state = 'idle in transaction'")
        tx.execute(INSERT, ("r", "b", b""))

    def look(tx: Transaction) -> Any:
        attempts.append(0)
        if len(attempts) == 3:
            end_sessions(postgres, "state = 'idle in transaction'")
        return tx.all("SELECT id FROM artifacts ORDER BY id")

    with anyio.fail_after(10):
        await database.write(work)
        assert await database.read(look) == [("a",), ("b",)]
    assert attempts == [1, 1, 0, 0]


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_server_that_is_started_again_is_used_again(postgres: Server, database: Breaking, how: Any) -> None:
    done = 0

    async def writer() -> None:
        nonlocal done
        for _ in range(60):
            key = f"{done:03}"
            done += 1
            await put(database, key)

    writing = [asyncio.ensure_future(writer()) for _ in range(4)]
    await until(lambda: done >= 20)
    await asyncio.to_thread(postgres.stop, how)
    await asyncio.to_thread(postgres.start)
    with anyio.fail_after(20):
        await asyncio.gather(*writing)
    assert len(await keys(database)) == done == 240


async def test_a_server_that_stays_away_is_told_and_nothing_is_half_done(
    postgres: Server, database: Breaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.3)
    monkeypatch.setattr(postgres_watch, "ANSWER_SECONDS", 0.3)
    await put(database, "a")
    await asyncio.to_thread(postgres.stop)
    with anyio.fail_after(10):
        for attempt in (put(database, "b"), keys(database)):
            with pytest.raises(DatabaseUnreachable) as caught:
                await attempt
            assert caught.value.exit_code == 4
            assert caught.value.hint
        assert database.alive("somebody.1.abcd") is None
    await asyncio.to_thread(postgres.start)
    assert await keys(database) == ["a"]


async def test_closing_does_not_wait_for_a_server_that_is_away(postgres: Server, database: Breaking) -> None:
    await put(database, "a")
    assert database.owner
    await asyncio.to_thread(postgres.stop)
    writing = asyncio.ensure_future(put(database, "b"))
    await asyncio.sleep(0)
    with anyio.fail_after(5):
        await database.close()
    with pytest.raises(DatabaseUnreachable):
        await writing
    await asyncio.to_thread(postgres.start)


async def test_a_connection_made_again_meets_the_tables_as_they_are_then(
    postgres: Server, database: Breaking, postgres_url: str
) -> None:
    await put(database, "a")
    schema = postgres_url.rpartition("=")[2]
    with postgres.admin() as admin:
        admin.execute(f"INSERT INTO {schema}.migrations (number) VALUES (99)".encode())
    end_sessions(postgres)
    with pytest.raises(SchemaTooNew):
        await put(database, "b")


# Owners


async def test_an_owner_takes_its_lock_again_on_the_next_connection(postgres: Server, postgres_url: str) -> None:
    first, second = await PostgresDatabase.open(postgres_url), await PostgresDatabase.open(postgres_url)
    owner = first.owner
    assert second.alive(owner) is True
    for _ in range(2):
        end_sessions(postgres)
        await until(lambda: second.alive(owner) is True)
    assert first.alive(owner) is True
    await first.close()
    assert second.alive(owner) is False
    assert second.alive("nobody.1.abcd") is False
    await second.close()


async def test_a_lock_that_is_missing_on_a_young_server_is_no_death(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await PostgresDatabase.open(postgres_url)
    monkeypatch.setattr(postgres_watch, "YOUNG", 1e9)
    assert database.alive("nobody.1.abcd") is None
    monkeypatch.setattr(postgres_watch, "YOUNG", 0.0)
    assert database.alive("nobody.1.abcd") is False
    await database.close()


async def test_owners_of_two_schemas_know_nothing_of_each_other(postgres: Server) -> None:
    first, second = [await PostgresDatabase.open(postgres.new_schema()) for _ in range(2)]
    assert first.alive(first.owner) is True
    assert second.alive(first.owner) is False
    await first.close()
    await second.close()


async def test_rows_of_connections_long_gone_are_removed(postgres: Server, postgres_url: str) -> None:
    schema = postgres_url.rpartition("=")[2]
    with postgres.admin() as admin:
        admin.execute(f"INSERT INTO {schema}.writers (id, done, kept, seen) VALUES ('old', 1, 1, 5)".encode())
        database = await PostgresDatabase.open(postgres_url)
        assert database.owner
        assert admin.execute(f"SELECT count(*) FROM {schema}.writers".encode()).fetchone() == (0,)
        await database.close()


# News


async def test_changes_come_from_other_processes_and_only_of_that_run(postgres_url: str) -> None:
    here, there = await PostgresDatabase.open(postgres_url), await PostgresDatabase.open(postgres_url)

    def change(tx: Transaction, run: str) -> None:
        tx.execute(INSERT, (run, str(tx.now), b""))
        tx.changed(run)

    async with aclosing(here.changes("mine")) as changes:
        await anext(changes)
        coming = asyncio.ensure_future(anext(changes))
        await asyncio.wait([coming], timeout=1)  # listening has begun, and says so
        coming = coming if not coming.done() else asyncio.ensure_future(anext(changes))
        await there.write(lambda tx: change(tx, "another"))
        await there.write(lambda tx: change(tx, "mine"))
        with anyio.fail_after(1.5):  # before it would have looked by itself
            await coming
    await here.close()
    await there.close()


async def test_changes_come_without_news_too(
    postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "POLL", 0.05)
    database = await PostgresDatabase.open(postgres_url)
    with caplog.at_level(logging.ERROR), anyio.fail_after(10):
        async with aclosing(database.changes("r")) as changes:
            for n in range(6):
                await anext(changes)
                if n % 2:
                    end_sessions(postgres)
    await database.close()


async def test_a_transaction_whose_process_no_longer_speaks_is_ended(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_session, "IDLE_TIMEOUT", 0.1)
    frozen = await PostgresDatabase.open(postgres_url)
    held, go, attempts = threading.Event(), threading.Event(), 0

    def hold(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        tx.lock("x")
        tx.execute(INSERT, ("r", f"{attempts}", b""))
        held.set()
        assert go.wait(10)

    holding = asyncio.ensure_future(frozen.write(hold))
    await asyncio.to_thread(held.wait)
    other = await PostgresDatabase.open(postgres_url)

    def after(tx: Transaction) -> int:
        tx.lock("x")
        return len(tx.all("SELECT id FROM artifacts"))

    with anyio.fail_after(5):
        assert await other.write(after) == 0
    go.set()
    await holding
    assert await keys(other) == ["2"]
    await frozen.close()
    await other.close()
