"""Text documents under one folder: written whole, once a key, by one process at a time.

**A write with a key happens once, also when the process is killed in between.** Under the workspace's lock:

1. the text goes to a *draft*, a hidden file beside its target whose name is made from the key;
2. a *row* with the call's fingerprint and its result goes to ``.retinue/written/``;
3. the draft is renamed onto the target.

Each step is on the disk before the next begins. The rename consumes the draft, so when a row is there, its draft tells
exactly whether the write happened: draft gone, it did; draft there, it did not, and the retry renames it now. Killed
before the row, nothing counts and the retry begins anew. No step after the rename exists that could be missed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from retinue.errors import InvalidInput, ToolFailed
from retinue.system import ProcessLock

from . import names
from .tree import Folder, Tree, tree_at

OWN_FOLDER: Final = ".retinue"
MAX_BYTES: Final = 1_048_576
MAX_READ_BYTES: Final = 8 * MAX_BYTES
LOCK_TIMEOUT: Final = 20.0
"""Seconds to wait for other writers; each holds the lock for a few flushes of the disk."""


class Written(BaseModel):
    """What a write did."""

    path: str
    bytes: int
    sha256: str
    replaced: bool
    """Whether there was a document at this path before."""


class Document(BaseModel):
    """A part of a document: ``text`` is its characters from ``offset`` on."""

    path: str
    text: str
    offset: int
    next_offset: int | None
    """Where the next part begins; null when this was the last."""
    characters: int
    """Of the whole document."""
    sha256: str


class Listed(BaseModel):
    path: str
    bytes: int


class Listing(BaseModel):
    documents: list[Listed]
    truncated: bool


class _Row(BaseModel):
    fingerprint: str
    written: Written


class Documents:
    """``root`` is made if it is missing. Links below it are never followed; the root itself may be one."""

    def __init__(self, root: Path, *, max_bytes: int = MAX_BYTES, tree: Tree | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve(strict=True)
        self.max_bytes = max_bytes
        self._tree = tree or tree_at(self.root)

    def write(self, path: str, text: str, *, key: str | None = None) -> Written:
        """Create or replace a document. The same key with the same arguments returns the first result and writes
        nothing; with others it raises `InvalidInput`."""
        *folders, name = names.parse(path)
        data = self._encoded(text)
        digest = hashlib.sha256(data).hexdigest()
        fingerprint = hashlib.sha256(json.dumps([path, digest]).encode()).hexdigest()
        with _disk_errors(path), self._lock(), contextlib.ExitStack() as stack:
            if key is not None and (row := self._row(key)):
                if row.fingerprint != fingerprint:
                    raise InvalidInput(
                        "this idempotency key was used before, for another path or text",
                        hint="A key stands for one call: make a new one.",
                    )
                self._finish(row, key)
                return row.written
            folder = self._folder_for(tuple(folders), name, stack)
            before = folder.entry(name)
            if before is not None and before.kind != "file":
                raise InvalidInput(f"{path!a} is not a document, and links are not followed")
            written = Written(path=path, bytes=len(data), sha256=digest, replaced=before is not None)
            draft = _draft_of(key)
            folder.remove(draft)
            folder.create(draft, data)
            if key is not None:
                self._keep(key, _Row(fingerprint=fingerprint, written=written))
            folder.rename(draft, name)
            return written

    def read(self, path: str, *, offset: int = 0, limit: int) -> Document:
        *folders, name = names.parse(path)
        with _disk_errors(path), self._tree.open(tuple(folders)) as folder:
            data = folder.read(name, limit=MAX_READ_BYTES)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{path!a} is not UTF-8 text") from error
        end = min(offset + limit, len(text))
        return Document(
            path=path,
            text=text[offset:end],
            offset=offset,
            next_offset=end if end < len(text) else None,
            characters=len(text),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def list(self, folder: str = "", *, limit: int) -> Listing:
        """The documents below a folder, in the order of their paths. Hidden files and links are left out."""
        start = names.parse(folder, what="folder") if folder else ()
        found: list[Listed] = []
        with _disk_errors(folder), self._tree.open(start) as opened:
            for document in _below(opened, start):
                if len(found) == limit:
                    return Listing(documents=found, truncated=True)
                found.append(document)
        return Listing(documents=found, truncated=False)

    def _encoded(self, text: str) -> bytes:
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInput("the text has half of a surrogate pair, which UTF-8 cannot hold") from error
        if len(data) > self.max_bytes:
            raise InvalidInput(f"the text has {len(data)} bytes; a document may have {self.max_bytes}")
        return data

    def _folder_for(self, folders: names.Parts, name: str, stack: contextlib.ExitStack) -> Folder:
        """The folder of a document, made on the way. Refuses a name that some systems take for one that is there."""
        folder = stack.enter_context(self._tree.open(()))
        for part in folders:
            _refuse_lookalike(folder, part)
            folder = stack.enter_context(folder.open(part, create=True))
        _refuse_lookalike(folder, name)
        return folder

    @contextlib.contextmanager
    def _lock(self) -> Generator[None]:
        with self._tree.open((OWN_FOLDER, "written"), create=True):  # refuses links in its place
            lock = ProcessLock(self.root / OWN_FOLDER / "lock")
        try:
            lock.acquire(timeout=LOCK_TIMEOUT)
        except BlockingIOError as error:
            raise ToolFailed("the workspace is busy: another program has been writing to it for long") from error
        try:
            yield
        finally:
            lock.release()

    def _row(self, key: str) -> _Row | None:
        with self._tree.open((OWN_FOLDER, "written")) as folder:
            try:
                return _Row.model_validate_json(folder.read(_row_of(key), limit=100_000))
            except FileNotFoundError:
                return None
            except ValidationError as error:
                raise ToolFailed("the workspace's record of this call is damaged, so it is not repeated") from error

    def _keep(self, key: str, row: _Row) -> None:
        with self._tree.open((OWN_FOLDER, "written")) as folder:
            draft = _draft_of(key)
            folder.remove(draft)
            folder.create(draft, row.model_dump_json().encode())
            folder.rename(draft, _row_of(key))

    def _finish(self, row: _Row, key: str) -> None:
        """The rename that a killed process did not come to, if its draft is still there."""
        *folders, name = names.parse(row.written.path)
        with contextlib.suppress(FileNotFoundError), self._tree.open(tuple(folders)) as folder:
            if folder.entry(_draft_of(key)) is not None:
                folder.rename(_draft_of(key), name)


def _draft_of(key: str | None) -> str:
    """Without a key a draft that is found is nobody's, since its writer would hold the lock."""
    return f".retinue-{_digest(key)}.draft" if key is not None else ".retinue.draft"


