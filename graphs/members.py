"""A workflow as a member of another: a run of its own, under the lease and the budget of the run that made it.

Its id follows from the journal path that made it, so entering the path again finds the same run. It is never a
subgraph: LangGraph tells two subgraphs in one node apart by the order of their calls, which a resume may change.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, cast

import orjson

from retinue import errors
from retinue.errors import InvalidInput, RetinueError, RunError, RunExists

from ..agents.member import Done, Waiting
from ..agents.scope import Scope
from . import records
from .drive import Outcome
from .execution import Execution
from .journal import Path
from .records import TERMINAL
from .workflow import Workflow

NAMESPACE = uuid.UUID("6f1f4f0e-6f0b-5c55-9c33-1f5f0a7e6f52")


async def run_member(workflow: Workflow, task: str, scope: Scope) -> Done | Waiting:
    """Run the workflow for the member at ``scope``, or go on with its run."""
    parent = cast(Path, scope).execution
    id_ = uuid.uuid5(NAMESPACE, f"{parent.run}|{scope.path}").hex
    outcome = await _outcome(workflow, task, parent, id_)
    match outcome.status:
        case "waiting":
            return Waiting(outcome.questions)
        case "done":
            text = orjson.dumps(outcome.output).decode()
            return Done(workflow.revive(text), text)
        case "stopped":
            raise asyncio.CancelledError  # the parent is being broken off; it says why
        case _:
            assert outcome.error is not None
            raise outcome.error


async def _outcome(workflow: Workflow, task: str, parent: Execution, id_: str) -> Outcome:
    runs = parent.runs
    rows = await parent.db.read(lambda tx: tx.all("SELECT id FROM runs WHERE id = ?", (id_,)))
    if not rows:
        settings = {"approve": list(parent.preapproved)}
        execution = await runs.start(
            workflow, _input(workflow, task), principal=parent.principal, equipment=parent.equipment,
            settings=settings, run=id_, parent=parent,
        )  # fmt: skip
        return await runs.execute(execution)
    record = await parent.db.read(lambda tx: records.get(tx, id_))
    if record.root != parent.account.lease.run:  # the id can be told by who knows the parent's; only we make such runs
        raise RunExists(f"run {id_[:8]} is there already, and not as a part of run {parent.run[:8]}")
    if record.status in TERMINAL:
        error = None if record.error is None else _error(dict(record.error))
        return Outcome(run=id_, status=record.status, output=record.output, error=error)
    return await runs.execute(await runs.resume(record, workflow, parent.equipment, parent=parent))


def _input(workflow: Workflow, task: str) -> Any:
    """Text for a workflow that takes one, else the JSON of its input."""
    if not task.lstrip().startswith("{"):
        return task
    try:
        data = orjson.loads(task)
        workflow.read_input(data)
    except (orjson.JSONDecodeError, InvalidInput):
        return task
    return data


def _error(body: dict[str, Any]) -> RetinueError:
    """The error of a run that ended earlier, from what its row says."""
    kinds = {
        kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RetinueError)
    }
    return kinds.get(body["code"], RunError)(body["message"], hint=body["hint"])
