"""The public names: complete, sorted, lazy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import retinue

HEAVY = ("langgraph", "langchain_core", "anthropic", "mcp", "a2a", "pydantic", "httpx", "httpx2", "opentelemetry")


@pytest.mark.parametrize("name", retinue.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(retinue, name) is not None
    assert name in dir(retinue)


def test_the_public_names_are_sorted_and_typed_as_they_are_loaded() -> None:
    """A type checker follows the imports under TYPE_CHECKING, a program the table: they must say the same."""
    tree = ast.parse(Path(retinue.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes: dict[str, str] = vars(retinue)["_HOMES"]
    assert typed == {name: f"retinue.{home}" for name, home in homes.items()}
    assert sorted(homes) == sorted(retinue.__all__)
    assert retinue.__all__ == sorted(retinue.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'retinue' has no attribute 'Swarm'"):
        getattr(retinue, "Swarm")  # noqa: B009  a plain attribute would be a type error


def test_importing_retinue_loads_no_framework() -> None:
    code = f"import sys, retinue; retinue.RetinueError; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"
