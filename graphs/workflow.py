"""A named, typed graph with a budget: what is run, and what is served."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast, get_type_hints
from weakref import WeakKeyDictionary

import orjson
from langgraph.channels.base import BaseChannel
from langgraph.channels.binop import BinaryOperatorAggregate
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from retinue.errors import ConfigError, InvalidInput, NotSerializable, OutputInvalid

from ..agents.agent import Agent
from ..agents.budget import Budget
from ..agents.member import Done, Member, Waiting
from ..agents.scope import Scope
from ..agents.tools.base import digest
from .checkpoints import Checkpoints
from .nodes import INTO, MEMBER

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

AnyGraph = StateGraph[Any, Any, Any, Any]
Compiled = CompiledStateGraph[Any, Any, Any, Any]


class Workflow:
    """A graph under a name.

    ``graph`` is a plain LangGraph `StateGraph`; its input and output schemas are the workflow's. ``max_concurrency``
    bounds the nodes that run at once, however far the graph fans out; ``max_steps`` bounds its supersteps over the life
    of a run. ``answer_within`` seconds a question stays open; unanswered, it counts as rejected. None: for ever.
    ``summary`` renders an output for people; by default it is shown as JSON.
    """

    def __init__(
        self,
        name: str,
        graph: AnyGraph,
        *,
        description: str = "",
        budget: Budget | None = None,
        max_concurrency: int = 8,
        max_steps: int = 1000,
        answer_within: float | None = None,
        summary: Callable[[Any], str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"a workflow cannot be named {name!r}", hint="Lower-case letters, digits, - and _.")
        self.name = name
        self.graph = graph
        self.description = description
        self.budget = budget or Budget()
        self.max_concurrency = max_concurrency
        self.max_steps = max_steps
        self.answer_within = answer_within
        self.summary = summary
        self.options = dict(options or {})
        """Settings of the run that the workflow starts from, e.g. the library its agents read."""
        self._compiled: WeakKeyDictionary[Callable[..., Checkpoints], Compiled] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"Workflow({self.name!r})"

    @cached_property
    def graphs(self) -> Mapping[str, AnyGraph]:
        """Its graph under the name "", and the subgraphs that are nodes of it under ``node/``, ``node/inner/``, …"""
        return dict(_subgraphs(self.graph))

    @cached_property
    def steps(self) -> dict[str, Member]:
        """Node name to the member it runs, for nodes made by `step`."""
        return {name: getattr(function, MEMBER) for name, function, _ in self._step_nodes}

    @cached_property
    def _step_nodes(self) -> list[tuple[str, Any, AnyGraph]]:
        """(name, function, its graph) of nodes made by `step`."""
        return [
            (prefix + name, function, graph)
            for prefix, graph in self.graphs.items()
            for name, node in graph.nodes.items()
            if hasattr(function := getattr(node.runnable, "afunc", None), MEMBER)
        ]

    @cached_property
    def agents(self) -> Sequence[Agent]:
        """Its agents and those that they may ask or hand over to, each once."""
        agents: dict[str, Agent] = {}
        waiting = list(self.steps.values())
        while waiting:
            member = waiting.pop(0)
            if isinstance(member, Workflow):
                waiting += member.agents
                continue
            if not isinstance(member, Agent) or agents.get(member.name) is member:
                continue
            if agents.setdefault(member.name, member) is not member:
                raise ConfigError(f"{self.name} has two agents named {member.name!r}")
            waiting += [*member.delegates, *member.handoffs]
        return list(agents.values())

    @cached_property
    def workflows(self) -> Sequence[Workflow]:
        """The workflows that are members of this one, each once, those of those included."""
        found: dict[str, Workflow] = {}
        waiting: list[Any] = [*self.steps.values(), *(m for a in self.agents for m in (*a.delegates, *a.handoffs))]
        while waiting:
            member = waiting.pop(0)
            if isinstance(member, Workflow) and found.setdefault(member.name, member) is not member:
                raise ConfigError(f"{self.name} has two workflows named {member.name!r}")
            if isinstance(member, Workflow):
                waiting += member.workflows
        return list(found.values())

    # As a member of another workflow: a run of its own, see `members`

    @property
    def output(self) -> type[Any]:
        return self.output_type

    @property
    def input_schema(self) -> Mapping[str, Any]:
        return self._input_schema

    def task(self, arguments: Mapping[str, Any]) -> str:
        return orjson.dumps(arguments).decode()

    def revive(self, value: str) -> Any:
        return self._output.validate_json(value)

    async def run(self, task: str, scope: Scope) -> Done | Waiting:
        from .members import run_member

        return await run_member(self, task, scope)

    @cached_property
    def input_type(self) -> type[Any]:
        return self.graph.input_schema

    @cached_property
    def output_type(self) -> type[Any]:
        return self.graph.output_schema

    @cached_property
    def _input(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.input_type)

    @cached_property
    def _output(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.output_type)

    @cached_property
    def _input_schema(self) -> dict[str, Any]:
        return self._input.json_schema()

    @cached_property
    def main_field(self) -> str | None:
        """The input field that takes a bare text: the first required text field."""
        schema = self._input_schema
        required = schema.get("required", [])
        for name, field in schema.get("properties", {}).items():
            if name in required and field.get("type") == "string":
                return name
        return None

    def read_input(self, data: Any) -> dict[str, Any]:
        """The input in JSON form, valid by the graph's input schema. Raises `InvalidInput`."""
        if isinstance(data, str):
            if self.main_field is None:
                raise InvalidInput(f"{self.name} takes no bare text", hint="Pass --set field=value or --input FILE.")
            data = {self.main_field: data}
        if isinstance(data, BaseModel):
            data = data.model_dump(mode="json")
        known = self._input_schema.get("properties", {})
        if isinstance(data, Mapping) and (unknown := sorted(set(cast("Mapping[str, Any]", data)) - set(known))):
            raise InvalidInput(f"{self.name} has no input {unknown[0]!r}", hint=f"Its inputs: {', '.join(known)}.")
        try:
            value = self._input.validate_python(data)
        except ValidationError as error:
            problems = "; ".join(
                f"{'/'.join(map(str, e['loc'])) or 'input'}: {e['msg']}"
                for e in error.errors(include_url=False, include_input=False)[:5]
            )
            raise InvalidInput(f"the input of {self.name} is not valid: {problems}") from None
        try:
            data = self._input.dump_python(value, mode="json")
            orjson.dumps(data)
        except (TypeError, ValueError) as error:  # a number without bounds, half a character from a terminal
            raise InvalidInput(f"the input of {self.name} cannot be kept as JSON: {error}") from None
        return data

    def write_output(self, state: Any) -> Any:
        """The output in JSON form, checked against the graph's output schema. Raises `OutputInvalid`."""
        try:
            return self._output.dump_python(self._output.validate_python(state), mode="json")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = "/".join(map(str, first["loc"])) or "output"
            raise OutputInvalid(f"the output of {self.name} is not valid: {where}: {first['msg']}") from None
        except PydanticSerializationError as error:
            raise NotSerializable(f"the output of {self.name} cannot be kept as JSON: {error}") from None

    def appended(self, node: Callable[..., Any], field: str, value: Any) -> Any:
        """A member's output as an update of ``field``: an item where the field has a reducer over a list."""
        graph = next((graph for _, function, graph in self._step_nodes if function is node), self.graph)
        channel = cast("BaseChannel[Any, Any, Any]", graph.channels[field])
        if isinstance(channel, BinaryOperatorAggregate) and isinstance(channel.value, list):
            return cast("list[Any]", value) if isinstance(value, list) else [value]
        return value

    def compile(self, saver: Callable[..., Checkpoints]) -> Compiled:
        """The runnable graph; ``saver`` makes its saver from the types that the state and the outputs are made of."""
        compiled = self._compiled.get(saver)
        if compiled is None:
            types: list[Any] = []
            for graph in self.graphs.values():
                types += [graph.state_schema, graph.input_schema, graph.output_schema]
                types += [node.input_schema for node in graph.nodes.values()]
            types += [member.output for member in self.steps.values() if member.output is not None]
            compiled = self.graph.compile(checkpointer=saver(*types), name=self.name)
            self._compiled[saver] = compiled
        return compiled

    @cached_property
    def shape(self) -> dict[str, Any]:
        """What makes a paused run continuable: nodes, edges, state, and what each agent is told to be."""
        for name, function, graph in self._step_nodes:
            into = getattr(function, INTO)
            if isinstance(into, str) and into not in graph.channels:  # known before anything is paid for
                raise ConfigError(f"node {name} of {self.name} goes into {into!r}, which its state does not have")
        nodes: dict[str, str] = {}
        edges: list[str] = []
        branches: dict[str, Any] = {}
        state: dict[str, str] = {}
        for prefix, graph in self.graphs.items():
            for name in sorted(graph.nodes):
                node = prefix + name
                nodes[node] = self.steps[node].name if node in self.steps else "function"
            joined = ((",".join(sources), end) for sources, end in graph.waiting_edges)
            edges += [f"{prefix}{a} -> {b}" for a, b in (*graph.edges, *joined)]
            for source, found in graph.branches.items():
                for name, branch in found.items():
                    ends = sorted(map(str, (branch.ends or {}).values()))
                    branches[f"{prefix}{source} -> {name}"] = ends or "any"
            hints = get_type_hints(graph.state_schema, include_extras=True)
            # A function's representation holds its address, which is another one in every process.
            state |= {prefix + name: _ADDRESS.sub("", str(hint)) for name, hint in sorted(hints.items())}
        return {
            "nodes": nodes,
            "edges": sorted(edges),
            "branches": branches,
            "state": state,
            "prompts": {agent.name: agent.prompt_hash for agent in self.agents},
            "outputs": {agent.name: agent.output_schema for agent in self.agents if agent.output_schema is not None},
            "members": {flow.name: digest(flow.shape) for flow in self.workflows},
        }

    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart."""
        return self.graph.compile().get_graph().draw_mermaid()


def _subgraphs(graph: AnyGraph, prefix: str = "") -> Iterator[tuple[str, AnyGraph]]:
    yield prefix, graph
    for name, node in graph.nodes.items():
        if isinstance(node.runnable, CompiledStateGraph):
            yield from _subgraphs(cast("Compiled", node.runnable).builder, f"{prefix}{name}/")
