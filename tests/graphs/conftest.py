"""A desk in memory, and one on a file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.desk import Desk, opened


@pytest.fixture
async def desk(anyio_backend: str) -> AsyncIterator[Desk]:
    async with opened() as made:
        yield made


@pytest.fixture
async def on_disk(anyio_backend: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(tmp_path / "runs.db") as made:
        yield made
