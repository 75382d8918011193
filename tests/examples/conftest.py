"""A host on a database of the test's own, with the brief's real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from retinue.config import load_settings
from retinue.host import Host, open_host

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    overrides = {"database": str(tmp_path / "retinue.db"), "workspace": str(tmp_path / "out"), "state": str(tmp_path)}
    settings = load_settings(overrides=overrides, env={}, cwd=tmp_path)
    async with open_host(settings, env={}) as opened:
        yield opened
