"""Postgres behind the port: opening, upgrading, transactions side by side, and errors that tell no secret."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import anyio
import psycopg
import pytest

from retinue.database import postgres as engine
from retinue.database import postgres_schema, postgres_session
from retinue.database.base import Database, Transaction
from retinue.database.choose import open_database
from retinue.database.migrations import newest, numbered
from retinue.database.postgres import PostgresDatabase
from retinue.errors import (
    ConfigError,
    DatabaseBusy,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseReadOnly,
    DatabaseUnreachable,
    LeaseLost,
    SchemaTooNew,
    SchemaTooOld,
)
from tests.support.postgres import Server

from .support import INSERT, keys, put, until

pytestmark = pytest.mark.anyio

T = TypeVar("T")
SECRET = "b0unDles$ horizon"


@pytest.fixture
async def database(postgres_url: str) -> AsyncGenerator[PostgresDatabase]:
    opened = await PostgresDatabase.open(postgres_url)
    yield opened
    await opened.close()


def always(value: T) -> Callable[[str], T]:
    """A function of a kind of database that knows one answer."""
    return lambda kind: value


async def opening(url: str) -> DatabaseError:
    """The error of opening it, which tells nothing secret."""
    with pytest.raises(DatabaseError) as caught:
        await PostgresDatabase.open(url)
    error: BaseException | None = caught.value
    assert caught.value.hint
    while error is not None:
        assert SECRET not in f"{error} {getattr(error, 'hint', '')} {getattr(error, 'details', '')}"
        error = error.__cause__ or error.__context__
    return caught.value


# Opening and upgrading


async def test_opening_makes_no_tables_and_names_the_command_that_does(postgres: Server) -> None:
    url = postgres.url("nothing_here")
    error = await opening(url)
    assert type(error) is SchemaTooOld
    assert "retinue db upgrade" in error.hint
    assert postgres_schema.status(url).schema == 0
    with postgres.admin() as admin:
        assert admin.execute("SELECT to_regnamespace('nothing_here')").fetchone() == (None,)


async def test_an_upgrade_makes_the_tables_once(postgres: Server) -> None:
    url = postgres.url("once")
    known = [number for number, _ in numbered("postgres")]
    assert postgres_schema.upgrade(url) == known
    assert postgres_schema.upgrade(url) == []
    database = await open_database(url)
    health = await database.check()
    assert (health.schema, health.newest, health.problem) == (known[-1], newest("postgres"), "")
    assert health.server.startswith("Postgres ")
    await database.close()


async def test_upgrades_at_once_make_the_tables_once(postgres: Server) -> None:
    url = postgres.url("at_once")
    applied = await asyncio.gather(*(asyncio.to_thread(postgres_schema.upgrade, url) for _ in range(5)))
    assert sorted(map(len, applied)) == [0, 0, 0, 0, len(numbered("postgres"))]


async def test_an_upgrade_that_fails_leaves_nothing(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    later = [*numbered("postgres"), (99, "CREATE TABLE extra (a TEXT); SELEKT 1")]
    monkeypatch.setattr(postgres_schema, "numbered", always(later))
    url = postgres.url("halfway")
    with pytest.raises(DatabaseError):
        postgres_schema.upgrade(url)
    assert postgres_schema.status(url).schema == 0


async def test_an_older_schema_is_refused_until_it_is_upgraded(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = [*numbered("postgres"), (99, "CREATE TABLE extra (a TEXT)")]
    with monkeypatch.context() as patch:
        patch.setattr(postgres_session, "newest", always(99))
        error = await opening(postgres_url)
        assert type(error) is SchemaTooOld
        assert "retinue db upgrade" in error.hint
        patch.setattr(postgres_schema, "numbered", always(later))
        assert postgres_schema.upgrade(postgres_url) == [99]
        await (await PostgresDatabase.open(postgres_url)).close()
    assert type(await opening(postgres_url)) is SchemaTooNew
    with pytest.raises(SchemaTooNew):
        postgres_schema.upgrade(postgres_url)


async def test_tables_of_somebody_else_are_left_alone(postgres: Server) -> None:
    with postgres.admin() as admin:
        admin.execute("CREATE SCHEMA theirs; CREATE TABLE theirs.addresses (name TEXT)")
    with pytest.raises(DatabaseCorrupt, match="not Retinue's"):
        postgres_schema.upgrade(postgres.url("theirs"))


def test_both_databases_have_the_same_tables_and_columns(postgres: Server, postgres_url: str) -> None:
    import sqlite3

    schema = postgres_url.rpartition("=")[2]
    with postgres.admin() as admin:
        rows = admin.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s", (schema,)
        ).fetchall()
    there = {tuple(row) for row in rows if row[0] not in ("migrations", "writers")}
    file = sqlite3.connect(":memory:")
    for _, script in numbered("sqlite"):
        file.executescript(script)
    tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    here = {(table, row[1]) for table in tables for row in file.execute(f"PRAGMA table_info({table})")}
    file.close()
    assert there == here


# Errors


async def test_a_wrong_password_is_refused_without_being_told(postgres: Server) -> None:
    with postgres.admin() as admin:
        admin.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
    where = f"127.0.0.1:{postgres.port}/postgres"
    for url in (
        f"postgresql://locked:b0unDles%24%20horizon@{where}",
        f"postgresql://locked@{where}?password=b0unDles%24%20horizon",
    ):
        error = await opening(url)
        assert type(error) is DatabaseUnreachable
        assert "authentication failed" in error.message
        assert "PGPASSFILE" in error.hint
    error = await opening(f"postgresql://locked@{where}")
    assert "no password supplied" in error.message


async def test_a_server_that_is_not_there_is_told_at_once(postgres: Server) -> None:
    with anyio.fail_after(5):
        error = await opening(f"postgresql://me:b0unDles%24%20horizon@127.0.0.1:1/x?schema={'a' * 40}")
    assert type(error) is DatabaseUnreachable
    assert "127.0.0.1" in error.message
    assert error.exit_code == 4
    assert type(await opening(f"postgresql://retinue@127.0.0.1:{postgres.port}/absent")) is DatabaseUnreachable


async def test_an_old_server_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_session, "OLDEST", 99)
    error = await opening(postgres_url)
    assert "Postgres 99" in error.hint


async def test_no_connection_left_is_told(postgres: Server, postgres_url: str) -> None:
    with postgres.admin() as admin:
        admin.execute("DROP ROLE IF EXISTS lonely; CREATE ROLE lonely LOGIN CONNECTION LIMIT 0")
    error = await opening(postgres_url.replace("retinue@", "lonely@"))
    assert isinstance(error, DatabaseError)
    assert "too many connections" in error.message


@pytest.mark.parametrize("url", ["postgresql://u:b0unDles$ horizon@h:x:1/d", "postgresql://h/d?colour=blue"])
async def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await open_database(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("schema", ["Retinue", "pg_mine", "a-b", "", "a" * 41, "a;DROP"])
async def test_a_schema_that_needs_quotes_is_refused(schema: str) -> None:
    with pytest.raises(ConfigError):
        await open_database(f"postgresql://h/d?schema={schema}")


async def test_a_role_that_may_only_read_is_told(postgres: Server, postgres_url: str) -> None:
    schema = postgres_url.rpartition("=")[2]
    with postgres.admin() as admin:
        admin.execute(
            f"""
            DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN;
            GRANT USAGE ON SCHEMA {schema} TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader
        """.encode()
        )
    database = await PostgresDatabase.open(postgres_url.replace("retinue@", "reader@"))
    assert await keys(database) == []
    with pytest.raises(DatabaseReadOnly) as caught:
        await put(database, "a")
    assert caught.value.details["postgres"] == "42501"
    await database.close()


async def test_a_database_that_is_read_only_is_told(postgres_url: str) -> None:
    database = await PostgresDatabase.open(f"{postgres_url}&options=-c%20default_transaction_read_only%3Don")
    with pytest.raises(DatabaseReadOnly) as caught:
        await put(database, "a")
    assert "primary" in caught.value.hint
    await database.close()


@pytest.mark.parametrize("state", ["53100", "XX001", "53300", "53200", "57014", "40003", "58030"])
async def test_what_the_server_says_becomes_a_typed_error_with_a_hint(database: PostgresDatabase, state: str) -> None:
    def work(tx: Transaction) -> None:
        tx.execute(INSERT, ("r", "a", b""))
        tx.execute(f"DO $$ BEGIN RAISE EXCEPTION 'the words' USING ERRCODE = '{state}'; END $$")

    with pytest.raises(DatabaseError) as caught:
        await database.write(work)
    assert caught.value.details["postgres"] == state
    assert caught.value.hint
    assert "the words" not in str(caught.value)
    assert await keys(database) == []


async def test_text_that_postgres_cannot_hold_undoes_the_whole_unit(database: PostgresDatabase) -> None:
    def work(tx: Transaction, key: Any) -> None:
        tx.execute(INSERT, ("r", "a", b""))
        tx.execute(INSERT, ("r", key, b""))

    for key in ("zero\0", 2**70, object()):
        with pytest.raises((DatabaseError, OverflowError)):
            await database.write(lambda tx, key=key: work(tx, key))
    with pytest.raises(DatabaseError):
        await database.write(lambda tx: tx.executemany(INSERT, [("r", "b", b""), ("r", "\0", b"")]))
    assert await keys(database) == []
    await put(database, "c")
    assert await keys(database) == ["c"]


# Transactions


async def test_values_come_back_as_they_were_written(database: PostgresDatabase) -> None:
    body = bytes(range(256))
    text = "?%s $1 'quoted' \\ ünï 🦉"
    await database.write(lambda tx: tx.execute(INSERT, (text, "big", body)))
    await database.write(
        lambda tx: tx.executemany(
            "INSERT INTO proofs_seen (id, expires_at) VALUES (?, ?)", [("a", 0.1 + 0.2), ("b", 5), ("c", 1e308)]
        )
    )
    assert await database.read(lambda tx: tx.all("SELECT run, body FROM artifacts")) == [(text, body)]
    rows = await database.read(lambda tx: tx.all("SELECT id, expires_at FROM proofs_seen ORDER BY id"))
    assert rows == [("a", 0.1 + 0.2), ("b", 5.0), ("c", 1e308)]
    assert await database.read(lambda tx: tx.one("SELECT ?, count(*) FROM artifacts WHERE run = '?'", (True,))) == (
        1,
        0,
    )


async def test_ids_are_compared_byte_by_byte(database: PostgresDatabase) -> None:
    wanted = ["", "-a", "1f-b", "1f0", "A", "Z", "_", "a", "z", "é"]
    for key in reversed(wanted):
        await put(database, key)
    assert await keys(database) == wanted


async def test_many_statements_with_and_without_rows_travel_in_order(database: PostgresDatabase) -> None:
    def work(tx: Transaction) -> list[Any]:
        tx.executemany(INSERT, [])
        tx.executemany(INSERT, [("r", f"{n:03}", b"x" * 5000) for n in range(200)])
        tx.executemany("DELETE FROM artifacts WHERE id = ?", [("000",)])
        first = tx.one("SELECT count(*), min(id) FROM artifacts")
        tx.executemany("DELETE FROM artifacts WHERE id = ?", [("001",)])
        changed = tx.execute("DELETE FROM artifacts WHERE id < '010'")
        tx.executemany("DELETE FROM artifacts WHERE id = ?", [("199",)])
        return [first, changed]

    assert await database.write(work) == [(199, "001"), 8]
    assert len(await keys(database)) == 189


async def test_more_kinds_of_statements_than_are_prepared_still_run(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue.database.postgres_wire.PREPARED_AT_MOST", 5)
    for n in range(20):
        assert await database.read(lambda tx, n=n: tx.one(f"SELECT {n}, ?", (n,))) == (n, n)
    await put(database, "a")
    assert await keys(database) == ["a"]


async def test_writes_go_on_side_by_side_and_a_lock_puts_them_in_a_row(database: PostgresDatabase) -> None:
    inside, both = 0, threading.Barrier(2, timeout=10)

    def together(tx: Transaction) -> None:
        both.wait()

    with anyio.fail_after(10):
        await asyncio.gather(database.write(together), database.write(together))

    seen: list[int] = []

    def alone(tx: Transaction) -> None:
        nonlocal inside
        tx.lock("one at a time")
        tx.all("SELECT 1")
        inside += 1
        seen.append(inside)
        inside -= 1

    await asyncio.gather(*(database.write(alone) for _ in range(30)))
    assert seen == [1] * 30


async def test_a_locked_row_is_read_as_the_one_before_has_left_it(database: PostgresDatabase) -> None:
    await database.write(lambda tx: tx.execute(INSERT, ("counter", "", b"0")))

    def one_more(tx: Transaction) -> None:
        row = tx.one("SELECT body FROM artifacts WHERE run = 'counter' -- the number", lock=True)
        assert row is not None
        tx.execute("UPDATE artifacts SET body = ? WHERE run = 'counter'", (str(int(row[0]) + 1).encode(),))

    await asyncio.gather(*(database.write(one_more) for _ in range(60)))
    assert await database.read(lambda tx: tx.one("SELECT body FROM artifacts WHERE run = 'counter'")) == (b"60",)


async def test_all_of_a_read_sees_one_snapshot(database: PostgresDatabase) -> None:
    looked, go = threading.Event(), threading.Event()
    seen: list[Any] = []

    def look(tx: Transaction) -> None:
        seen.append(tx.all("SELECT id FROM artifacts"))
        looked.set()
        assert go.wait(10)
        seen.append(tx.all("SELECT id FROM artifacts"))

    reading = asyncio.ensure_future(database.read(look))
    await asyncio.to_thread(looked.wait)
    await put(database, "a")
    go.set()
    await reading
    assert seen == [[], []]
    assert await keys(database) == ["a"]


async def test_transactions_that_block_each_other_are_done_again(database: PostgresDatabase) -> None:
    meeting = threading.Barrier(2)
    attempts: list[str] = []

    def work(tx: Transaction, first: str, second: str) -> None:
        attempts.append(first)
        tx.lock(first)
        tx.all("SELECT 1")
        if len(attempts) <= 2:
            meeting.wait(10)
        tx.lock(second)
        tx.execute(INSERT, ("r", first, b""))

    with anyio.fail_after(20):
        await asyncio.gather(
            database.write(lambda tx: work(tx, "a", "b")), database.write(lambda tx: work(tx, "b", "a"))
        )
    assert len(attempts) == 3
    assert await keys(database) == ["a", "b"]


async def test_conflicts_without_end_are_given_up(database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CONFLICTS_AT_MOST", 3)
    attempts = 0

    def work(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        tx.execute("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")

    with pytest.raises(DatabaseBusy):
        await database.write(work)
    assert attempts == 4


async def test_a_lock_that_is_not_let_go_of_is_told(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_session, "LOCK_TIMEOUT", 0.2)
    database, held, go = await PostgresDatabase.open(postgres_url), threading.Event(), threading.Event()

    def hold(tx: Transaction) -> None:
        tx.lock("x")
        tx.all("SELECT 1")
        held.set()
        assert go.wait(10)

    holding = asyncio.ensure_future(database.write(hold))
    await asyncio.to_thread(held.wait)
    with pytest.raises(DatabaseBusy):
        await database.write(lambda tx: tx.lock("x"))
    go.set()
    await holding
    await database.close()


async def test_time_is_the_servers_and_stands_still_inside_a_transaction(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 5.0)
    first, again = await database.write(lambda tx: (tx.now, tx.now))
    later = await database.read(lambda tx: tx.now)
    assert first == again
    assert 1e9 < first < later


async def test_news_of_commits_that_build_upon_each_other_come_in_their_order(database: PostgresDatabase) -> None:
    await database.write(lambda tx: tx.execute(INSERT, ("counter", "", b"0")))
    heard: list[int] = []

    def work(tx: Transaction) -> None:
        row = tx.one("SELECT body FROM artifacts WHERE run = 'counter'", lock=True)
        assert row is not None
        number = int(row[0]) + 1
        tx.execute("UPDATE artifacts SET body = ? WHERE run = 'counter'", (str(number).encode(),))
        tx.after_commit(lambda: heard.append(number))

    def fail(tx: Transaction) -> None:
        tx.after_commit(lambda: heard.append(-1))
        raise LeaseLost("gone")

    async def failing() -> None:
        with pytest.raises(LeaseLost):
            await database.write(fail)

    await asyncio.gather(*(failing() if n % 7 == 3 else database.write(work) for n in range(100)))
    assert heard == list(range(1, len(heard) + 1))
    assert len(heard) == 86


async def test_a_commit_waits_for_the_disk_only_where_somebody_has_asked_for_it(postgres_url: str) -> None:
    steps: list[Any] = []

    class Listening(PostgresDatabase):
        def _commit(self, session: Any, transaction: Any, flush: bool) -> None:
            super()._commit(session, transaction, flush)
            steps.append(session._connected.one([(b"SELECT done - kept FROM writers WHERE id = $1", (session._name,))]))

    lazy = await Listening.open(f"{postgres_url}&options=-c%20synchronous_commit%3Doff")
    await put_flushed(lazy, "a", False)
    await put_flushed(lazy, "b", True)
    await lazy.close()
    eager = await Listening.open(postgres_url)
    await put_flushed(eager, "c", False)
    await eager.close()
    assert steps == [(1,), (0,), (0,)]


async def put_flushed(database: Database, key: str, flush: bool) -> None:
    await database.write(lambda tx: tx.execute(INSERT, ("r", key, b"")), flush=flush)


# Closing and connections


async def connections(admin: psycopg.Connection[Any], name: str, wanted: int) -> None:
    """Wait until this many of that name are there."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    await until(lambda: admin.execute(sql, (name,)).fetchone() == (wanted,))


