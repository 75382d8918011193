"""What every subject of the bench is asked to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

SYSTEM = "You are a careful calculator. Use the tools to answer."
SUPERVISOR = "ROLE-SUPERVISOR. Ask every specialist, then join the answers."
SPECIALIST = "You are a specialist. Use the tools to answer."
PROMPT = "What is 1 + 2?"
MODEL = "claude-sonnet-5-5"
KEY = "sk-ant-fake"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
TOOL: dict[str, Any] = {"name": "add", "description": "Add two integers.", "input_schema": SCHEMA}
ASK: dict[str, Any] = {"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]}
APPROVE: dict[str, Any] = {
    "name": "approve",
    "description": "Ask the person.",
    "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
}

Run = Callable[[], Awaitable[Any]]


async def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b
