"""What an agent's loop asks of the run that executes it: its facts, one way to commit, a budget, people.

The loop decides; the scope keeps. Everything that a commit holds becomes true at once or not at all, and only while
this process owns the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from .budget import Spend
from .models.base import Model
from .tools.base import Tool

T = TypeVar("T")

QuestionKind = Literal["approval", "in_doubt", "choice", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that followers are told: an event's type and body, without run, number and time."""

    type: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question for a person, kept under ``key`` beside the facts of its path."""

    key: str
    kind: QuestionKind
    title: str
    body: Mapping[str, Any]
    """What the person is shown; what they decide on is exactly this."""
    schema: Mapping[str, Any]
    """JSON Schema of the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a person said, or that nobody did in time."""

    status: Literal["answered", "expired"]
    value: Any = None
    by: str = ""
    about: str = ""
    """The ``hash`` in the question's body: what the answer was given for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What remains of a budget; None is no limit."""

    tokens: int | None = None
    micro_usd: int | None = None
    turns: int | None = None


@dataclass(slots=True, kw_only=True)
class Commit:
    """Facts and what goes with them, in one transaction."""

    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: list[Note] = field(default_factory=list[Note])
    asks: list[Ask] = field(default_factory=list[Ask])
    artifacts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """By sha256; text in UTF-8."""
    audit: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list[tuple[str, Mapping[str, Any]]])
    """(action, body): hashes of content, never content."""
    settle: tuple[Spend, Spend] | None = None
    """(reserved, spent): the reservation of a call that has ended, and what it really cost."""


class Scope(Protocol):
    """One member at work on one path of one run."""

    @property
    def run(self) -> str: ...

    @property
    def path(self) -> str:
        """Journal path, e.g. ``scout[2]@3``."""
        ...

    @property
    def depth(self) -> int:
        """How many members stand between the graph's node and this one."""
        ...

    @property
    def max_depth(self) -> int: ...

    async def child(self, name: str) -> Scope:
        """The scope of a member that the one here runs, on the path ``path/name``."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """The committed facts under this path, those of earlier executions included."""
        ...

    @property
    def answers(self) -> Mapping[str, Answer]:
        """Closed questions of this path by key. A question that is asked and not here is open."""
        ...

    @property
    def open_questions(self) -> Mapping[str, str]:
        """Key to id of the questions of this path that wait for a person."""
        ...

    async def commit(self, commit: Commit, *, flush: bool = False) -> None:
        """Make it true. Raises `LeaseLost`, `BudgetExceeded`, `RunCancelled`, `DatabaseError`."""
        ...

    async def reserve(self, fit: Callable[[Left], Spend], commit: Commit) -> Spend:
        """Commit together with a reservation that fits into what is left, and return it.

        ``fit`` is told what is left and returns the reservation, or raises `BudgetExceeded`. Waits, and asks it again,
        while reservations of calls in flight beside this one may still come back.
        """
        ...

    def forfeit(self) -> None:
        """A reserved call ended without a reply: the reservation counts as spent."""
        ...

    def tell(self, note: Note) -> None:
        """Tell followers something that is not kept (text as it comes, progress)."""
        ...

    @property
    def followed(self) -> bool:
        """Whether anyone follows text as it comes."""
        ...

    @property
    def deadline(self) -> float | None:
        """When the run's seconds end, on the clock of ``time.monotonic()``."""
        ...

    def finish_in_flight(self, work: Awaitable[T]) -> Awaitable[T]:
        """Await a call that should not be broken off because a sibling failed; cancelling the run still does."""
        ...

    def preapproved(self, server: str, tool: str) -> str | None:
        """The rule given at the start of the run under which this call needs no question, if any."""
        ...

    def model(self, agent: Any) -> Model: ...

    def tools(self, agent: Any) -> Sequence[Tool]: ...

    async def artifact(self, sha256: str) -> bytes | None:
        """The body of an artifact of this run, by its hash or the beginning of it."""
        ...
