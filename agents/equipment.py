"""What the agents of a workflow work with, fixed at the start of an execution: their models and their tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from retinue.errors import ConfigError

from .agent import Agent
from .delegates import delegate_tool, handoff_tool
from .models.base import Model
from .tools.base import Connections, Tool


@dataclass(frozen=True, kw_only=True)
class Equipment:
    models: Mapping[str, Model]
    tools: Mapping[str, Sequence[Tool]]

    @classmethod
    async def open(
        cls, agents: Sequence[Agent], connections: Connections, choose: Callable[[Agent], Model]
    ) -> Equipment:
        """Choose every model and open every toolset, before anything is spent.

        Raises `NoModel`, `Unreachable`, `SignInNeeded`, `ConfigError`.
        """
        models = {agent.name: choose(agent) for agent in agents}
        tools: dict[str, Sequence[Tool]] = {}
        for agent in agents:
            offered = [tool for toolset in agent.tools for tool in await toolset.open(connections)]
            offered += [delegate_tool(member) for member in agent.delegates]
            offered += [handoff_tool(member, output=agent.output, giver=agent.name) for member in agent.handoffs]
            names = [tool.exposed for tool in offered]
            for name in names:
                if names.count(name) > 1:
                    servers = ", ".join(sorted({t.server for t in offered if t.exposed == name}))
                    raise ConfigError(
                        f"{agent.name} has more than one tool named {name!r} (from {servers})",
                        hint="Tell them apart with .prefixed(…), or leave one out with .without(…).",
                    )
            tools[agent.name] = offered
        return cls(models=models, tools=tools)

    def model_at(self, run: str, path: str, agent: str) -> Model:
        """The model of an agent at work on this path of this run."""
        return self.models[agent]

    @property
    def language_model(self) -> bool:
        return any(model.language_model for model in self.models.values())

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Agent to exposed tool to the tool's own fingerprint."""
        return {
            agent: {tool.exposed: tool.fingerprint for tool in tools} for agent, tools in self.tools.items() if tools
        }
