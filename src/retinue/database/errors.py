"""SQLite's and the system's error names, in Retinue's words."""

from __future__ import annotations

import errno
import sqlite3

from retinue.errors import (
    DatabaseBusy,
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseReadOnly,
)

_NO_SPACE = "no space is left for the database {path}"
_NO_GROWTH = "the disk under the database {path} does not take the write"
_DAMAGED = "the database {path} is damaged"
_LOCKED = "the database {path} is locked by another process"

_CHECK = "`retinue doctor` looks at the file and the disk under it."

_BY_NAME: tuple[tuple[str, type[DatabaseError], str], ...] = (
    ("SQLITE_FULL", DatabaseFull, _NO_SPACE),
    ("SQLITE_READONLY", DatabaseReadOnly, "the database {path} cannot be written"),
    ("SQLITE_CANTOPEN", DatabaseReadOnly, "the database {path} cannot be opened"),
    ("SQLITE_PERM", DatabaseReadOnly, "the database {path} may not be accessed"),
    ("SQLITE_CORRUPT", DatabaseCorrupt, _DAMAGED),
    ("SQLITE_NOTADB", DatabaseCorrupt, "{path} is not a database, or is damaged"),
    ("SQLITE_IOERR_SHORT_READ", DatabaseCorrupt, _DAMAGED),
    ("SQLITE_IOERR_CORRUPTFS", DatabaseCorrupt, _DAMAGED),
    ("SQLITE_IOERR_DATA", DatabaseCorrupt, _DAMAGED),
    ("SQLITE_BUSY", DatabaseBusy, _LOCKED),
    ("SQLITE_LOCKED", DatabaseBusy, _LOCKED),
    # A quota or a file size limit shows as a failed write, and so does a disk that dies.
    ("SQLITE_IOERR_WRITE", DatabaseFull, _NO_GROWTH),
    ("SQLITE_IOERR_FSYNC", DatabaseFull, _NO_GROWTH),
    ("SQLITE_IOERR_DIR_FSYNC", DatabaseFull, _NO_GROWTH),
    ("SQLITE_IOERR_TRUNCATE", DatabaseFull, _NO_GROWTH),
    ("SQLITE_IOERR_SHMSIZE", DatabaseFull, _NO_GROWTH),
    ("SQLITE_IOERR", DatabaseError, "the disk under the database {path} failed"),
)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


def translate(error: sqlite3.Error, path: str) -> DatabaseError:
    """The typed error for what SQLite said. Its own text is left out of the message: it can hold SQL."""
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, kind, text in _BY_NAME:
        if name.startswith(prefix):
            return kind(text.format(path=path), hint=_CHECK if kind is DatabaseError else None, sqlite=name)
    return DatabaseError(f"the database {path} failed: {name or type(error).__name__}", hint=_CHECK, sqlite=name)


def from_os(error: OSError, path: str) -> DatabaseError:
    """The typed error for a file or folder that the system refuses."""
    why = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return DatabaseFull(f"the database {path} cannot be created: {why}")
    if error.errno in _READ_ONLY:
        return DatabaseReadOnly(f"the database {path} cannot be created or opened: {why}")
    return DatabaseError(f"the database {path} cannot be opened: {why}", hint="Choose another file with --database.")
