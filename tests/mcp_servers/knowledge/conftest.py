from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from retinue.mcp_servers.knowledge import Library

from .pdfs import pdf

CORPUS = Path(__file__).parent / "corpus"
REPORT = pdf(
    [
        ["Station report", "The reactor of the station is cooled by helium.", "Its core holds 24 fuel rods."],
        ["Maintenance", "Turbine blades are inspected every spring by the crew."],
    ],
    title="Station report",
)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus with its PDF. Tests do not change it."""
    folder = tmp_path_factory.mktemp("library") / "corpus"
    shutil.copytree(CORPUS, folder)
    (folder / "report.pdf").write_bytes(REPORT)
    return folder


@pytest.fixture(scope="session")
def corpus_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests that only ask, so that the corpus is read once."""
    return tmp_path_factory.mktemp("index") / "corpus.db"


@pytest.fixture
async def library(corpus: Path, corpus_index: Path) -> AsyncGenerator[Library]:
    async with await Library.open([corpus], index=corpus_index, refresh_after=None) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty library folder."""
    made = tmp_path / "docs"
    made.mkdir()
    return made
