"""LangGraph's checkpoints in Retinue's database.

One transaction a superstep and one for the writes of each finished task, fenced: both happen whole or not at all, and
never after the lease is lost. A channel's value is stored once for each version, so a step that leaves it alone costs
nothing. The head of a thread is the checkpoint that was written last, not the one whose id is greatest: ids hold the
time, and clocks are set back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple, NoReturn, cast

import orjson
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import ERROR

from retinue.database.base import Database, Row, Transaction
from retinue.errors import NotSerializable, UsageError

from . import checkpoint_upkeep as upkeep
from .serializer import StateSerializer, serializer_for

__all__ = ["Checkpoints", "StateSerializer", "serializer_for"]

_BATCH = 50  # checkpoints read at a time while listing

_PUT = """
    INSERT INTO checkpoints (thread, ns, id, seq, parent, type, body, metadata, run)
    VALUES (?, ?, ?, (SELECT coalesce(max(seq), 0) + 1 FROM checkpoints WHERE thread = ? AND ns = ?), ?, ?, ?, ?, ?)
    ON CONFLICT (thread, ns, id) DO UPDATE SET
        parent = excluded.parent, type = excluded.type, body = excluded.body,
        metadata = excluded.metadata, run = excluded.run
"""
_PUT_VALUE = """
    INSERT INTO checkpoint_values (thread, ns, channel, version, type, body) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (thread, ns, channel, version) DO UPDATE SET type = excluded.type, body = excluded.body
"""
_PUT_WRITE = """
    INSERT INTO checkpoint_writes (thread, ns, checkpoint, task, idx, channel, type, body, path)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (thread, ns, checkpoint, task, idx) DO
"""
_KEEP_WRITE = _PUT_WRITE + "NOTHING"
_REPLACE_WRITE = _PUT_WRITE + "UPDATE SET channel = excluded.channel, type = excluded.type, body = excluded.body"
_CHECKPOINT = "SELECT thread, ns, id, parent, type, body, metadata FROM checkpoints WHERE thread = ? AND ns = ? "
_GET = _CHECKPOINT + "AND id = ?"
_GET_HEAD = _CHECKPOINT + "ORDER BY seq DESC LIMIT 1"
_GET_VALUE = "SELECT type, body FROM checkpoint_values WHERE thread = ? AND ns = ? AND channel = ? AND version = ?"
_GET_WRITES = """
    SELECT task, channel, type, body, path, idx FROM checkpoint_writes WHERE thread = ? AND ns = ? AND checkpoint = ?
