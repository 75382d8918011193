"""SQLite's error names, in Retinue's words."""

from __future__ import annotations

import sqlite3

from retinue.errors import (
    DatabaseBusy,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
)

_BY_NAME: tuple[tuple[str, type[DatabaseError], str], ...] = (
    ("SQLITE_FULL", DatabaseFull, "no space is left for the database {path}"),
    ("SQLITE_READONLY", DatabaseReadOnly, "the database {path} cannot be written"),
    ("SQLITE_CANTOPEN", DatabaseReadOnly, "the database {path} cannot be opened"),
    ("SQLITE_PERM", DatabaseReadOnly, "the database {path} may not be accessed"),
    ("SQLITE_CORRUPT", DatabaseCorrupt, "the database {path} is damaged"),
    ("SQLITE_NOTADB", DatabaseCorrupt, "{path} is not a database"),
    ("SQLITE_BUSY", DatabaseBusy, "the database {path} is locked by another process"),
    ("SQLITE_LOCKED", DatabaseBusy, "the database {path} is locked by another process"),
    ("SQLITE_IOERR", DatabaseFull, "the disk under the database {path} does not take the write"),
)


def translate(error: sqlite3.Error, path: str) -> DatabaseError:
    """The typed error for what SQLite said. Its own text is left out: it can hold values."""
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, kind, text in _BY_NAME:
        if name.startswith(prefix):
            return kind(text.format(path=path), sqlite=name)
    return DatabaseError(f"the database {path} failed: {name or type(error).__name__}", sqlite=name)
