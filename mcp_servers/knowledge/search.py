"""Queries to passages: BM25 over terms, and where there are vectors, fused with the nearest of these.

A query is any text. Its words become terms of letters and digits alone, so none of it is read as FTS5 syntax.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .analysis import query_terms
from .snapshot import Snapshot

CANDIDATES = 50
"""How many passages each way of searching proposes."""

_RRF_K = 60  # Cormack, Clarke and Büttcher, SIGIR 2009
_SHORTEST_PART = 5  # of a compound, in letters: shorter ones begin and end too many words
_COMPOUNDS = 12
_COMPOUNDING = frozenset({"german", "dutch"})
_LINKS = ("", "s", "es", "n", "en", "er")  # what German and Dutch put between the parts of a compound


@dataclass(slots=True)
class WeightedTerm:
    """A word of the query, the terms that stand for it in this library, and how telling it is (inverse frequency)."""

    forms: tuple[str, ...]
    weight: float
    share: float = 1.0
    """What finding it counts: less where only a part of a compound was found."""


@dataclass(slots=True)
class Query:
    """A query as this library understands it."""

    terms: list[WeightedTerm] = field(default_factory=list[WeightedTerm])

    @property
    def expression(self) -> str:
        """FTS5: any of the terms. Empty if the query has none."""
        forms = dict.fromkeys(form for term in self.terms for form in term.forms)
        return " OR ".join(f'"{form[:-1]}" *' if form.endswith("*") else f'"{form}"' for form in forms)

    def coverage(self, found: set[str]) -> float:
        """The share of the query's weight that is among ``found``, 0 to 1."""
        total = sum(term.weight for term in self.terms)
        if not total:
            return 0.0
        return sum(term.weight * term.share for term in self.terms if _has(found, term.forms)) / total


def understand(snapshot: Snapshot, query: str) -> Query:
    """Look up a query's words. One that the library does not have is looked for in compounds, or as one."""
    size, languages = snapshot.size(), snapshot.languages()
    result = Query()
    for term in query_terms(query, languages):
        frequency = max(map(snapshot.frequency, term.forms), default=0)
        forms, share = term.forms, 1.0
        if not frequency and _COMPOUNDING.intersection(languages):
            forms, share = _compounds(snapshot, term.forms) or forms, 0.5
        result.terms.append(WeightedTerm(forms, _idf(size, frequency), share))
    return result


def lexical(snapshot: Snapshot, query: Query) -> list[tuple[int, float]]:
    """The best passages by BM25, those first that have more of the query's different words. Best first."""
    if not query.expression:
        return []
    scored = [
        (passage, score * (0.5 + 0.5 * query.coverage(snapshot.terms_of(passage))))
        for passage, score in snapshot.match(query.expression, CANDIDATES)
    ]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))


def fuse(rankings: Iterable[Sequence[int]]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: each ranking gives ``1 / (60 + rank)``. Best first."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, passage in enumerate(ranking, 1):
            scores[passage] = scores.get(passage, 0.0) + 1 / (_RRF_K + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


class Vectors:
    """All vectors of one model in memory, searched exactly: 6 µs each at 384 dimensions, so 60 ms for 10,000."""

    def __init__(self, vectors: Iterable[tuple[int, bytes]]) -> None:
        self._vectors: list[tuple[int, array[float]]] = []
        for passage, data in vectors:
            self._vectors.append((passage, _unpack(data)))

    def nearest(self, vector: Sequence[float], limit: int) -> list[int]:
        """Passages by their distance, nearest first. For vectors of length 1 this is the order of the cosine too."""
        query = _unpack(pack(vector))
        distances = [(math.dist(query, other), passage) for passage, other in self._vectors if len(other) == len(query)]
        return [passage for _, passage in sorted(distances)[:limit]]


def pack(vector: Sequence[float]) -> bytes:
    """A vector brought to length 1, as little-endian float32."""
    length = math.sqrt(math.fsum(x * x for x in vector)) or 1.0
    values = array("f", [x / length for x in vector])
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _unpack(data: bytes) -> array[float]:
    values = array("f")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _idf(size: int, frequency: int) -> float:
    return math.log(1 + (size - frequency + 0.5) / (frequency + 0.5))


def _has(found: set[str], forms: Sequence[str]) -> bool:
    return any(
        any(term.startswith(form[:-1]) for term in found) if form.endswith("*") else form in found for form in forms
    )


def _compounds(snapshot: Snapshot, forms: Sequence[str]) -> tuple[str, ...]:
    """Terms of the library that hold an unknown word (``Frist``: ``Kündigungsfrist``), or that it is made of."""
    found: dict[str, None] = {}
    for form in forms:
        if len(form) >= _SHORTEST_PART and form.isalpha():
            found.update(dict.fromkeys(snapshot.compounds(form, _COMPOUNDS)))
    if not found:
        for form in forms:
            found.update(dict.fromkeys(_parts(snapshot, form)))
    return tuple(found)


def _parts(snapshot: Snapshot, form: str) -> tuple[str, ...]:
    """Two known terms that make up ``form``, the longer first part preferred."""
    if not form.isalpha():
        return ()
    for cut in range(len(form) - _SHORTEST_PART + 1, _SHORTEST_PART - 2, -1):
        second = form[cut:]
        if not snapshot.frequency(second):
            continue
        for link in _LINKS:
            first = form[:cut].removesuffix(link)
            if form[:cut].endswith(link) and len(first) >= _SHORTEST_PART - 1 and snapshot.frequency(first):
                return first, second
    return ()
