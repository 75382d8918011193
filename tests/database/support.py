"""What the database tests share."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import anyio

from retinue.database.base import Database

INSERT = "INSERT INTO artifacts (run, id, media_type, body) VALUES (?, ?, '', ?)"


class Child:
    """A process started from ``child.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hear(self) -> Any:
        """The next value that it says. A child that fails says why here."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, trouble = self.process.communicate()
            raise AssertionError(f"the child ended: {trouble}")
        return json.loads(line)

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def finish(self) -> None:
        _, trouble = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, trouble

    def kill(self) -> None:
        """End it with SIGKILL (TerminateProcess on Windows) and wait until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        self.process.communicate()


class Children(Protocol):
    def __call__(self, what: Any, /, *arguments: object) -> Child: ...


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what other threads, processes or the server do."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  nobody tells of it
            await anyio.sleep(0.005)


async def put(database: Database, key: str, body: bytes = b"") -> None:
    await database.write(lambda tx: tx.execute(INSERT, ("r", key, body)))


async def keys(database: Database) -> list[str]:
    return [key for (key,) in await database.read(lambda tx: tx.all("SELECT id FROM artifacts ORDER BY id"))]


def raw(file: Path) -> sqlite3.Connection:
    """A connection of somebody who is not Retinue."""
    return sqlite3.connect(file, isolation_level=None)
