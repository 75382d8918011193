"""Commands load what they need and nothing else. How long that takes is measured by ``bench/startup.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.terminal import ROOT

from .conftest import Shell

FRAMEWORKS = {"langgraph", "langchain_core", "anthropic", "mcp", "mcp_types", "a2a"}
HEAVY = FRAMEWORKS | {"pydantic", "rich", "httpx", "httpx2", "asyncio", "sqlite3", "opentelemetry", "jsonschema"}

PROGRAM = """
import json, sys
from retinue.cli import cli
from retinue.cli.errors import execute
from retinue.cli.group import App
for args in json.loads(sys.argv[1]):
    assert execute(cli, args, App()) == 0, args
print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


def loaded(folder: Path, *commands: Sequence[str]) -> set[str]:
    """The top-level modules that a process has imported which carried out these commands."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split())


def test_version_and_help_load_click_alone(folder: Path) -> None:
    assert not HEAVY & loaded(folder, ["--version"], ["--help"])


def test_help_of_commands_loads_neither_a_database_nor_pydantic(folder: Path) -> None:
    commands = (["run"], ["answer"], ["runs", "show"], ["mcp", "call"], ["doctor"])
    assert not HEAVY - {"asyncio"} & loaded(folder, *([*command, "--help"] for command in commands))


def test_reading_an_existing_database_loads_no_framework(retinue: Shell) -> None:
    run = retinue.waiting()
    reading = [
        *(["inbox"], ["runs", "list"], ["runs", "show", run], ["runs", "events", run], ["audit", "verify"]),
        *(["runs", "prune", "--older-than=1d"], ["config", "show"], ["completion", "bash"]),
    ]
    assert not FRAMEWORKS & loaded(retinue.folder, *reading)