async def test_close_finishes_what_is_in_the_queue_and_leaves_nothing(postgres: Server, postgres_url: str) -> None:
    database = await PostgresDatabase.open(f"{postgres_url}&application_name=leaving")
    assert database.owner
    writes = [asyncio.ensure_future(put(database, f"{n:02}")) for n in range(30)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*writes)
    with pytest.raises(DatabaseError, match="closed"):
        await put(database, "late")
    assert database.alive("somebody.1.abcd") is None
    with postgres.admin() as admin:
        await connections(admin, "leaving", 0)
        schema = postgres_url.rpartition("=")[2]
        assert admin.execute(f"SELECT count(*) FROM {schema}.writers".encode()).fetchone() == (0,)
    reopened = await PostgresDatabase.open(postgres_url)
    assert len(await keys(reopened)) == 30
    await reopened.close()


async def test_a_command_that_reads_needs_one_connection(postgres: Server, postgres_url: str) -> None:
    database = await PostgresDatabase.open(f"{postgres_url}&application_name=single")
    for _ in range(5):
        await keys(database)
    with postgres.admin() as admin:
        await connections(admin, "single", 1)
    await database.close()


async def test_connections_that_nobody_needs_are_let_go_of(
    postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue.database.crew.IDLE_SECONDS", 0.05)
    database = await PostgresDatabase.open(f"{postgres_url}&application_name=idle")
    await asyncio.gather(*(put(database, f"{n}") for n in range(8)))
    with postgres.admin() as admin:
        await connections(admin, "idle", 0)
    assert len(await keys(database)) == 8
    await database.close()


def test_an_url_is_shown_without_its_secrets() -> None:
    from retinue.database.postgres_url import parse

    shown = {
        "postgresql://u:pa%2Fss@h:5433/d": "postgresql://u@h:5433/d",
        "postgres://u@h/d?password=x&schema=mine": "postgresql://u@h/d?schema=mine",
        "postgresql://u:p@h1:1,h2:2/d?target_session_attrs=read-write": "postgresql://u@h1:1,h2:2/d",
        "postgresql:///d?host=/run/pg&user=u&password=p": "postgresql://u@/d?host=/run/pg",
        "postgresql://u@[::1]:5432/d": "postgresql://u@[::1]:5432/d",
        "postgresql://": "postgresql:///",
    }
    for url, wanted in shown.items():
        address = parse(url)
        assert address.shown == wanted
        assert "pass" not in repr(address)
