"""From a scanned file to what the index stores. Blocking: runs on a worker thread, in slices."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from .analysis import document_language
from .chunks import chunk
from .documents import UnreadableDocument, read_document
from .index import Index, Reading
from .models import Skipped, SkipReason
from .scan import Entry, Limits, read_bytes, why
from .snapshot import Known

SLICE = 0.2
"""Seconds of work between two looks at progress and cancellation. One file is never divided."""

_RACY_NS = 2_000_000_000
"""A file changed this shortly before it was read may have changed again within the same time stamp."""


@dataclass(slots=True)
class Tally:
    """What a refresh has found so far."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: list[Skipped] = field(default_factory=list[Skipped])


def looks_unchanged(entry: Entry, known: Known | None) -> bool:
    """By size and time alone, without opening the file."""
    return (
        known is not None
        and known.sha256 != ""
        and (known.size, known.mtime_ns) == (entry.size, entry.mtime_ns)
        and known.mtime_ns < known.read_ns - _RACY_NS
    )


def read_slice(index: Index, entries: Sequence[Entry], known: Mapping[str, Known], limits: Limits, tally: Tally) -> int:
    """Read and store the first of ``entries`` until `SLICE` is over; return how many."""
    deadline = time.monotonic() + SLICE
    touched: list[Reading] = []
    done = 0
    for entry in entries:
        before = known.get(entry.document)
        reading = read(entry, before, limits)
        done += 1
        if reading.skipped:
            tally.skipped.append(reading.skipped)
        if before is not None and before.sha256 == reading.sha256 != "":
            touched.append(reading)
            tally.unchanged += not before.skipped
        else:
            index.put(reading)
            was, is_ = before is not None and not before.skipped, reading.document is not None
            tally.added += is_ and not was  # also a file that could not be read before
            tally.changed += is_ and was
            tally.removed += was and not is_
        if time.monotonic() >= deadline:
            break
    if touched:
        index.touch(touched)
    return done


def read(entry: Entry, known: Known | None, limits: Limits) -> Reading:
    """Read one file. With the same bytes as before, neither text nor passages are made again."""
    now = time.time_ns()
    try:
        data = read_bytes(entry, limits.file_bytes)
    except OSError as error:
        reason: SkipReason = "too_large" if error.errno == errno.EFBIG else "unreadable"
        return Reading(entry, now, "", skipped=_skipped(entry, reason, why(error)))
    digest = hashlib.sha256(data).hexdigest()
    if known is not None and known.sha256 == digest:
        return Reading(entry, now, digest, skipped=known.skipped)
    try:
        document = read_document(data, PurePosixPath(entry.document), entry.media_type)
    except UnreadableDocument as error:
        return Reading(entry, now, digest, skipped=_skipped(entry, error.reason, error.detail))
    return Reading(
        entry,
        now,
        digest,
        document=document,
        chunks=chunk(document),
        language=document_language(document.text),
    )


def _skipped(entry: Entry, reason: SkipReason, detail: str) -> Skipped:
    return Skipped(path=entry.document, reason=reason, detail=detail)
