"""The one module that calls what only some systems have: kernel locks, file modes, directory fsync, process ids.

Each function has a Windows branch. There, files get the access rules of their folder (the user's profile by default);
a mode cannot be checked, and directories cannot be flushed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from retinue.errors import ConfigError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

WINDOWS = sys.platform == "win32"

_NEW_PRIVATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_OPEN_LOCK = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


# Private files


def private_file(path: Path) -> bool:
    """Make sure that ``path`` exists, created empty with mode 0600; return whether it was created.

    An existing file is left as it is: `check_private` judges it.
    """
    try:
        os.close(os.open(path, _NEW_PRIVATE, 0o600))
    except FileExistsError:
        return False
    return True


def create_private(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data`` and mode 0600, whole or not at all; False when it is already there.

    Of several processes that do this at once one wins, and the others read a complete file.
    """
    draft = _draft(path, data)
    try:
        if WINDOWS:
            os.rename(draft, path)  # refuses an existing target there, unlike on POSIX
        else:
            os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    fsync_dir(path.parent)
    return True


def write_private(path: Path, data: bytes) -> None:
    """Create or replace ``path`` with ``data`` and mode 0600, in one step that also survives a power failure."""
    draft = _draft(path, data)
    try:
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def _draft(path: Path, data: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    fd = os.open(draft, _NEW_PRIVATE, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            flush(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft


def ensure_private_dir(path: Path) -> Path:
    """Make the folder and its missing parents, each with mode 0700. Folders that exist keep their mode."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
    return path


def check_private(path: Path) -> None:
    """Refuse a secret's file that is a link, belongs to somebody else, or that others may read or write.

    Raises `ConfigError`; `FileNotFoundError` when there is no such file.
    """
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise ConfigError(f"{path} holds a secret and is a symbolic link", hint="Replace the link by the file itself.")
    if WINDOWS:
        return
    if info.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(
            f"{path} holds a secret and belongs to another user", hint=f"Remove it, or take it over: chown $USER {path}"
        )
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        wanted = "700" if stat.S_ISDIR(info.st_mode) else "600"
        raise ConfigError(
            f"{path} holds a secret and other users can reach it (mode {mode:04o})", hint=f"chmod {wanted} {path}"
        )


# Flushing


def flush(fd: int) -> None:
    """Put a file's bytes on the disk itself (on macOS ``fsync`` alone stops at the drive's cache)."""
    full = getattr(fcntl, "F_FULLFSYNC", None) if sys.platform == "darwin" else None
    if full is not None:
        with contextlib.suppress(OSError):  # some file systems do not know it
            fcntl.fcntl(fd, full)
            return
    os.fsync(fd)


def fsync_dir(folder: Path) -> None:
    """Put a folder's entries on the disk, so that a new or renamed file is still there after a power failure."""
    if WINDOWS:
        return
    fd = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        with contextlib.suppress(OSError):  # not every file system flushes directories
            os.fsync(fd)
    finally:
        os.close(fd)


# Locks that die with their process


class ProcessLock:
    """A lock file that the kernel releases when the process ends, however it ends.

    The lock belongs to this object: a second one on the same path is refused even in the same process. The file is
    removed on release, and left behind (unlocked) by a process that was killed; see `remove_stale`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    @property
    def held(self) -> bool:
        return self._fd is not None

    def try_acquire(self) -> bool:
        """Take the lock; False when somebody else has it."""
        if self._fd is not None:
            return True
        while True:
            private_file(self.path)
            try:
                fd = os.open(self.path, _OPEN_LOCK)
            except FileNotFoundError:  # its last holder removed it just now
                continue
            if not _lock(fd):
                os.close(fd)
                return False
            if _same_file(fd, self.path):
                self._fd = fd
                return True
            os.close(fd)  # locked a file that was removed meanwhile: nobody else can see that lock

    def acquire(self, *, timeout: float = 0.5) -> None:
        """Take the lock or raise `BlockingIOError`. The timeout outlasts an `is_held`, which locks for an instant."""
        deadline = time.monotonic() + timeout
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                raise BlockingIOError(f"{self.path} is locked by another process")
            time.sleep(0.002)

    def release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with contextlib.suppress(OSError):  # Windows does not remove an open file; remove_stale does later
            self.path.unlink()
        os.close(fd)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class OwnerLock(ProcessLock):
    """Proof that a lease owner lives: ``<folder>/<name>.lock``, locked for as long as its process runs."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(owner_lock_path(folder, name))
        self.name = name

    def acquire(self, *, timeout: float = 0.5) -> None:
        ensure_private_dir(self.path.parent)
        super().acquire(timeout=timeout)


def owner_lock_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"


def is_held(path: Path) -> bool:
    """Whether a process alive on this machine holds the lock file. A missing file is not held."""
    try:
        fd = os.open(path, _OPEN_LOCK)
    except FileNotFoundError:
        return False
    try:
        return not _lock(fd, shared=True)
    finally:
        os.close(fd)


def remove_stale(folder: Path) -> int:
    """Remove the lock files of processes that are gone; return how many."""
    removed = 0
    for path in folder.glob("*.lock"):
        lock = ProcessLock(path)
        # try_acquire re-creates a file that vanished; taking and releasing it leaves nothing behind either way.
        with contextlib.suppress(OSError):
            if lock.try_acquire():
                lock.release()
                removed += 1
    return removed


def _lock(fd: int, *, shared: bool = False) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, (BlockingIOError, PermissionError)):  # EWOULDBLOCK; EACCES on Windows
            return False
        raise
    return True


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


# Processes


def start_in_background(command: Sequence[str], *, output: Path) -> int:
    """Start a program in a session of its own, which outlives this process, its terminal and its signals.

    What it prints is added to the file ``output``. Returns its process id.
    """
    import subprocess

    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    else:
        flags = 0
    with output.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603  our own program
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=not WINDOWS, creationflags=flags,
        )  # fmt: skip
    process.returncode = 0  # nobody here waits for it, and that is as it should be
    return process.pid


def owner_name() -> str:
    """A new name for this process as a lease owner: host, process id, a random part. Safe as a file name."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname()[:40]) or "host"
    return f"{host}.{os.getpid()}.{secrets.token_hex(4)}"


def pid_of(owner: str) -> int | None:
    """The process id in a name made by `owner_name`, for people to read; a lock, not this, tells whether it lives."""
    parts = owner.split(".")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else None
