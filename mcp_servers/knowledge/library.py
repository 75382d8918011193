"""A document library: folders in, passages with their places out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import anyio
from anyio import to_thread

from retinue.errors import DatabaseCorrupt, ExternalError, InvalidInput

from . import reading
from .embed import BATCH, Embedder, embedded
from .index import Index
from .models import DocumentInfo, Found, Hit, IndexReport, Passage, Progress, Skipped
from .scan import Entry, Limits, Root, roots_of, scan
from .search import CANDIDATES, Vectors, fuse, lexical, pack, understand
from .snapshot import Snapshot
from .store import FORMAT, IndexDamaged, Store

T = TypeVar("T")

OnProgress = Callable[[Progress], None]
AsyncOnProgress = Callable[[Progress], Awaitable[None]]

MAX_HITS = 50
EMBEDDER_REST = 30.0
"""Seconds without a request to an embedder that has just failed."""

MAX_QUERY = 10_000
"""Characters of a query that are looked at."""


def default_index(folders: Sequence[Path | str]) -> Path:
    """A file in the user's cache folder that belongs to these folders and to this version of the index."""
    import platformdirs

    identity = json.dumps([FORMAT, *((str(root.path), root.prefix) for root in roots_of(folders))])
    name = hashlib.sha256(identity.encode()).hexdigest()[:20]
    return platformdirs.user_cache_path("retinue") / "knowledge" / f"{name}.db"


