"""What an agent, a remote agent and a workflow have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .scope import Scope


@dataclass(frozen=True, slots=True)
class Done:
    """The member's output: text, or a value of its output type; and the text that it is read from."""

    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Questions are open; running the member again after their answers goes on from here."""

    questions: tuple[str, ...]


class Member(Protocol):
    """Something that takes a task and gives an output: a graph node, a delegate, a tool, a command."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def output(self) -> type[Any] | None:
        """The type of its output; None is text."""
        ...

    @property
    def input_schema(self) -> Mapping[str, Any]:
        """JSON Schema of what another agent gives it."""
        ...

    def task(self, arguments: Mapping[str, Any]) -> str:
        """The task that such arguments stand for."""
        ...

    async def run(self, task: str, scope: Scope) -> Done | Waiting: ...

    def revive(self, value: Any) -> Any:
        """The output from its JSON form, as the journal keeps it."""
        ...
