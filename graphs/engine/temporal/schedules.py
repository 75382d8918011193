"""Schedules: the database says what is run, Temporal says when. Only a schedule's name travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import Any

import orjson
from temporalio.client import (
    Schedule as TemporalSchedule,
)
from temporalio.client import (
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleSpec,
)
from temporalio.service import RPCError, RPCStatusCode

from retinue import audit
from retinue.database.base import Database, Row, Transaction
from retinue.errors import RunExists, Unreachable, UsageError

from ....agents.budget import Budget
from ....auth.principal import Principal
from ... import records
from ...events import timestamp
from ...records import RunRecord
from ...workflow import Workflow
from ..queue import insert
from .engine import RPC, TemporalEngine
from .flow import ScheduleFlow

_COLUMNS = "name, workflow, input, settings, budget, principal, times, created_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """``times`` is a cron expression of five fields, in UTC, or ``every N`` seconds."""

    name: str
    workflow: str
    input: dict[str, Any]
    settings: dict[str, Any]
    budget: Budget
    principal: Principal
    times: str
    created_at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "schedule": self.name,
            "workflow": self.workflow,
            "input": self.input,
            "times": self.times,
            "created_at": timestamp(self.created_at),
        }


def _schedule(row: Row) -> Schedule:
    name, workflow, input_, settings, budget, principal, times, created = row
    return Schedule(
        name=name,
        workflow=workflow,
        input=orjson.loads(input_),
        settings=orjson.loads(settings),
        budget=Budget(**orjson.loads(budget)),
        principal=Principal.from_json(orjson.loads(principal)),
        times=times,
        created_at=created,
    )


async def add(
    db: Database,
    engine: TemporalEngine,
    workflow: Workflow,
    input: Any,  # noqa: A002
    *,
    name: str,
    times: str,
    settings: Mapping[str, Any],
    budget: Budget,
    principal: Principal,
) -> Schedule:
    """Have a workflow run again and again. Raises `InvalidInput`, `UsageError`, `Unreachable`, `DatabaseError`."""
    made = Schedule(
        name=name, workflow=workflow.name, input=workflow.read_input(input), settings=dict(settings), budget=budget,
        principal=principal, times=times,
    )  # fmt: skip
    spec = _spec(times)
    client = await engine.client()

    def work(tx: Transaction) -> None:
        inserted = tx.execute(
            f"INSERT INTO schedules ({_COLUMNS}, subject) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
            "ON CONFLICT (name) DO NOTHING",
            (
                name, made.workflow, _json(made.input), _json(made.settings), _json(budget.to_json()),
                _json(principal.to_json()), times, tx.now, principal.key,
            ),
        )  # fmt: skip
        if not inserted:
            raise _taken(name)
        about = {"schedule": name, "workflow": made.workflow, "input": audit.digest(made.input)}
        audit.append(tx, actor=principal.key, action="schedule.added", body=about)

    await db.write(work)
    action = ScheduleActionStartWorkflow(
        ScheduleFlow.run, name, id=f"retinue-schedule-{name}", task_queue=engine.address.queue
    )
    try:
        await client.create_schedule(_id(name), TemporalSchedule(action=action, spec=spec), rpc_timeout=RPC)
    except (RPCError, ScheduleAlreadyRunningError) as error:
        await db.write(lambda tx: tx.execute("DELETE FROM schedules WHERE name = ?", (name,)))
        if isinstance(error, ScheduleAlreadyRunningError):
            raise _taken(name) from None
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            raise UsageError(f"{times!r} is no schedule: {error.message}") from None
        raise Unreachable(f"Temporal did not take the schedule: {error.status.name}") from None
    return made


async def every(db: Database, *, subject: str) -> list[Schedule]:
    sql = f"SELECT {_COLUMNS} FROM schedules WHERE subject = ? ORDER BY name"  # noqa: S608
    return [_schedule(row) for row in await db.read(lambda tx: tx.all(sql, (subject,)))]


async def remove(db: Database, engine: TemporalEngine, name: str, *, principal: Principal) -> None:
    """Runs that it has made go on. Raises `UsageError` where there is none of this name."""
    sql = "SELECT 1 FROM schedules WHERE name = ? AND subject = ?"
    if await db.read(lambda tx: tx.one(sql, (name, principal.key))) is None:
        raise UsageError(f"there is no schedule {name}", hint="`retinue schedule list` shows them.")
    client = await engine.client()
    try:
        await client.get_schedule_handle(_id(name)).delete(rpc_timeout=RPC)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise Unreachable(f"Temporal did not remove the schedule: {error.status.name}") from None

    def work(tx: Transaction) -> None:
        tx.execute("DELETE FROM schedules WHERE name = ?", (name,))
        audit.append(tx, actor=principal.key, action="schedule.removed", body={"schedule": name})

    await db.write(work)


async def make(db: Database, name: str, execution: str) -> RunRecord:
    """The run of one execution of a schedule; made once, however often this is called."""
    id_ = sha256(execution.encode()).hexdigest()[:32]

    def work(tx: Transaction) -> RunRecord:
        row = tx.one(f"SELECT {_COLUMNS} FROM schedules WHERE name = ?", (name,))  # noqa: S608
        if row is None:
            raise UsageError(f"there is no schedule {name}")
        found = _schedule(row)
        insert(
            tx, id_, workflow=found.workflow, input=found.input, principal=found.principal, settings=found.settings,
            budget=found.budget,
        )  # fmt: skip
        return records.get(tx, id_)

    try:
        return await db.write(work)
    except RunExists:
        return await db.read(lambda tx: records.get(tx, id_))


def _spec(times: str) -> ScheduleSpec:
    if times.startswith("every "):
        return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=float(times[6:])))])
    if len(times.split()) != 5:
        raise UsageError(f"{times!r} is no cron expression", hint="Five fields: minute, hour, day, month, weekday.")
    return ScheduleSpec(cron_expressions=[times])


def _id(name: str) -> str:
    return f"retinue-{name}"


def _taken(name: str) -> UsageError:
    return UsageError(f"there is a schedule {name} already", hint="`retinue schedule remove` removes it.")


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
