"""The person's terminal: lines they type, their editor, their pager.

Lines are read on the event loop, so that a run's servers live on while somebody thinks, and a signal gets through.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path

from retinue.errors import UsageError

from .loop import Signals

if sys.platform != "win32":
    import termios


class NoEditor(UsageError):
    """There is no program to edit with."""

    code = "no_editor"
    default_hint = "Set EDITOR, e.g. EDITOR=vi."


class Terminal:
    """``signals`` are left alone while an editor or pager has the terminal: its Ctrl-C is its own."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._pending = b""
        self.returned = asyncio.Event()
        """Set, but while an editor or a pager has the terminal."""
        self.returned.set()

    @property
    def width(self) -> int:
        return shutil.get_terminal_size((80, 24)).columns

    @property
    def height(self) -> int:
        return shutil.get_terminal_size((80, 24)).lines

    def forget_typed(self) -> None:
        """Drop what was typed before the question was there: it was not an answer to it."""
        self._pending = b""
        if sys.platform != "win32":
            with contextlib.suppress(termios.error, OSError, ValueError):
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)

    async def read_line(self, prompt: str) -> str | None:
        """A line without its end; None at the end of input (Ctrl-D)."""
        sys.stdout.write(prompt)
        sys.stdout.flush()
        try:
            while b"\n" not in self._pending:
                piece = await self._read()
                if not piece:
                    sys.stdout.write("\n")
                    sys.stdout.flush()
                    return None
                self._pending += piece
        except asyncio.CancelledError:
            sys.stdout.write("\n")
            sys.stdout.flush()
            raise
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        fd = sys.stdin.fileno()
        ready: asyncio.Future[bytes] = loop.create_future()
        if sys.platform == "win32":  # its loop cannot wait for a console; the thread dies with the process
            threading.Thread(target=_read_in_thread, args=(fd, loop, ready), daemon=True).start()
            return await ready

        def readable() -> None:
            if not ready.done():
                try:
                    ready.set_result(os.read(fd, 65536))
                except OSError:  # the terminal is gone
                    ready.set_result(b"")

        loop.add_reader(fd, readable)
        try:
            return await ready
        finally:
            loop.remove_reader(fd)

    async def edit(self, text: str, *, suffix: str) -> str | None:
        """The text as the person leaves it in their editor; None when the editor failed.

        Raises `NoEditor`.
        """
        command = _editor()
        with tempfile.TemporaryDirectory(prefix="retinue-") as folder:
            path = Path(folder) / f"edit{suffix}"
            path.write_text(text, encoding="utf-8", newline="")
            if await self._give_to([*command, str(path)]) != 0:
                return None
            try:
                return path.read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError):
                return None

    async def page(self, text: str) -> bool:
        """Show a long text in the person's pager; False where there is none. The text must be clean."""
        pager = shlex.split(os.environ.get("PAGER", "")) or ["less"]
        if shutil.which(pager[0]) is None:
            return False
        with tempfile.TemporaryDirectory(prefix="retinue-") as folder:
            path = Path(folder) / "question.txt"
            path.write_text(text, encoding="utf-8")
            return await self._give_to([*pager, str(path)]) == 0

    async def _give_to(self, command: list[str]) -> int:
        """Run a program that has the terminal to itself; returns its exit code."""
        self._signals.ignored = True
        self.returned.clear()
        try:
            return await asyncio.to_thread(_call, command)
        finally:
            self._signals.ignored = False
            self.returned.set()


@contextlib.contextmanager
def silent_keys() -> Generator[None]:
    """What is typed does not show, and does not push the drawing around. Ctrl-C still works."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _call(command: list[str]) -> int:
    try:
        return subprocess.call(command)  # noqa: S603  the person's own editor
    except OSError:
        return 127


def _editor() -> list[str]:
    for name in ("VISUAL", "EDITOR"):
        if command := shlex.split(os.environ.get(name, ""), posix=os.name != "nt"):
            return command
    for name in ("nano", "vim", "vi", "notepad"):
        if shutil.which(name):
            return [name]
    raise NoEditor("there is no editor")


def _read_in_thread(fd: int, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[bytes]) -> None:
    try:
        data = os.read(fd, 65536)
    except OSError:
        data = b""

    def settle() -> None:
        if not ready.done():
            ready.set_result(data)

    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(settle)
