"""Retinue: a team of specialist agents as one durable, guarded state machine.

The public names live in their own modules and are imported when they are first used, so that ``import retinue`` costs
next to nothing and a command that needs no agent loads none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinue.agents.agent import Agent
    from retinue.agents.budget import Budget
    from retinue.agents.models.claude import ClaudeModel
    from retinue.agents.models.function import FunctionCall, FunctionModel
    from retinue.agents.models.scripted import ScriptedModel
    from retinue.agents.tools.functions import FunctionToolset
    from retinue.agents.tools.mcp import MCPToolset
    from retinue.auth.principal import Principal
    from retinue.errors import RetinueError
    from retinue.graphs.nodes import each, step
    from retinue.graphs.workflow import Workflow
    from retinue.host import Host, open_host

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Budget",
    "ClaudeModel",
    "FunctionCall",
    "FunctionModel",
    "FunctionToolset",
    "Host",
    "MCPToolset",
    "Principal",
    "RetinueError",
    "ScriptedModel",
    "Workflow",
    "each",
    "open_host",
    "step",
]

_HOMES = {
    "Agent": "agents.agent",
    "Budget": "agents.budget",
    "ClaudeModel": "agents.models.claude",
    "FunctionCall": "agents.models.function",
    "FunctionModel": "agents.models.function",
    "FunctionToolset": "agents.tools.functions",
    "Host": "host",
    "MCPToolset": "agents.tools.mcp",
    "Principal": "auth.principal",
    "RetinueError": "errors",
    "ScriptedModel": "agents.models.scripted",
    "Workflow": "graphs.workflow",
    "each": "graphs.nodes",
    "open_host": "host",
    "step": "graphs.nodes",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
