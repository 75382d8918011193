"""Changes to the index, in whole steps: files, their passages, the terms of these, and vectors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .analysis import index_terms
from .chunks import Chunk
from .documents import Document
from .language import Language
from .models import Skipped
from .scan import Entry
from .snapshot import Snapshot
from .store import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a file: a document and its passages, or the reason why there is none."""

    entry: Entry
    read_ns: int
    sha256: str
    document: Document | None = None
    chunks: Sequence[Chunk] = ()
    language: Language | None = None
    skipped: Skipped | None = None


class Index:
    """Reads and writes in whole steps. Thread-safe; every method may raise `IndexDamaged` and `DatabaseError`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, work: Callable[[Snapshot], T]) -> T:
        return self._store.read(lambda connection: work(Snapshot(connection)))

    def put(self, reading: Reading) -> bool:
        """Store what was read in place of what was there; False if another process has stored the same already."""
        return self._store.write(lambda connection: _put(connection, reading))

    def touch(self, readings: Sequence[Reading]) -> None:
        """Remember that files were looked at and are what they were."""
        sql = "UPDATE files SET size = ?, mtime_ns = ?, read_ns = ? WHERE document = ?"
        rows = [(r.entry.size, r.entry.mtime_ns, r.read_ns, r.entry.document) for r in readings]
        self._store.write(lambda connection: connection.executemany(sql, rows))

    def remove(self, documents: Sequence[str]) -> int:
        """Forget files; return how many were documents."""

        def work(connection: sqlite3.Connection) -> int:
            return sum(_remove(connection, document) for document in documents)

        return self._store.write(work)

    def put_vectors(self, model: str, vectors: Sequence[tuple[int, bytes]]) -> None:
        # Only for passages that are still there: the document may have changed while its text was being embedded.
        sql = "INSERT OR REPLACE INTO vectors (passage, model, vector) SELECT id, ?, ? FROM passages WHERE id = ?"
        rows = [(model, vector, passage) for passage, vector in vectors]
        self._store.write(lambda connection: connection.executemany(sql, rows))


def _put(connection: sqlite3.Connection, reading: Reading) -> bool:
    entry, document, skipped = reading.entry, reading.document, reading.skipped
    sql = "SELECT sha256, reason FROM files WHERE document = ?"
    same = connection.execute(sql, (entry.document,)).fetchone() == (
        reading.sha256,
        skipped.reason if skipped else None,
    )
    if same and not skipped:
        return False
    vectors = _vectors_by_text(connection, entry.document)
    _remove(connection, entry.document)
    sql = (
        "INSERT INTO files (document, size, mtime_ns, read_ns, sha256, title, media_type, length, language, reason,"
        " detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    about = (document.title, document.media_type, len(document.text)) if document else (None, None, None)
    why = (skipped.reason, skipped.detail) if skipped else (None, None)
    identity = (entry.document, entry.size, entry.mtime_ns, reading.read_ns, reading.sha256)
    file = connection.execute(sql, (*identity, *about, reading.language, *why)).lastrowid
    if document is None:
        return not same
    title = index_terms(f"{document.title} {_words_of(entry.document)}", reading.language)
    chunks = reading.chunks
    for i, chunk in enumerate(chunks):
        first = chunk.start if i else 0
        past = chunks[i + 1].start if i + 1 < len(chunks) else len(document.text)
        sql = 'INSERT INTO passages (file, first, start, "end", heading, text) VALUES (?, ?, ?, ?, ?, ?)'
        values = (file, first, chunk.start, chunk.end, chunk.heading, document.text[first:past])
        passage = connection.execute(sql, values).lastrowid
        text = document.text[chunk.start : chunk.end]
        heading, body = index_terms(chunk.heading, reading.language), index_terms(text, reading.language)
        sql = "INSERT INTO terms (rowid, title, heading, body) VALUES (?, ?, ?, ?)"
        connection.execute(sql, (passage, title, heading, body))
        sql = "INSERT INTO vectors (passage, model, vector) VALUES (?, ?, ?)"
        connection.executemany(sql, [(passage, *vector) for vector in vectors.get((chunk.heading, text), ())])
    return True


def _remove(connection: sqlite3.Connection, document: str) -> bool:
    row = connection.execute("SELECT id, reason FROM files WHERE document = ?", (document,)).fetchone()
    if row is None:
        return False
    ids = connection.execute("SELECT id FROM passages WHERE file = ?", (row[0],)).fetchall()
    connection.executemany("DELETE FROM terms WHERE rowid = ?", ids)
    connection.executemany("DELETE FROM vectors WHERE passage = ?", ids)
    connection.execute("DELETE FROM passages WHERE file = ?", (row[0],))
    connection.execute("DELETE FROM files WHERE id = ?", (row[0],))
    return row[1] is None


def _vectors_by_text(connection: sqlite3.Connection, document: str) -> dict[tuple[str, str], list[tuple[str, bytes]]]:
    """The vectors of a document's passages, so that those that come again after a change are not paid for twice."""
    sql = (
        'SELECT p.heading, p.text, p.start - p.first, p."end" - p.first, v.model, v.vector'
        " FROM files f JOIN passages p ON p.file = f.id JOIN vectors v ON v.passage = p.id WHERE f.document = ?"
    )
    found: dict[tuple[str, str], list[tuple[str, bytes]]] = {}
    for heading, text, start, end, model, vector in connection.execute(sql, (document,)):
        found.setdefault((heading, text[start:end]), []).append((model, vector))
    return found


def _words_of(document: str) -> str:
    """The path as words: it often says what a document is about."""
    return document.rpartition(".")[0].replace("/", " ") or document