"""


class _Stored(NamedTuple):
    """One checkpoint as it lies in the database, everything fetched, only its frame decoded."""

    row: Row
    frame: dict[str, Any]
    values: list[Row]
    writes: list[Row]


class Checkpoints(BaseCheckpointSaver[float]):
    """A LangGraph checkpoint saver on a `Database`. Asynchronous only.

    ``fence(transaction, thread)`` is called first in every transaction that writes and raises when the thread is no
    longer this process's (`LeaseLost`); None where nothing executes. ``serde`` is usually `serializer_for` the
    workflow's state; without one, only plain data can be kept.

    Versions are floats: the whole part counts supersteps, the fraction is random. Two branches of one thread that reach
    the same superstep would share a whole number, and with it one stored value; they cannot share the fraction. A
    text version does the same in five times the bytes, in every checkpoint, for every channel and node.
    """

    def __init__(
        self,
        db: Database,
        *,
        fence: Callable[[Transaction, str], None] | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde or serializer_for())
        self._db = db
        self._fence = fence

    def get_next_version(self, current: float | None, channel: None) -> float:
        return int(current or 0) + 1 + random.random()  # noqa: S311  # tells branches apart, hides nothing

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Checkpoints:
        """Itself: the serializer is closed already, whatever LangGraph's environment switch says."""
        return self

    # Writing

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint with the values of the channels in ``new_versions``, in one transaction.

        Raises `NotSerializable`, which names the channel and the class, before anything is written.
        """
        thread, ns, _ = _place(config)
        store = self.storing(config, checkpoint, metadata, new_versions)
        fence = self._fence

        def put(tx: Transaction) -> None:
            if fence is not None:
                fence(tx, thread)
            else:
                tx.lock(f"thread {thread}")  # for the order of writing
            store(tx)

        await self._db.write(put)
        return _config(thread, ns, checkpoint["id"])

    def storing(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Callable[[Transaction], None]:
        """What `aput` writes, for a transaction of the caller's own, who answers for the fence. Raises as it does."""
        thread, ns, parent = _place(config)
        body = cast(dict[str, Any], checkpoint.copy())
        values = body.pop("channel_values")
        dumps = self._dumps
        rows = [
            (thread, ns, channel, version, *dumps(channel, values[channel]))
            for channel, version in new_versions.items()
            if channel in values  # a channel that was emptied has a version and no value
        ]
        known = get_checkpoint_metadata(config, metadata)
        row = (
            *(thread, ns, checkpoint["id"], thread, ns, parent),
            *self.serde.dumps_typed(body),
            _json(known),
            known.get("run_id"),
        )

        def store(tx: Transaction) -> None:
            if rows:
                tx.executemany(_PUT_VALUE, rows)
            tx.executemany(_PUT, [row])

        return store

    def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> CoroutineType[Any, Any, None]:
        """Store what a task has written, in one transaction.

        A task's ordinary writes are kept as first stored; its error, interrupt and resume are replaced.

        Begun by the call, not by the await: where ``max_concurrency`` bounds a fan-out, LangGraph lets the writes of a
        node that is done wait for a turn behind every node that is not, and a crash would lose them all.
        """
        task = asyncio.ensure_future(self._put_writes(config, writes, task_id, task_path))
        task.add_done_callback(_looked_at)
        return _ended(task)

    async def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> None:
        thread, ns, checkpoint = _place(config)
        ordinary: list[Row] = []
        special: list[Row] = []
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            if channel == ERROR and isinstance(value, BaseException):
                value = repr(value)
            row = (thread, ns, checkpoint, task_id, idx, channel, *self._dumps(channel, value), task_path)
            (special if idx < 0 else ordinary).append(row)
        fence = self._fence

        def put(tx: Transaction) -> None:
            if fence is not None:
                fence(tx, thread)
            if ordinary:
                tx.executemany(_KEEP_WRITE, ordinary)
            if special:
                tx.executemany(_REPLACE_WRITE, special)

        await self._db.write(put)

    def _dumps(self, channel: str, value: Any) -> tuple[str, bytes]:
        try:
            return self.serde.dumps_typed(value)
        except NotSerializable as error:
            raise NotSerializable(
                f"{channel!r} cannot be kept in a checkpoint: {error.message}",
                hint=error.hint,
                **{**error.details, "channel": channel},
            ) from None

    # Reading

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that ``config`` names, else the newest of its thread and namespace."""
        thread, ns, checkpoint = _place(config)

        def get(tx: Transaction) -> _Stored | None:
            row = tx.one(_GET, (thread, ns, checkpoint)) if checkpoint else tx.one(_GET_HEAD, (thread, ns))
            return None if row is None else self._fetch(tx, row)

        stored = await self._db.read(get)
        return None if stored is None else self._tuple(stored)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Newest first. Each batch is read whole; a checkpoint that is removed meanwhile is left out."""
        wanted = filter or {}
        found = await self._db.read(lambda tx: _find(tx, config, before))
        keys = [row[:3] for row in found if not wanted or _matches(orjson.loads(row[3]), wanted)]
        keys = keys if limit is None else keys[: max(limit, 0)]
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            for stored in await self._db.read(partial(self._fetch_all, keys=batch)):
                yield self._tuple(stored)

    def _fetch_all(self, tx: Transaction, keys: Iterable[Row]) -> list[_Stored]:
        return [self._fetch(tx, row) for key in keys if (row := tx.one(_GET, key)) is not None]

    def _fetch(self, tx: Transaction, row: Row) -> _Stored:
        thread, ns, checkpoint, _, kind, body, _ = row
        frame = self.serde.loads_typed((kind, body))
        values: list[Row] = []
        for channel, version in frame["channel_versions"].items():
            if (value := tx.one(_GET_VALUE, (thread, ns, channel, version))) is not None:
                values.append((channel, *value))
        writes = tx.all(_GET_WRITES, (thread, ns, checkpoint))
        writes.sort(key=lambda write: writes_sort_key(write[4], write[0], write[5]))
        return _Stored(row, frame, values, writes)

    def _tuple(self, stored: _Stored) -> CheckpointTuple:
        loads = self.serde.loads_typed
        thread, ns, checkpoint, parent, _, _, metadata = stored.row
        values = {channel: loads((kind, body)) for channel, kind, body in stored.values}
        return CheckpointTuple(
            config=_config(thread, ns, checkpoint),
            checkpoint=cast(Checkpoint, {**stored.frame, "channel_values": values}),
            metadata=orjson.loads(metadata),
            parent_config=_config(thread, ns, parent) if parent else None,
            pending_writes=[(task, channel, loads((kind, body))) for task, channel, kind, body, *_ in stored.writes],
        )

    # Upkeep

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread with all its namespaces."""
        await self._upkeep(thread_id, lambda tx: upkeep.delete_thread(tx, thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints that LangGraph made under these ``run_id`` values, with their writes."""

        def delete(tx: Transaction) -> None:
            threads = upkeep.threads_of(tx, run_ids)
            for thread in threads:
                self._check(tx, thread)
                upkeep.delete_runs(tx, thread, run_ids, self._versions)

        await self._db.write(delete)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy every checkpoint, value and write to a thread that has none. Raises `UsageError` if it has."""
        await self._upkeep(target_thread_id, lambda tx: upkeep.copy_thread(tx, source_thread_id, target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep each namespace's newest checkpoint (``keep_latest``) or nothing (``delete``), a transaction a thread.

        Ancestors from which a `DeltaChannel` of the newest checkpoint is rebuilt stay too.
        """
        if strategy not in ("keep_latest", "delete"):
            raise UsageError(f"there is no prune strategy {strategy!r}", hint="Use 'keep_latest' or 'delete'.")
        for thread in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread)
            else:
                await self._upkeep(thread, partial(upkeep.keep_latest, thread=thread, versions=self._versions))

    async def _upkeep(self, thread: str, work: Callable[[Transaction], None]) -> None:
        def run(tx: Transaction) -> None:
            self._check(tx, thread)
            work(tx)

        await self._db.write(run)

    def _check(self, tx: Transaction, thread: str) -> None:
        if self._fence is not None:
            self._fence(tx, thread)
        else:
            tx.lock(f"thread {thread}")

    def _versions(self, kind: str, body: bytes) -> dict[str, float]:
        return self.serde.loads_typed((kind, body))["channel_versions"]

    # The synchronous half of the interface

    def get_tuple(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def list(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def put(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def put_writes(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def delete_thread(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def delete_for_runs(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def copy_thread(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def prune(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()

    def get_delta_channel_history(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _asynchronous()


async def _ended(task: asyncio.Future[None]) -> None:
    await asyncio.shield(task)


def _looked_at(task: asyncio.Future[None]) -> None:
    """Its error belongs to whoever awaits it, and nobody may."""
    if not task.cancelled():
        task.exception()


def _asynchronous() -> UsageError:
    return UsageError(
        "Retinue keeps checkpoints asynchronously", hint="Use ainvoke, astream, aget_state and aupdate_state."
    )


def _place(config: RunnableConfig) -> tuple[str, str, str | None]:
    """Thread, namespace and checkpoint id of a configuration."""
    places = config.get("configurable", {})
    return str(places["thread_id"]), places.get("checkpoint_ns") or "", places.get("checkpoint_id")


def _config(thread: str, ns: str, checkpoint: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint}}


def _json(metadata: CheckpointMetadata) -> str:
    try:
        return orjson.dumps(metadata).decode()
    except TypeError as error:
        raise NotSerializable(f"the metadata of a checkpoint is not JSON: {error}") from None


def _matches(metadata: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(metadata.get(key) == value for key, value in wanted.items())


def _find(tx: Transaction, config: RunnableConfig | None, before: RunnableConfig | None) -> Sequence[Row]:
    """(thread, ns, id, metadata) of the checkpoints in question, newest first."""
    places = config.get("configurable", {}) if config else {}
    columns = {"thread_id": "thread", "checkpoint_ns": "ns", "checkpoint_id": "id"}
    given = {column: places[name] for name, column in columns.items() if places.get(name) is not None}
    where = [f"{column} = ?" for column in given]
    params: list[Any] = list(given.values())
    limit = _place(before)[2] if before else None
    if limit is not None:
        seq = tx.one("SELECT seq FROM checkpoints WHERE thread = ? AND ns = ? AND id = ?", (*_key(given), limit))
        # A checkpoint of another namespace can only be compared by its id, that is, by the clock.
        where.append("id < ?" if seq is None else "seq < ?")
        params.append(limit if seq is None else seq[0])
    order = "seq DESC" if {"thread", "ns"} <= given.keys() else "id DESC"
    condition = " AND ".join(where) or "1 = 1"
    return tx.all(f"SELECT thread, ns, id, metadata FROM checkpoints WHERE {condition} ORDER BY {order}", params)  # noqa: S608  # column names of ours


def _key(given: dict[str, Any]) -> tuple[Any, Any]:
    return given.get("thread"), given.get("ns", "")
