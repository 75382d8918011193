"""The example server is the one that the documentation shows, and it works."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from retinue.examples.server import notes
from retinue.protocol import IDEMPOTENCY_KEY

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_file_as_it_is() -> None:
    page = (ROOT / "docs/mcp.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    assert blocks == [(ROOT / "examples/server/notes.py").read_text(encoding="utf-8")]


@pytest.mark.anyio
async def test_the_example_server_runs_as_a_program() -> None:
    env = {name: os.environ[name] for name in ("PYTHONPATH", "PATH") if name in os.environ}
    program = StdioServerParameters(command=sys.executable, args=["-m", "retinue.examples.server.notes"], env=env)
    with anyio.fail_after(20):
        async with Client(program) as client:
            for _ in range(2):
                await client.call_tool("add_note", {"text": "Buy Milk"}, meta={IDEMPOTENCY_KEY: "k"})
            found = await client.call_tool("find_notes", {"word": "milk"})
    assert found.structured_content == {"notes": ["Buy Milk"]}
    assert notes.server.scopes_supported == ("notes:read", "notes:write")
