"""A folder whose files are reached without following any link, and are replaced whole or not at all.

`tree_at` gives the implementation that the system allows. `DescriptorTree` walks by file descriptor (``openat`` with
``O_NOFOLLOW``), so nothing that happens to the folders meanwhile leads it elsewhere. `CheckedTree`, for Windows, looks
at every name before it uses it; a program that swaps a folder for a link in that instant can lead it out, and such a
program could have written there itself.

Both raise `InvalidInput` for what a caller may not reach and `FileNotFoundError` for what is not there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retinue import system
from retinue.errors import InvalidInput

from .names import Parts

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | _CLOEXEC | _NOFOLLOW | getattr(os, "O_DIRECTORY", 0)
# O_NONBLOCK: opening a named pipe must not wait for somebody to write to it.
_READ = os.O_RDONLY | _CLOEXEC | _NOFOLLOW | _BINARY | getattr(os, "O_NONBLOCK", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC | _NOFOLLOW | _BINARY


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds under one name. ``kind`` is ``file``, ``folder``, or ``other`` (links, pipes, devices)."""

    name: str
    kind: str
    size: int
    modified: float


class Folder(Protocol):
    """One folder, open. Names are single components that `names.parse` let through, or our own."""

    def names(self) -> list[str]: ...

    def entry(self, name: str) -> Entry | None: ...

    def read(self, name: str, *, limit: int) -> bytes:
        """The whole file. Raises `InvalidInput` when it is no plain file or larger than ``limit`` bytes."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """A new file with this content, on the disk itself when this returns. Raises `FileExistsError`."""
        ...

    def rename(self, name: str, to: str) -> None:
        """Put a file in another's place in one step, on the disk itself when this returns."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        ...

    def open(self, name: str, *, create: bool) -> contextlib.AbstractContextManager[Folder]: ...


class Tree(Protocol):
    def open(self, parts: Parts, *, create: bool = False) -> contextlib.AbstractContextManager[Folder]:
        """The folder at a path below the root, made on the way if ``create``."""
        ...


def tree_at(root: Path) -> Tree:
    """``root`` exists and is the real path of a folder."""
    by_descriptor = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd and _NOFOLLOW
    return DescriptorTree(root) if by_descriptor else CheckedTree(root)


# By file descriptor


class DescriptorTree:
    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def open(self, parts: Parts, *, create: bool = False) -> Generator[Folder]:
        with contextlib.ExitStack() as stack:
            folder: Folder = stack.enter_context(_descriptor(os.open(self._root, _FOLDER)))
            for part in parts:
                folder = stack.enter_context(folder.open(part, create=create))
            yield folder


@contextlib.contextmanager
def _descriptor(fd: int) -> Generator[DescriptorFolder]:
    try:
        yield DescriptorFolder(fd)
    finally:
        os.close(fd)


class DescriptorFolder:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def names(self) -> list[str]:
        return os.listdir(self._fd)

    def entry(self, name: str) -> Entry | None:
        try:
            return _entry(name, os.stat(name, dir_fd=self._fd, follow_symlinks=False))
        except FileNotFoundError:
            return None

    def read(self, name: str, *, limit: int) -> bytes:
        try:
            fd = os.open(name, _READ, dir_fd=self._fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _not_plain(name) from error
        return _read(fd, name, limit)

    def create(self, name: str, data: bytes) -> None:
        fd = os.open(name, _NEW, 0o666, dir_fd=self._fd)
        with _removed_on_failure(self, name):
            _write(fd, data)
        os.fsync(self._fd)

    def rename(self, name: str, to: str) -> None:
        os.rename(name, to, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    @contextlib.contextmanager
    def open(self, name: str, *, create: bool) -> Generator[Folder]:
        if create and self.entry(name) is None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o777, dir_fd=self._fd)
            os.fsync(self._fd)
        try:
            fd = os.open(name, _FOLDER, dir_fd=self._fd)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _not_folder(name) from error
        with _descriptor(fd) as folder:
            yield folder


# By looking first


class CheckedTree:
    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def open(self, parts: Parts, *, create: bool = False) -> Generator[Folder]:
        with contextlib.ExitStack() as stack:
            folder: Folder = CheckedFolder(self._root)
            for part in parts:
                folder = stack.enter_context(folder.open(part, create=create))
            yield folder


class CheckedFolder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        return os.listdir(self._path)

    def entry(self, name: str) -> Entry | None:
        try:
            return _entry(name, (self._path / name).lstat())
        except FileNotFoundError:
            return None

    def read(self, name: str, *, limit: int) -> bytes:
        found = self.entry(name)
        if found is None:
            raise FileNotFoundError(name)
        if found.kind != "file":
            raise _not_plain(name)
        return _read(os.open(self._path / name, _READ), name, limit)

    def create(self, name: str, data: bytes) -> None:
        fd = os.open(self._path / name, _NEW, 0o666)
        with _removed_on_failure(self, name):
            _write(fd, data)
        system.fsync_dir(self._path)

    def rename(self, name: str, to: str) -> None:
        os.replace(self._path / name, self._path / to)
        system.fsync_dir(self._path)

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def open(self, name: str, *, create: bool) -> Generator[Folder]:
        path = self._path / name
        if create and self.entry(name) is None:
            path.mkdir(exist_ok=True)
            system.fsync_dir(self._path)
        found = self.entry(name)
        if found is None:
            raise FileNotFoundError(name)
        if found.kind != "folder":
            raise _not_folder(name)
        yield CheckedFolder(path)


# What both do with an open file


def _entry(name: str, info: os.stat_result) -> Entry:
    # A Windows junction is a folder to `stat`, and a reparse point all the same.
    reparse = getattr(info, "st_file_attributes", 0) & getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)
    kind = "other"
    if not reparse and stat.S_ISREG(info.st_mode):
        kind = "file"
    elif not reparse and stat.S_ISDIR(info.st_mode):
        kind = "folder"
    return Entry(name=name, kind=kind, size=info.st_size, modified=info.st_mtime)


def _read(fd: int, name: str, limit: int) -> bytes:
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _not_plain(name)
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(fd)
    if len(data) > limit:
        raise InvalidInput(f"{name!a} is larger than {limit} bytes, the most that is read")
    return data


def _write(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        system.flush(file.fileno())


@contextlib.contextmanager
def _removed_on_failure(folder: Folder, name: str) -> Generator[None]:
    """A disk that is full must not stay full of half a file."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.remove(name)
        raise


def _not_plain(name: str) -> InvalidInput:
    return InvalidInput(f"{name!a} is not a plain file, and links are not followed")


def _not_folder(name: str) -> InvalidInput:
    return InvalidInput(f"{name!a} is not a folder, and links are not followed")
