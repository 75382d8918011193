from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retinue.database.sqlite import SQLiteDatabase

from .child import command
from .support import Child, Children


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture(params=["memory", "file"])
async def database(request: pytest.FixtureRequest, file: Path) -> AsyncGenerator[SQLiteDatabase]:
    opened = await SQLiteDatabase.open(":memory:" if request.param == "memory" else file)
    yield opened
    await opened.close()


@pytest.fixture
async def on_file(file: Path) -> AsyncGenerator[SQLiteDatabase]:
    opened = await SQLiteDatabase.open(file)
    yield opened
    await opened.close()


@pytest.fixture
def child() -> Iterator[Children]:
    """Start other processes; whatever is left of them at the end is killed."""
    started: list[Child] = []

    def start(what: Callable[..., Any], *arguments: object) -> Child:
        process = subprocess.Popen(
            command(what, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(Child(process))
        return started[-1]

    yield start
    for process in started:
        process.kill()