def _row_of(key: str) -> str:
    return f"{_digest(key)}.json"


def _digest(key: str) -> str:
    """Keys are other people's text; a file name is made of their hash.

    A key stands alone, without the caller's identity: it is unique by itself, and a run that is resumed in another
    process comes with another issuer's token and must find its row.
    """
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def _refuse_lookalike(folder: Folder, name: str) -> None:
    present = folder.names()
    if name in present:
        return
    wanted = names.alike(name)
    if twin := next((other for other in present if names.alike(other) == wanted), None):
        raise InvalidInput(
            f"{name!a} differs from the existing {twin!a} only in letter case or Unicode form",
            hint="Use the existing name, or one that is clearly different.",
        )


def _below(folder: Folder, at: names.Parts) -> Generator[Listed]:
    if len(at) >= names.MAX_DEPTH:
        return
    for name in sorted(folder.names()):
        entry = folder.entry(name) if names.valid(name) else None
        if entry is None:
            continue
        if entry.kind == "file":
            yield Listed(path="/".join((*at, name)), bytes=entry.size)
        elif entry.kind == "folder":
            with folder.open(name, create=False) as inner:
                yield from _below(inner, (*at, name))


@contextlib.contextmanager
def _disk_errors(path: str) -> Generator[None]:
    """What the operating system says, without the absolute paths that it says it with."""
    try:
        yield
    except FileNotFoundError as error:
        raise InvalidInput(
            f"there is no {path!a} in the workspace", hint="`list_documents` names what is there."
        ) from error
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                text = "the disk is full; nothing was written"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                text = f"{path!a} cannot be written or read: permission denied"
            case _:
                text = f"the file system failed on {path!a} ({errno.errorcode.get(error.errno or 0, 'unknown')})"
        raise ToolFailed(text) from error
