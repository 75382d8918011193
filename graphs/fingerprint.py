"""What a run was started with, and a readable difference when a resume would meet something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..agents.equipment import Equipment
from .workflow import Workflow


def fingerprint(workflow: Workflow, equipment: Equipment) -> dict[str, Any]:
    """Nodes, edges, state, prompts, output types and tools, in JSON form."""
    return {**workflow.shape, "tools": {a.name: equipment.fingerprint.get(a.name, {}) for a in workflow.agents}}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each change in words, e.g. ``prompts: writer has changed``; empty if there is none."""
    found: list[str] = []
    for section in sorted({*then, *now}):
        found += _compare(section, then.get(section), now.get(section))
    return found


def _compare(where: str, then: Any, now: Any) -> list[str]:
    if then == now:
        return []
    if isinstance(then, list) and isinstance(now, list):
        before, after = cast("list[Any]", then), cast("list[Any]", now)
        gone = [f"{where}: {item} is gone" for item in before if item not in after]
        return gone + [f"{where}: {item} is new" for item in after if item not in before]
    if not isinstance(then, dict) or not isinstance(now, dict):
        short = (
            isinstance(then, str) and isinstance(now, str) and len(then) + len(now) < 160 and where.startswith("state")
        )
        return [f"{where} was {then}, is {now}" if short else f"{where} has changed"]
    then, now = cast("dict[str, Any]", then), cast("dict[str, Any]", now)
    found: list[str] = []
    for name in sorted({*then, *now}):
        inner = f"{where}: {name}" if ":" not in where else f"{where}.{name}"
        if name not in now:
            found.append(f"{inner} is gone")
        elif name not in then:
            found.append(f"{inner} is new")
        elif where.startswith("outputs"):
            found += [] if then[name] == now[name] else [f"{inner} has changed"]
        else:
            found += _compare(inner, then[name], now[name])
    return found
