"""Numbered migrations and the marks that say whose file this is."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from retinue.database.migrations import numbered
from retinue.errors import DatabaseCorrupt, DatabaseError, SchemaTooNew

APPLICATION_ID = 0x52544E55  # "RTNU", in the file's header


def migrations() -> list[tuple[int, str]]:
    """SQLite's migrations, in order."""
    return numbered("sqlite")


def statements(script: str) -> Iterator[str]:
    """The single statements of a script."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if ";" in line and sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        yield pending


def check_is_ours(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a file that holds somebody else's tables, or a newer schema, before anything about it is changed."""
    connection.execute("BEGIN")  # one snapshot: another process may be creating the tables right now
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    if application == APPLICATION_ID:
        _check_version(version, path)
    elif application != 0 or tables:
        raise DatabaseCorrupt(
            f"{path} is a SQLite database, but not one of Retinue's",
            hint="Choose another file with --database. This one was left as it is.",
        )


def _check_version(version: int, path: str) -> None:
    newest = migrations()[-1][0]
    if version > newest:
        raise SchemaTooNew(f"the database {path} has schema {version}; this Retinue knows up to {newest}")


def enter_wal(connection: sqlite3.Connection, path: str, timeout: float) -> None:
    """Switch the file to write-ahead logging; a file that has it already is not touched.

    The switch needs the file for itself, and SQLite does not wait for that by itself.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not (error.sqlite_errorname or "").startswith("SQLITE_BUSY") or time.monotonic() >= deadline:
                raise
            time.sleep(0.005)
            continue
        if mode != "wal":
            raise DatabaseError(
                f"the file system under {path} does not offer write-ahead logging ({mode})",
                hint="Keep the database on a local disk: --database, or RETINUE_DATABASE.",
            )
        return


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the schema up to date, in one transaction, also when two processes open the file at once."""
    known = migrations()
    newest = known[-1][0]
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        _check_version(version, path)
        for number, script in known:
            if number > version:
                for statement in statements(script):
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version={newest}")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
