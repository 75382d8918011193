"""A folder with a configuration, and processes that run commands in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.terminal import Done, Warm

NAMES = ("letter", "pair", "talk", "slow", "doubt", "failing", "paid", "nasty", "stubborn", "both")


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    started = Warm()
    yield started
    started.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands are run."""
    found = tmp_path / "desk"
    found.mkdir()
    names = "\n".join(f'{name} = "tests.support.workflows:{name}"' for name in NAMES)
    text = f'database = "runs.db"\nstate = "state"\n[workflows]\n{names}\n'
    (found / "retinue.toml").write_text(text, encoding="utf-8")
    return found


class Shell:
    """Commands in one folder, each in a process of its own."""

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm = warm
        self.folder = folder

    def __call__(self, *args: str) -> Done:
        return self.warm.run(self.folder, *args)

    def waiting(self, workflow: str = "letter", text: str = "Tea") -> str:
        """A run that waits for an answer; its id."""
        done = self("run", workflow, text, "--json")
        assert done.code == 10, done
        return done.lines[-1]["run"]

    def sent(self) -> list[str]:
        """The letters that were sent."""
        log = self.folder / "sent.log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@pytest.fixture
def retinue(warm: Warm, folder: Path) -> Shell:
    return Shell(warm, folder)
