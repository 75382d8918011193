"""Setting fields of the state at a superstep: one more checkpoint, as LangGraph itself would go on from it.

A field is replaced, whatever its reducer. Then the edges of the nodes that ran in the superstep are followed again, on
the edited state, so that what runs next is what would have run. Where the edges alone do not explain what came next (a
node chose it with `Command(goto=…)`), it is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_type_hints

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate, LastValue
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    copy_checkpoint,
)
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import TASKS
from langgraph.types import StateUpdate
from pydantic import TypeAdapter, ValidationError

from retinue.errors import InvalidInput, NodeFailed, UsageError

from .timeline import EDITED, due
from .workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A checkpoint to be stored, as a saver is given it."""

    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    versions: ChannelVersions
    """Of the channels whose values are new."""


class _Sheet(BaseCheckpointSaver[float]):
    """A saver that holds one checkpoint, and what is put on it."""

    def __init__(self, stored: CheckpointTuple, saver: BaseCheckpointSaver[float]) -> None:
        super().__init__(serde=saver.serde)
        self._stored = stored
        self._saver = saver
        self.put_: Edit | None = None

    def get_next_version(self, current: float | None, channel: None) -> float:
        return self._saver.get_next_version(current, channel)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._stored._replace(checkpoint=copy_checkpoint(self._stored.checkpoint))

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        yield self._stored

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        self.put_ = Edit(checkpoint=checkpoint, metadata=metadata, versions=new_versions)
        places = dict(config.get("configurable", {}))
        return {"configurable": places | {"checkpoint_ns": "", "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Writes of the edges are in the checkpoint that follows."""


async def edit(
    workflow: Workflow,
    saver: BaseCheckpointSaver[float],
    stored: CheckpointTuple,
    nodes: Sequence[str],
    changes: Mapping[str, Any],
) -> Edit:
    """The checkpoint after ``stored``, in which ``nodes`` ran, with the fields of ``changes`` set.

    Raises `UsageError` for a field that is none or cannot be set, `InvalidInput` for a value of another type,
    `NodeFailed` for an edge that fails on the edited state.
    """
    typed = _typed(workflow, stored.checkpoint["channel_values"], changes)
    checkpoint = copy_checkpoint(stored.checkpoint)
    checkpoint["channel_values"] = {**checkpoint["channel_values"], **typed}
    top = max(checkpoint["channel_versions"].values(), default=None)
    versions = {name: saver.get_next_version(cast("float | None", top), None) for name in typed}
    checkpoint["channel_versions"] = {**checkpoint["channel_versions"], **versions}
    edited = stored._replace(checkpoint=checkpoint, pending_writes=[])
    ran = sorted(set(nodes))
    if await _explained(workflow, saver, stored, ran):
        try:
            result = await _routed(workflow, saver, edited, ran)
        except Exception as error:
            kind = type(error).__name__
            raise NodeFailed(f"the edges after {', '.join(ran)} fail on the edited state: {kind}: {error}") from error
    else:
        result = _kept(edited, typed)
    metadata = cast(CheckpointMetadata, {**result.metadata, EDITED: ran})
    return Edit(checkpoint=result.checkpoint, metadata=metadata, versions={**versions, **result.versions})


async def _explained(
    workflow: Workflow, saver: BaseCheckpointSaver[float], stored: CheckpointTuple, ran: Sequence[str]
) -> bool:
    """Whether the edges of the nodes that ran lead, on the state as it was, to what came next."""
    try:
        again = await _routed(workflow, saver, stored._replace(pending_writes=[]), ran)
    except Exception:
        return False
    return _next(again.checkpoint) == _next(stored.checkpoint)


def _next(checkpoint: Checkpoint) -> tuple[list[str], list[Any]]:
    values, versions = checkpoint["channel_values"], cast("dict[str, float]", checkpoint["channel_versions"])
    seen = cast("dict[str, dict[str, float]]", checkpoint["versions_seen"])
    return due(values, versions, seen), list(values.get(TASKS) or [])


async def _routed(
    workflow: Workflow, saver: BaseCheckpointSaver[float], stored: CheckpointTuple, ran: Sequence[str]
) -> Edit:
    sheet = _Sheet(stored, saver)
    graph = cast(Any, workflow.graph.compile(checkpointer=sheet))
    config = {"configurable": {"thread_id": "edit", "checkpoint_ns": ""}}
    await graph.abulk_update_state(config, [[StateUpdate({}, node) for node in ran]])
    assert sheet.put_ is not None
    return sheet.put_


def _kept(stored: CheckpointTuple, typed: Mapping[str, Any]) -> Edit:
    """The same checkpoint under a new id: what it leads to is in it."""
    checkpoint = copy_checkpoint(stored.checkpoint)
    checkpoint["id"] = str(uuid6(clock_seq=-2))
    if (updated := checkpoint.get("updated_channels")) is not None:
        checkpoint["updated_channels"] = sorted({*updated, *typed})
    step = cast("dict[str, Any]", stored.metadata).get("step", -1) + 1
    metadata = cast(CheckpointMetadata, {**stored.metadata, "source": "update", "step": step})
    return Edit(checkpoint=checkpoint, metadata=metadata, versions={})


def is_text(workflow: Workflow, name: str, *, of_input: bool = False) -> bool:
    """Whether a field takes text, so that what looks like JSON is meant as it is written."""
    schema = workflow.input_type if of_input else workflow.graph.state_schema
    return get_type_hints(schema).get(name) in (str, str | None)


def _typed(workflow: Workflow, values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(workflow.graph.state_schema, include_extras=True)
    data: dict[str, Any] = {}
    for place, value in changes.items():
        name, *inner = place.split(".")
        if name not in hints:
            raise UsageError(f"the state of {workflow.name} has no field {name!r}", hint=f"It has {', '.join(hints)}.")
        if not isinstance(workflow.graph.channels.get(name), (LastValue, BinaryOperatorAggregate)):
            raise UsageError(f"the field {name!r} of {workflow.name} cannot be set: it is kept as changes to it")
        if not inner:
            data[name] = value
            continue
        if name not in data:
            data[name] = TypeAdapter[Any](hints[name]).dump_python(values.get(name), mode="json")
        _put(data[name], place, inner, value)
    typed: dict[str, Any] = {}
    for name, value in data.items():
        try:
            typed[name] = TypeAdapter[Any](hints[name]).validate_json(orjson.dumps(value))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, (name, *first["loc"])))
            raise InvalidInput(f"the state of {workflow.name} cannot be set so: {where}: {first['msg']}") from None
    return typed


def _put(data: Any, place: str, inner: Sequence[str], value: Any) -> None:
    for n, part in enumerate(inner):
        key = int(part) if isinstance(data, list) and part.isdecimal() else part
        if not isinstance(data, (dict, list)) or (isinstance(data, list) and key not in range(len(cast(Any, data)))):
            raise UsageError(f"there is no {place} in the state: there is no {part!r} to be set")
        if n == len(inner) - 1:
            cast(Any, data)[key] = value
        else:
            data = cast(Any, data).get(key) if isinstance(data, dict) else cast(Any, data)[key]
