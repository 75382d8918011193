"""Which files a library is made of, by names and metadata; of unknown types also by their first bytes.

Left out in silence: hidden files and folders, and what tools generate (`IGNORED_FOLDERS`). Everything else that is
not in the library is listed with a reason. No file outside the roots is ever named or opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from retinue.errors import ConfigError

from .documents import MEDIA_TYPES, MediaType, media_type_of
from .models import Skipped, SkipReason

IGNORED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages"})
_SNIFF = 8192


@dataclass(frozen=True, slots=True)
class Limits:
    """What a library takes in. The rest is skipped and listed."""

    file_bytes: int = 20_000_000
    documents: int = 50_000
    depth: int = 64


@dataclass(frozen=True, slots=True)
class Root:
    """One folder of the library. ``prefix`` begins the ids of its documents: empty, or the folder's name and ``/``."""

    path: Path
    prefix: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to read. ``path`` is real: no part of it is a symlink."""

    document: str
    path: Path
    media_type: MediaType
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Scan:
    entries: list[Entry] = field(default_factory=list[Entry])
    skipped: list[Skipped] = field(default_factory=list[Skipped])


def roots_of(folders: Sequence[Path | str]) -> list[Root]:
    """Resolve the folders of a library. Raises `ConfigError` if one is missing, or lies inside another."""
    if not folders:
        raise ConfigError("a library needs at least one folder")
    paths = [_folder(Path(folder)) for folder in folders]
    for i, path in enumerate(paths):
        for other in paths[:i]:
            if path.is_relative_to(other) or other.is_relative_to(path):
                raise ConfigError(f"the library folders {other} and {path} overlap", hint="Name the outer one alone.")
    if len(paths) == 1:
        return [Root(paths[0], "")]
    roots: list[Root] = []
    for path in paths:
        name, number = path.name or "root", 1
        while any(root.prefix == f"{name}/" for root in roots):
            number += 1
            name = f"{path.name or 'root'}-{number}"
        roots.append(Root(path, f"{name}/"))
    return roots


def scan(roots: Sequence[Root], limits: Limits) -> Scan:
    """Walk all roots, in the order of names. Raises `ConfigError` if a root is gone: that is no empty library."""
    found = Scan()
    for root in roots:
        _folder(root.path)
        _Walk(root, limits, found).run()
    return found


def _folder(folder: Path) -> Path:
    hint = "Give the path of a folder that holds the documents."
    try:
        path = folder.expanduser().resolve(strict=True)
    except (OSError, RuntimeError):
        raise ConfigError(f"the library folder {folder} does not exist", hint=hint) from None
    if not path.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint=hint)
    return path


class _Walk:
    """Files and folders first; then symlinks, so that a link to something that is there anyway is not a second copy."""

    def __init__(self, root: Root, limits: Limits, found: Scan) -> None:
        self._root = root
        self._limits = limits
        self._found = found
        self._seen: set[str] = set()
        self._links: list[tuple[str, str]] = []  # path inside the root, real path of its folder
        self._full = False

    def run(self) -> None:
        self._walk("", str(self._root.path), 0)
        while self._links and not self._full:
            links, self._links = self._links, []
            for name, folder in links:
                self._follow(name, folder)

    def _walk(self, name: str, path: str, depth: int) -> None:
        """``name`` is the folder inside the root ("" for the root itself), ``path`` its real path."""
        self._seen.add(path)
        pending = [(name, path, depth)]
        while pending and not self._full:
            name, path, depth = pending.pop()
            try:
                with os.scandir(path) as entries:
                    children = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self._skip(name or ".", "unreadable", why(error))
                continue
            folders: list[tuple[str, str, int]] = []
            for child in children:
                if child.name.startswith(".") or self._full:
                    continue
                inner = f"{name}/{child.name}" if name else child.name
                if not _is_text(child.name):
                    self._skip(inner, "encoding", "its name is not UTF-8")
                elif child.is_symlink():
                    self._links.append((inner, path))
                elif child.is_dir(follow_symlinks=False):
                    if child.name in IGNORED_FOLDERS:
                        continue
                    if depth >= self._limits.depth:
                        self._skip(inner, "too_many", f"folders are nested deeper than {self._limits.depth}")
                    else:
                        self._seen.add(child.path)
                        folders.append((inner, child.path, depth + 1))
                else:
                    self._file(inner, child.path)
            pending.extend(reversed(folders))

    def _follow(self, name: str, folder: str) -> None:
        link = os.path.join(folder, name.rpartition("/")[2])
        root = str(self._root.path)
        try:
            target = os.path.realpath(link, strict=True)
        except OSError as error:
            loop = error.errno == errno.ELOOP
            self._skip(
                name, "symlink_loop" if loop else "symlink_broken", "it leads " + ("in a circle" if loop else "nowhere")
            )
            return
        if target != root and not target.startswith(root.rstrip(os.sep) + os.sep):
            self._skip(name, "symlink_outside", "it leads out of the library")
        elif os.path.isdir(target) and (folder + os.sep).startswith(target.rstrip(os.sep) + os.sep):
            self._skip(name, "symlink_loop", "it leads to a folder that it is in")
        elif target in self._seen:
            self._skip(name, "duplicate", f"it leads to {Path(target).relative_to(root).as_posix()}")
        elif os.path.isdir(target):
            self._walk(name, target, name.count("/") + 1)
        else:
            self._file(name, target)

    def _file(self, name: str, path: str) -> None:
        self._seen.add(path)
        try:
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                self._skip(name, "not_a_file", "it is a socket, a device or a pipe")
                return
            media_type = media_type_of(PurePosixPath(name))
            if media_type is None or "." not in PurePosixPath(name).name:
                binary = b"\0" in _head(path)
                if binary or media_type is None:
                    detail = "it is not text" if binary else f"known types: {' '.join(filter(None, MEDIA_TYPES))}"
                    self._skip(name, "binary" if binary else "unsupported", detail)
                    return
        except OSError as error:
            self._skip(name, "unreadable", why(error))
            return
        if status.st_size > self._limits.file_bytes:
            limit = f"{self._limits.file_bytes / 1e6:g} MB"
            self._skip(name, "too_large", f"it has {status.st_size / 1e6:.1f} MB; the limit is {limit}")
        elif len(self._found.entries) >= self._limits.documents:
            self._full = True
            self._skip(
                name,
                "too_many",
                f"the limit is {self._limits.documents} documents; this one and all after it are left out",
            )
        else:
            document = self._root.prefix + name
            self._found.entries.append(Entry(document, Path(path), media_type, status.st_size, status.st_mtime_ns))

    def _skip(self, name: str, reason: SkipReason, detail: str) -> None:
        shown = (self._root.prefix + name).encode("utf-8", "backslashreplace").decode()
        self._found.skipped.append(Skipped(path=shown, reason=reason, detail=detail))


def read_bytes(entry: Entry, limit: int) -> bytes:
    """The file as it is now. Raises `OSError`, also if a symlink or a device has taken its place since the scan."""
    with _open_regular(str(entry.path)) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def _head(path: str) -> bytes:
    """The first bytes of a file."""
    with _open_regular(path) as file:
        return file.read(_SNIFF)


def _open_regular(path: str) -> BinaryIO:
    # Not through a symlink, and not blocking on a pipe; Windows has neither flag.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def why(error: OSError) -> str:
    """An operating system's error without the path, which may lie outside the library."""
    return (error.strerror or type(error).__name__).lower()
