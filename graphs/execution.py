"""One execution of a run by this process: what its steps, its saver and its keeper share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from retinue.database.base import Database

from ..agents.budget import Budget
from ..agents.equipment import Equipment
from ..auth.principal import Principal
from .follow import Bus
from .lease import Lease

if TYPE_CHECKING:
    from .drive import Outcome
    from .journal import Path
    from .runs import Runs
    from .workflow import Workflow

Ending = Literal["stop", "cancel", "lost", "time"]
"""Why an execution is broken off: its operator, a request to cancel, a lost lease, the budget's seconds."""


@dataclass(slots=True, kw_only=True, eq=False)
class Account:
    """One budget at work: that of a run, and of all runs that its members make."""

    lease: Lease
    """The lease of the run that the budget belongs to."""
    budget: Budget
    active_before: float
    began: float = field(default_factory=time.monotonic)
    in_flight: int = 0
    """Reservations that are not settled yet."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced by a new one, whenever a reservation comes back."""

    @property
    def active(self) -> float:
        """Seconds of execution so far, earlier ones included."""
        return self.active_before + time.monotonic() - self.began

    @property
    def deadline(self) -> float | None:
        """When the budget's seconds end, on the monotonic clock."""
        return None if self.budget.seconds is None else self.began + self.budget.seconds - self.active_before

    def came_back(self) -> None:
        """A reservation is settled or forfeited: those that wait for room may look again."""
        self.in_flight -= 1
        settled, self.settled = self.settled, asyncio.Event()
        settled.set()


@dataclass(slots=True, kw_only=True, eq=False)
class Execution:
    run: str
    workflow: Workflow
    db: Database
    bus: Bus
    lease: Lease
    principal: Principal
    equipment: Equipment
    account: Account
    preapproved: Sequence[str]
    active_before: float
    runs: Runs
    traceparent: str | None = None
    """The trace that the run began in: a resume is a new trace and links to it."""
    parent: Execution | None = None
    """The execution of the run whose member this run is."""
    depth: int = 0
    input: dict[str, Any] | None = None
    """Set for a run that was made by this process a moment ago: there is nothing to replay."""
    began: float = field(default_factory=time.monotonic)
    ending: Ending | None = None
    task: asyncio.Task[Any] | None = None
    """The task that runs the graph, while it may be broken off."""
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nothing of this execution is worth waiting for any more."""
    outcome: Outcome | None = None
    """Set once the run has been let go of."""
    paths: dict[str, Path | None] = field(default_factory=dict[str, "Path | None"])
    """Members at work by journal path; None for one that is done, whose facts need not stay in memory."""
    children: set[Execution] = field(default_factory=set["Execution"])

    @property
    def fresh(self) -> bool:
        return self.input is not None

    @property
    def active(self) -> float:
        """Seconds of execution so far, earlier ones included."""
        return self.active_before + time.monotonic() - self.began

    def end(self, why: Ending) -> None:
        """Break the execution off. The first reason stands."""
        if self.ending is None:
            self.ending = why
            if self.task is not None:
                self.task.cancel()
        if why != "stop":
            self.broken.set()
        for child in self.children:
            child.end(why)


current: ContextVar[Execution] = ContextVar("retinue_execution")
"""The execution that the running code belongs to; LangGraph copies the context into each task."""
