"""The index file: opened, checked, put aside when it is damaged. What is in it is `index`'s business.

Everything in it can be made again from the documents, so it is never worth an error: a file that is damaged or was
written by another version is rebuilt, and said so. Several processes may use one file at the same time (WAL).
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from retinue.database.errors import translate
from retinue.errors import ConfigError, DatabaseBusy, DatabaseCorrupt
from retinue.system import ProcessLock, ensure_private_dir, private_file

from .documents import READER_VERSION
from .scan import Root

T = TypeVar("T")

FORMAT = f"1.{READER_VERSION}"
"""Counted up with every change of the tables, of the terms (`analysis`) or of the passages (`chunks`)."""

_APPLICATION_ID = 0x52544B4E
_BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (            -- everything that was read: documents, and what gave none (reason is not null)
    id INTEGER PRIMARY KEY,
    document TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    read_ns INTEGER NOT NULL,   -- when its bytes were last looked at
    sha256 TEXT NOT NULL,
    title TEXT, media_type TEXT, length INTEGER, language TEXT,
    reason TEXT, detail TEXT
);
CREATE TABLE passages (         -- the texts of a file's passages, one after the other, are the document's whole text
    id INTEGER PRIMARY KEY,
    file INTEGER NOT NULL REFERENCES files (id),
    first INTEGER NOT NULL,     -- offset of text in the document
    start INTEGER NOT NULL,     -- the passage without the white space around it
    "end" INTEGER NOT NULL,
    heading TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE INDEX passages_of_file ON passages (file, first);
CREATE TABLE vectors (          -- float32, little-endian, of length 1
    passage INTEGER NOT NULL,
    model TEXT NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (passage, model)
) WITHOUT ROWID;
-- Terms come from `analysis`, in ASCII letters and digits or above ASCII: this tokenizer only splits at the spaces.
CREATE VIRTUAL TABLE terms USING fts5 (title, heading, body, tokenize = 'ascii');
CREATE VIRTUAL TABLE vocabulary USING fts5vocab (terms, 'row');
"""


_DROP = "".join(
    f"DROP TABLE IF EXISTS {table};" for table in ("vocabulary", "terms", "vectors", "passages", "files", "meta")
)


class IndexDamaged(Exception):
    """The index file cannot be trusted any more. The library answers with `Store.rebuild`."""

    def __init__(self, generation: int) -> None:
        super().__init__()
        self.generation = generation


class Store:
    """One connection for all threads of the process, used by one at a time; no use takes long."""

    def __init__(self, path: Path | None, roots: Sequence[Root]) -> None:
        """Open the index at ``path`` (None: in memory), or make it.

        Raises `ConfigError` if the file belongs to another library or another program, and `DatabaseError`s.
        """
        self.path = path
        self.notices: list[str] = []
        self._roots = json.dumps([[str(root.path), root.prefix] for root in roots])
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._generation = 0
        if path is None:
            self._connection = self._connect()
            self._create(self._connection)
            return
        try:
            ensure_private_dir(path.parent)
            private_file(path)
        except OSError as error:
            raise ConfigError(
                f"the index {path} cannot be made: {error.strerror}", hint="Choose another file."
            ) from None
        with self._opening():
            self._open()

    @property
    def name(self) -> str:
        return str(self.path or ":memory:")

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` on one consistent snapshot."""
        return self._run("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``work`` in a transaction that no other process can write beside."""
        return self._run("BEGIN IMMEDIATE", work)

    def rebuild(self, damage: IndexDamaged) -> None:
        """Put the damaged file aside (as ``….damaged``) and begin an empty one, unless somebody just did."""
        if self.path is None:
            raise DatabaseCorrupt("the index in memory is damaged")
        with self._lock, self._opening():
            if damage.generation != self._generation or self._connection is None:
                return
            self._disconnect()
            if self._file == _identity(self.path):
                self._put_aside()
            self._open()

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _run(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            connection = self._connection
            if connection is None:
                raise ConfigError("the library is closed")
            try:
                connection.execute(begin)
                result = work(connection)
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back(connection)
                failure = translate(error, self.name)
                if isinstance(failure, DatabaseCorrupt) or "no such table" in str(error):
                    raise IndexDamaged(self._generation) from None
                raise failure from None
            except BaseException:
                self._roll_back(connection)
                raise
            return result

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _opening(self) -> contextlib.AbstractContextManager[object]:
        """One process at a time creates, checks or replaces the file."""
        assert self.path is not None
        lock = ProcessLock(self.path.with_name(self.path.name + ".lock"))
        try:
            lock.acquire(timeout=_BUSY_SECONDS)
        except BlockingIOError:
            raise DatabaseBusy(f"another process does not finish opening the index {self.path}") from None
        return contextlib.closing(_Releasing(lock))

    def _open(self) -> None:
        assert self.path is not None
        for attempt in (1, 2):
            connection: sqlite3.Connection | None = None
            try:
                connection = self._connect()
                self._check(connection)
                connection.execute("PRAGMA journal_mode = WAL")  # writes to the file: not before it is known as ours
            except sqlite3.Error as error:
                if connection is not None:
                    connection.close()
                failure = translate(error, self.name)
                if attempt == 2 or not isinstance(failure, DatabaseCorrupt):
                    raise failure from None
                self._put_aside()
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            else:
                self._connection = connection
                self._file = _identity(self.path)
                self._generation += 1
                return

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.name, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Make the tables in an empty file; empty a file of another version; refuse what is not ours."""
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not tables:
            self._create(connection)
            return
        if application != _APPLICATION_ID:
            raise ConfigError(
                f"{self.path} is the database of another program", hint="Choose another file for the index."
            )
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta.get("format") != FORMAT:
            self.notices.append("the index was written by another version of Retinue and is built again")
            self._create(connection, _DROP)
        elif meta.get("roots") != self._roots:
            raise ConfigError(
                f"the index {self.path} belongs to other folders", hint="Choose another file for this library's index."
            )

    def _create(self, connection: sqlite3.Connection, before: str = "") -> None:
        connection.executescript(f"BEGIN IMMEDIATE; {before} {_SCHEMA}")
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("roots", self._roots)])
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute("COMMIT")

    def _put_aside(self) -> None:
        assert self.path is not None
        damaged = self.path.with_name(self.path.name + ".damaged")
        os.replace(self.path, damaged)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        private_file(self.path)
        self.notices.append(f"the index was damaged and is built again; the old file is {damaged.name} beside it")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Releasing:
    def __init__(self, lock: ProcessLock) -> None:
        self.close = lock.release


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
