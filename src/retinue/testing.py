"""Recorded runs as tests.

def test_the_brief_is_as_it_was() -> None:
    replay("tests/recordings/brief.json")
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from retinue.agents.tools.base import Connections
from retinue.config import load_settings, load_workflow
from retinue.graphs.recording import Recording
from retinue.graphs.replay import replay as _replay
from retinue.graphs.workflow import Workflow

__all__ = ["ReplayDiffers", "replay", "replay_async"]


class ReplayDiffers(AssertionError):
    """A recording was run again and something else came of it. ``differences`` says what, a sentence each."""

    def __init__(self, path: Path, differences: list[str]) -> None:
        self.differences = differences
        lines = "".join(f"\n  - {difference}" for difference in differences)
        super().__init__(f"{path} does not replay as it was recorded:{lines}")


def replay(path: str | Path, *, workflow: Workflow | None = None, connections: Connections | None = None) -> Recording:
    """Run a recording of `retinue runs replay RUN --record FILE` again: in memory, offline, nothing called.

    ``workflow`` stands in for the registered one. With ``connections``, the tools are those that servers list now, and
    a changed one is noticed; without, servers list what they did. Returns what the new run did.

    Raises `ReplayDiffers`, and `UsageError` for a file that is no recording. Inside an event loop: `replay_async`.
    """
    return asyncio.run(replay_async(path, workflow=workflow, connections=connections))


async def replay_async(
    path: str | Path, *, workflow: Workflow | None = None, connections: Connections | None = None
) -> Recording:
    """The same for tests that are coroutines."""
    recording = Recording.read(Path(path))
    flow = workflow or load_workflow(load_settings(), recording.workflow)
    replayed = await _replay(recording, flow, connections=connections)
    if replayed.differences:
        raise ReplayDiffers(Path(path), replayed.differences)
    return replayed.recording