class Library:
    """Documents in folders, searchable. Made by `open`; close it, or use ``async with``.

    The first call that needs the index builds it. Later ones look at the folders again when the last look is more than
    ``refresh_after`` seconds old; files whose size and time have not changed are not opened then.
    """

    def __init__(
        self,
        store: Store,
        roots: Sequence[Root],
        *,
        embedder: Embedder | None,
        on_progress: OnProgress | None,
        refresh_after: float | None,
        limits: Limits,
    ) -> None:
        self._store = store
        self._index = Index(store)
        self._roots = roots
        self._embedder = embedder
        self._on_progress = on_progress
        self._refresh_after = refresh_after
        self._limits = limits
        self._refreshing = anyio.Lock()
        self._looked: float | None = None
        self._report = IndexReport()
        self._failure = ""
        self._rests_until = 0.0
        self._vectors: tuple[tuple[int, int], Vectors] | None = None

    @classmethod
    async def open(
        cls,
        roots: Sequence[Path | str],
        *,
        index: Path | None = None,
        embedder: Embedder | None = None,
        on_progress: OnProgress | None = None,
        refresh_after: float | None = 5.0,
        limits: Limits | None = None,
    ) -> Self:
        """Open the library in these folders. Reads no document yet.

        ``index``: the file to keep the index in (`default_index` names one); None keeps it in memory.
        ``refresh_after``: seconds; None looks for changes only when `refresh` is called.

        Raises `ConfigError` for a folder that is missing or an index that belongs to something else.
        """

        def work() -> tuple[list[Root], Store]:
            found = roots_of(roots)
            return found, Store(index, found)

        found, store = await to_thread.run_sync(work)
        return cls(
            store,
            found,
            embedder=embedder,
            on_progress=on_progress,
            refresh_after=refresh_after,
            limits=limits or Limits(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Release the index file. Waits for the step that is being done."""
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._store.close)

    @property
    def report(self) -> IndexReport:
        """What the last refresh did."""
        return self._report

    async def refresh(self, *, on_progress: AsyncOnProgress | None = None) -> IndexReport:
        """Bring the index up to date with the folders. What is done stays done if this is cancelled."""
        async with self._refreshing:
            return await self._refresh_twice(on_progress)

    async def ready(self, *, on_progress: AsyncOnProgress | None = None) -> None:
        """Refresh if this has not been done for a while. Callers at the same time wait for one refresh."""
        if self._is_fresh():
            return
        async with self._refreshing:
            if not self._is_fresh():
                await self._refresh_twice(on_progress)

    async def search(self, query: str, *, limit: int = 8) -> list[Hit]:
        """The passages that fit a query best, best first; ``limit`` is brought between 1 and 50."""
        return (await self.find(query, limit=limit)).hits

    async def find(self, query: str, *, limit: int = 8, on_progress: AsyncOnProgress | None = None) -> Found:
        """`search`, with a word on how it was searched. Fails over to words alone when the embedder fails."""
        query = query[:MAX_QUERY]
        await self.ready(on_progress=on_progress)
        notices: list[str] = []
        vector: Sequence[float] | None = None
        if self._embedder is not None and query.strip():
            try:
                if not self._resting():
                    (vector,) = await embedded(self._embedder, [query], kind="query")
            except ExternalError as error:
                self._rest(error)
            if vector is None:
                notices.append(f"searched by words alone: {self._failure}")
        hits = await self._ask(lambda snapshot: self._search(snapshot, query, vector, max(1, min(limit, MAX_HITS))))
        return Found(hits=hits, retrieval="lexical" if vector is None else "hybrid", notices=notices)

    async def read(self, document: str, *, start: int = 0, end: int | None = None) -> Passage:
        """A document's text, or the part from ``start`` to ``end``; both are brought into its bounds.

        The text is the one that was indexed, so the offsets of hits hold on it. An unknown id raises `InvalidInput`.
        """
        await self.ready()
        # A lone surrogate can be in no id, and SQLite does not take it.
        name = document.encode(errors="replace").decode()
        passage = await self._ask(lambda snapshot: snapshot.passage(name, start, end))
        if passage is None:
            raise InvalidInput(
                f"there is no document {document[:200]!r} in the library",
                hint="list_documents gives the ids of all; search gives them with each hit.",
            )
        return passage

    async def list_documents(self) -> list[DocumentInfo]:
        """All documents, ordered by id."""
        await self.ready()
        return await self._ask(Snapshot.documents)

    def _is_fresh(self) -> bool:
        if self._looked is None:
            return False
        return self._refresh_after is None or time.monotonic() - self._looked < self._refresh_after

    async def _ask(self, work: Callable[[Snapshot], T]) -> T:
        """Read from the index. Should it turn out to be damaged, it is built again first."""
        try:
            return await to_thread.run_sync(self._index.read, work)
        except IndexDamaged as damage:
            async with self._refreshing:
                await self._rebuild(damage, None)
        try:
            return await to_thread.run_sync(self._index.read, work)
        except IndexDamaged:
            raise DatabaseCorrupt(f"the index {self._store.name} is damaged again and again") from None

    async def _refresh_twice(self, on_progress: AsyncOnProgress | None) -> IndexReport:
        try:
            return await self._refresh(on_progress)
        except IndexDamaged as damage:
            return await self._rebuild(damage, on_progress)

    async def _rebuild(self, damage: IndexDamaged, on_progress: AsyncOnProgress | None) -> IndexReport:
        await to_thread.run_sync(self._store.rebuild, damage)
        try:
            return await self._refresh(on_progress)
        except IndexDamaged:
            raise DatabaseCorrupt(f"the index {self._store.name} is damaged again and again") from None

    async def _refresh(self, on_progress: AsyncOnProgress | None) -> IndexReport:
        async def tell(progress: Progress) -> None:
            if self._on_progress is not None:
                self._on_progress(progress)
            if on_progress is not None:
                await on_progress(progress)

        found = await to_thread.run_sync(scan, self._roots, self._limits)
        known = await to_thread.run_sync(self._index.read, Snapshot.known)
        tally = reading.Tally()
        to_read: list[Entry] = []
        for entry in found.entries:
            before = known.get(entry.document)
            if before is None or not reading.looks_unchanged(entry, before):
                to_read.append(entry)
            elif before.skipped:
                tally.skipped.append(before.skipped)
            else:
                tally.unchanged += 1
        gone = sorted(known.keys() - {entry.document for entry in found.entries})
        removed = await to_thread.run_sync(self._index.remove, gone) if gone else 0
        try:
            done = 0
            if to_read:
                await tell(Progress(phase="reading", done=0, total=len(to_read)))
            while done < len(to_read):
                rest = to_read[done:]
                done += await to_thread.run_sync(reading.read_slice, self._index, rest, known, self._limits, tally)
                last = to_read[done - 1].document
                await tell(Progress(phase="reading", done=done, total=len(to_read), document=last))
        finally:
            if any(entry.media_type == "application/pdf" for entry in to_read):
                from . import pdf

                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(pdf.close)
        notices = [*self._store.notices, *(await self._embed(tell))]
        self._looked = time.monotonic()
        self._report = IndexReport(
            added=tally.added,
            changed=tally.changed,
            removed=removed + tally.removed,
            unchanged=tally.unchanged,
            skipped=sorted((*found.skipped, *tally.skipped), key=_by_path),
            notices=notices,
        )
        return self._report

    async def _embed(self, tell: AsyncOnProgress) -> list[str]:
        """Give a vector to each passage that has none. A failure leaves the rest to the next refresh."""
        embedder = self._embedder
        if embedder is None:
            return []
        missing = await to_thread.run_sync(self._index.read, partial(Snapshot.without_vector, model=embedder.model))
        if missing and self._resting():
            return [f"{len(missing)} passages have no vector yet: {self._failure}"]
        for done in range(0, len(missing), BATCH):
            await tell(Progress(phase="embedding", done=done, total=len(missing)))
            batch = await to_thread.run_sync(
                self._index.read, partial(Snapshot.to_embed, passages=missing[done : done + BATCH])
            )
            try:
                vectors = await embedded(embedder, [text for _, text in batch], kind="document")
            except ExternalError as error:
                self._rest(error)
                return [f"{len(missing) - done} passages have no vector yet: {error.message}"]
            packed = [(passage, pack(vector)) for (passage, _), vector in zip(batch, vectors, strict=True)]
            await to_thread.run_sync(self._index.put_vectors, embedder.model, packed)
        if missing:
            await tell(Progress(phase="embedding", done=len(missing), total=len(missing)))
        return []

    def _rest(self, error: ExternalError) -> None:
        """Leave the embedder alone for a while: a service that is down must not slow every search."""
        self._failure = error.message
        self._rests_until = time.monotonic() + EMBEDDER_REST

    def _resting(self) -> bool:
        return time.monotonic() < self._rests_until

    def _search(self, snapshot: Snapshot, text: str, vector: Sequence[float] | None, limit: int) -> list[Hit]:
        query = understand(snapshot, text)
        ranking = lexical(snapshot, query)
        if vector is not None and self._embedder is not None:
            near = self._loaded(snapshot, self._embedder.model).nearest(vector, CANDIDATES)
            ranking = fuse([[passage for passage, _ in ranking], near])
        hits: list[Hit] = []
        for passage, score in ranking[:limit]:
            if row := snapshot.row(passage):
                coverage = query.coverage(snapshot.terms_of(passage))
                hits.append(
                    Hit(
                        document=row.document,
                        title=row.title,
                        heading=row.heading,
                        start=row.start,
                        end=row.end,
                        text=row.text,
                        score=float(f"{score:.6g}"),
                        coverage=round(coverage, 3),
                    )
                )
        return hits

    def _loaded(self, snapshot: Snapshot, model: str) -> Vectors:
        state = snapshot.state()
        if self._vectors is None or self._vectors[0] != state:
            self._vectors = (state, Vectors(snapshot.vectors(model)))
        return self._vectors[1]


def _by_path(skipped: Skipped) -> tuple[str, str]:
    return skipped.path, skipped.reason
