"""Questions to the index: one consistent state of it, read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from .language import OTHER_LANGUAGES, Language
from .models import DocumentInfo, Passage, Skipped

TITLE_WEIGHT, HEADING_WEIGHT, BODY_WEIGHT = 2.0, 2.0, 1.0


@dataclass(frozen=True, slots=True)
class Known:
    """What the index remembers of a file."""

    size: int
    mtime_ns: int
    read_ns: int
    sha256: str
    skipped: Skipped | None


@dataclass(frozen=True, slots=True)
class Row:
    """A stored passage."""

    id: int
    document: str
    title: str
    heading: str
    start: int
    end: int
    text: str


class Snapshot:
    """Questions to one consistent state of the index, inside `Index.read`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def state(self) -> tuple[int, int]:
        """Changes when this or another process has written."""
        return self._connection.execute("PRAGMA data_version").fetchone()[0], self._connection.total_changes

    def known(self) -> dict[str, Known]:
        """Every file in the index by its id, skipped ones too."""
        sql = "SELECT document, size, mtime_ns, read_ns, sha256, reason, detail FROM files"
        return {
            row[0]: Known(*row[1:5], skipped=Skipped(path=row[0], reason=row[5], detail=row[6]) if row[5] else None)
            for row in self._connection.execute(sql)
        }

    def documents(self) -> list[DocumentInfo]:
        sql = (
            "SELECT document, title, media_type, length, sha256 FROM files"
            " WHERE reason IS NULL ORDER BY document COLLATE BINARY"
        )
        return [
            DocumentInfo(document=row[0], title=row[1], media_type=row[2], length=row[3], sha256=row[4])
            for row in self._connection.execute(sql)
        ]

    def passage(self, document: str, start: int, end: int | None) -> Passage | None:
        """The text of a document from ``start`` to ``end``, both brought into its bounds; None if it is not there."""
        sql = "SELECT id, title, length FROM files WHERE document = ? AND reason IS NULL"
        row = self._connection.execute(sql, (document,)).fetchone()
        if row is None:
            return None
        file, title, length = row
        past = length if end is None else max(0, min(end, length))
        start = max(0, min(start, past))
        sql = (
            "SELECT first, text FROM passages WHERE file = ?1 AND first < ?3 AND first >= coalesce("
            " (SELECT max(first) FROM passages WHERE file = ?1 AND first <= ?2), 0) ORDER BY first"
        )
        rows = self._connection.execute(sql, (file, start, past)).fetchall()
        first = rows[0][0] if rows else 0
        text = "".join(row[1] for row in rows)[start - first : past - first]
        return Passage(document=document, title=title, text=text, start=start, end=past, length=length)

    def size(self) -> int:
        """How many passages there are."""
        return self._connection.execute("SELECT count(*) FROM passages").fetchone()[0]

    def languages(self) -> list[Language]:
        """Those of the documents, without English."""
        rows = self._connection.execute("SELECT DISTINCT language FROM files WHERE language IS NOT NULL").fetchall()
        found = {row[0] for row in rows}
        return [language for language in OTHER_LANGUAGES if language in found]

    def frequency(self, form: str) -> int:
        """In how many passages a term stands. ``form`` may end with ``*``."""
        if form.endswith("*"):
            sql = "SELECT coalesce(sum(doc), 0) FROM vocabulary WHERE term >= ? AND term < ?"
            return self._connection.execute(sql, (form[:-1], form[:-1] + "\U0010ffff")).fetchone()[0]
        row = self._connection.execute("SELECT doc FROM vocabulary WHERE term = ?", (form,)).fetchone()
        return row[0] if row else 0

    def compounds(self, part: str, limit: int) -> list[str]:
        """Longer terms that begin or end with ``part``, the shortest first."""
        sql = (
            "SELECT term FROM vocabulary"
            " WHERE length(term) > ?2 AND (substr(term, 1, ?2) = ?1 OR substr(term, -?2) = ?1)"
            " ORDER BY length(term), term LIMIT ?3"
        )
        return [row[0] for row in self._connection.execute(sql, (part, len(part), limit))]

    def match(self, expression: str, limit: int) -> list[tuple[int, float]]:
        """Ids of the passages that FTS5 finds, and their BM25 (higher is better), best first."""
        sql = (
            "SELECT rowid, -bm25(terms, ?, ?, ?) AS score FROM terms"
            " WHERE terms MATCH ? ORDER BY score DESC, rowid LIMIT ?"
        )
        weights = (TITLE_WEIGHT, HEADING_WEIGHT, BODY_WEIGHT)
        return self._connection.execute(sql, (*weights, expression, limit)).fetchall()

    def row(self, passage: int) -> Row | None:
        sql = (
            'SELECT p.id, f.document, f.title, p.heading, p.start, p."end", p.text, p.first'
            " FROM passages p JOIN files f ON f.id = p.file WHERE p.id = ?"
        )
        row = self._connection.execute(sql, (passage,)).fetchone()
        if row is None:
            return None
        *values, text, first = row
        return Row(*values, text=text[values[4] - first : values[5] - first])

    def terms_of(self, passage: int) -> set[str]:
        """All that a passage is found by: the terms of its title, headings and body."""
        sql = "SELECT title || ' ' || heading || ' ' || body FROM terms WHERE rowid = ?"
        row = self._connection.execute(sql, (passage,)).fetchone()
        return set(row[0].split()) if row else set()

    def vectors(self, model: str) -> list[tuple[int, bytes]]:
        return self._connection.execute("SELECT passage, vector FROM vectors WHERE model = ?", (model,)).fetchall()

    def to_embed(self, passages: Sequence[int]) -> list[tuple[int, str]]:
        """What a passage's vector is made of: its title and headings say what its text is about."""
        rows = [row for row in map(self.row, passages) if row is not None]
        return [(row.id, "\n".join(filter(None, (row.title, row.heading, row.text)))) for row in rows]

    def without_vector(self, model: str) -> list[int]:
        sql = "SELECT id FROM passages WHERE id NOT IN (SELECT passage FROM vectors WHERE model = ?) ORDER BY id"
        return [row[0] for row in self._connection.execute(sql, (model,))]
