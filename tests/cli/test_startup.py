"""Commands load what they need and nothing else. How long that takes is measured by ``bench/startup.py``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminal import ROOT

from .conftest import Shell

FRAMEWORKS = {"langgraph", "langchain_core", "anthropic", "mcp", "mcp_types", "a2a"}
HEAVY = FRAMEWORKS | {"pydantic", "rich", "httpx", "httpx2", "asyncio", "sqlite3", "opentelemetry", "jsonschema"}

PROGRAM = """
import sys
from retinue.cli import cli, main
sys.argv[0] = "retinue"
try:
    main()
except SystemExit as ended:
    print(ended.code or 0, *sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""


def loaded(folder: Path, *args: str) -> set[str]:
    """The top-level modules that a command has imported, run to its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0", done.stderr
    return set(modules)


@pytest.mark.parametrize("args", [["--version"], ["--help"]])
def test_version_and_help_load_click_alone(folder: Path, args: list[str]) -> None:
    assert not HEAVY & loaded(folder, *args)


@pytest.mark.parametrize(
    "args",
    [
        *(["inbox"], ["runs", "list"], ["runs", "show", "RUN"], ["runs", "events", "RUN"]),
        *(["runs", "prune", "--older-than=1d"], ["audit", "verify"], ["config", "show"], ["completion", "bash"]),
        *(["run", "--help"], ["mcp", "--help"]),
    ],
    ids=" ".join,
)
def test_reading_an_existing_database_loads_no_framework(retinue: Shell, args: list[str]) -> None:
    run = retinue.waiting()
    assert not FRAMEWORKS & loaded(retinue.folder, *[run if arg == "RUN" else arg for arg in args])


def test_help_of_a_command_loads_neither_pydantic_nor_a_database(folder: Path) -> None:
    assert not HEAVY - {"asyncio"} & loaded(folder, "answer", "--help")
