"""What starting, answering, resuming and cancelling need of an engine.

A run's row says all about it: an engine only brings a process to it. Everything here may be called twice, or get lost
on the way; the engine looks by itself, now and then, for runs that somebody should execute.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from ..records import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What an engine is told of a run: its id, and labels to sort it by. Never its input, state or prompts."""

    run: str
    workflow: str
    tenant: str
    """The principal's tenant, or a hash that stands for a principal who has none."""

    @classmethod
    def of(cls, record: RunRecord) -> Ticket:
        tenant = record.principal.tenant or sha256(record.principal.key.encode()).hexdigest()[:16]
        return cls(run=record.id, workflow=record.workflow, tenant=tenant[:64])


class Engine(Protocol):
    @property
    def elsewhere(self) -> bool:
        """Whether runs are executed by other processes than those that start, answer and resume them."""
        ...

    async def ready(self) -> None:
        """Raise `Unreachable` where runs could not be handed over now."""
        ...

    async def start(self, ticket: Ticket) -> None:
        """Have a run executed that nobody executes. Starting it twice is starting it once."""
        ...

    async def wake(self, ticket: Ticket) -> None:
        """A question of the run was answered, or it is to be resumed: have it go on."""
        ...

    async def cancel(self, ticket: Ticket) -> None:
        """The end of the run was asked for in its row: tell whoever executes it."""
        ...

    async def close(self) -> None: ...
