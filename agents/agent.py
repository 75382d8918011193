"""A specialist: who it is, what it may use, what it answers with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import TypeAdapter

from retinue.errors import ConfigError

from .member import Done, Member, Waiting
from .models.base import Model
from .scope import Scope
from .tools.base import Toolset

if TYPE_CHECKING:
    from .models.selection import Function

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

TASK_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"task": {"type": "string", "description": "All that it needs to know: it sees nothing else."}},
    "required": ["task"],
    "additionalProperties": False,
}


class Agent:
    """A specialist agent.

    ``prompt`` is text or the path of a file; a file is read once, and its hash is on every event of the agent.
    ``output`` is a pydantic model (or any type pydantic knows) that the answer must fit; None is plain text.
    ``model`` is a name, a `Model`, or ``"auto"``: the configured model, else Claude when the environment offers it,
    else ``function``, a Python function of the conversation that does the work without a language model.
    ``delegates`` are members it may ask, several at once if it likes: each is a tool that takes a task. ``handoffs``
    are members it may give all of its work to: their output becomes its own, so it must be of the same type.
    """

    def __init__(
        self,
        name: str,
        *,
        prompt: str | Path,
        description: str = "",
        model: str | Model = "auto",
        function: Function | None = None,
        output: type[Any] | None = None,
        tools: Sequence[Toolset] = (),
        delegates: Sequence[Member] = (),
        handoffs: Sequence[Member] = (),
        max_tokens: int = 4096,
        max_turns: int = 50,
        max_result: int = 20_000,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"an agent cannot be named {name!r}", hint="Letters, digits, - and _, a letter first.")
        self.name = name
        self.model = model
        self.function = function
        self.output = None if output is str else output
        self.tools = tuple(tools)
        self.delegates = tuple(delegates)
        self.handoffs = tuple(handoffs)
        self.max_tokens = max_tokens
        self.max_turns = max_turns
        self.max_result = max_result
        """Characters of a tool's result that the model sees; a longer one is kept whole as an artifact."""
        self._prompt = prompt
        self._description = description

    def __repr__(self) -> str:
        return f"Agent({self.name!r})"

    @cached_property
    def prompt(self) -> str:
        """The instructions, from the file where a path was given."""
        if isinstance(self._prompt, str):
            return self._prompt
        try:
            return self._prompt.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the prompt of {self.name} cannot be read: {self._prompt}: {error}") from None

    @cached_property
    def prompt_hash(self) -> str:
        """The first 12 hex digits of the prompt's sha256."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:12]

    @property
    def description(self) -> str:
        return self._description or self.prompt.split("\n", 1)[0][:200]

    @cached_property
    def adapter(self) -> TypeAdapter[Any] | None:
        return None if self.output is None else TypeAdapter(self.output)

    @cached_property
    def output_schema(self) -> dict[str, Any] | None:
        """JSON Schema of the output; objects are closed, as structured output demands."""
        return None if self.adapter is None else _closed(self.adapter.json_schema())

    @property
    def input_schema(self) -> Mapping[str, Any]:
        return TASK_SCHEMA

    def task(self, arguments: Mapping[str, Any]) -> str:
        return arguments["task"]

    def revive(self, value: str) -> Any:
        """The output from the text of the answer, as the journal keeps it."""
        return value if self.adapter is None else self.adapter.validate_json(value)

    async def run(self, task: str, scope: Scope) -> Done | Waiting:
        from .loop import Loop

        return await Loop(self, scope).run(task)


def _closed(schema: Any) -> Any:
    """Every object schema with named properties, closed to others."""
    if isinstance(schema, list):
        return [_closed(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in cast("dict[str, Any]", schema).items()}
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed
