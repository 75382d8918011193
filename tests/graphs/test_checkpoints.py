"""The checkpoint saver: what it writes, when, and what it refuses."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from importlib import import_module
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import pytest
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
from langgraph.types import Interrupt
from pydantic import BaseModel

from retinue.database.base import Transaction
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import LeaseLost, NotSerializable, UsageError
from retinue.graphs.checkpoints import Checkpoints, serializer_for

pytestmark = pytest.mark.anyio

# LangGraph's generic signatures are partly unknown to a strict type checker.
graphs: Any = import_module("langgraph.graph")
START, END, StateGraph = graphs.START, graphs.END, graphs.StateGraph
DeltaChannel: Any = import_module("langgraph.channels.delta").DeltaChannel

T = TypeVar("T")
NO_DATABASE: Any = None
TABLES = ("checkpoints", "checkpoint_values", "checkpoint_writes")


class Turns(BaseModel):
    count: int = 0
    plain: Annotated[list[str], add] = []


class Counting(SQLiteDatabase):
    """Counts the transactions that write."""

    writes = 0

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        self.writes += 1
        return await super().write(work, flush=flush)


@pytest.fixture(params=["memory", "file"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Counting]:
    opened = await Counting.open(":memory:" if request.param == "memory" else tmp_path / "runs.db")
    assert isinstance(opened, Counting)
    yield opened
    await opened.close()


def at(checkpoint: str | None = None, thread: str = "t", ns: str = "") -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": checkpoint}}


def checkpoint(versions: dict[str, float] | None = None, **values: Any) -> Checkpoint:
    made = empty_checkpoint()
    made["channel_values"] = values
    made["channel_versions"] = dict(versions or dict.fromkeys(values, 1.5))
    return made


async def count(database: SQLiteDatabase, table: str) -> int:
    return await database.read(lambda tx: tx.all(f"SELECT count(*) FROM {table}")[0][0])


async def put(saver: Checkpoints, parent: str | None = None, *, thread: str = "t", ns: str = "", **values: Any) -> str:
    made = checkpoint(**values)
    await saver.aput(at(parent, thread, ns), made, {"source": "loop", "step": 1}, made["channel_versions"])
    return made["id"]


# Writing


async def test_a_checkpoint_is_one_transaction_and_so_are_the_writes_of_a_task(database: Counting) -> None:
    saver = Checkpoints(database)
    head = await put(saver, a=1, b=[2], c="3")
    assert database.writes == 1
    await saver.aput_writes(at(head), [("a", 1), ("b", 2), (INTERRUPT, [3])], "task")
    assert database.writes == 2


async def test_a_value_is_stored_once_for_each_version(database: Counting) -> None:
    saver = Checkpoints(database)
    first = checkpoint({"big": 1.5, "small": 1.5}, big="x" * 10_000, small=0)
    await saver.aput(at(), first, {}, {"big": 1.5, "small": 1.5})
    parent = first["id"]
    for step in range(2, 20):
        following = checkpoint({"big": 1.5, "small": step + 0.5}, big="x" * 10_000, small=step)
        await saver.aput(at(parent), following, {}, {"small": step + 0.5})
        parent = following["id"]
    stored = await database.read(lambda tx: tx.all("SELECT sum(length(body)) FROM checkpoint_values")[0][0])
    assert stored < 10_000 + 100
    back = await saver.aget_tuple(at())
    assert back is not None
    assert back.checkpoint["channel_values"] == {"big": "x" * 10_000, "small": 19}


async def test_a_step_costs_the_same_bytes_early_and_late_in_a_run(database: Counting) -> None:
    async def turn(state: Turns) -> dict[str, int]:
        return {"count": state.count + 1}

    def again(state: Turns) -> str:
        return END if state.count == 60 else "turn"

    graph = StateGraph(Turns)
    graph.add_node("turn", turn)
    graph.add_edge(START, "turn")
    graph.add_conditional_edges("turn", again, ["turn", END])
    app = graph.compile(checkpointer=Checkpoints(database, serde=serializer_for(Turns)))
    await app.ainvoke(Turns(), {"configurable": {"thread_id": "t"}}, durability="sync")

    async def of_step(step: int) -> int:
        def size(tx: Transaction) -> int:
            (frame, found), *_ = tx.all("SELECT length(body), id FROM checkpoints WHERE seq = ?", (step,))
            (writes,), *_ = tx.all("SELECT sum(length(body)) FROM checkpoint_writes WHERE checkpoint = ?", (found,))
            return frame + writes

        return await database.read(size)

    assert abs(await of_step(50) - await of_step(10)) <= 4


async def test_nothing_of_a_checkpoint_that_cannot_be_kept_is_stored(database: Counting) -> None:
    saver = Checkpoints(database)
    with pytest.raises(NotSerializable, match="'bad'") as caught:
        await put(saver, good=1, bad=object())
    assert caught.value.details == {"type": "builtins.object", "channel": "bad"}
    with pytest.raises(NotSerializable, match="'bad'"):
        await saver.aput_writes(at("c"), [("good", 1), ("bad", object())], "task")
    with pytest.raises(NotSerializable, match="metadata"):
        await saver.aput(at(), checkpoint(), cast(Any, {"writes": object()}), {})
    assert [await count(database, name) for name in ("checkpoints", "checkpoint_values", "checkpoint_writes")] == [
        0
    ] * 3


async def test_an_error_is_kept_as_its_description(database: Counting) -> None:
    saver = Checkpoints(database)
    head = await put(saver)
    await saver.aput_writes(at(head), [(ERROR, ValueError("no"))], "task")
    back = await saver.aget_tuple(at())
    assert back is not None
    assert back.pending_writes == [("task", ERROR, "ValueError('no')")]


async def test_the_fence_comes_first_in_every_transaction_that_writes(database: Counting) -> None:
    asked: list[str] = []
    lost = False

    def fence(tx: Transaction, thread: str) -> None:
        asked.append(thread)
        if lost:
            raise LeaseLost("another process took the run over")

    free, saver = Checkpoints(database), Checkpoints(database, fence=fence)
    head = await put(saver, a=1)
    await saver.aput_writes(at(head), [("a", 2)], "task")
    assert asked == ["t", "t"]
    before = await database.read(lambda tx: [tx.all(f"SELECT * FROM {name}") for name in TABLES])
    lost = True
    for attempt in (
        put(saver, head, a=2),
        saver.aput_writes(at(head), [("a", 3)], "other"),
        saver.adelete_thread("t"),
        saver.adelete_for_runs(["r"]),
        saver.aprune(["t"]),
        saver.aprune(["t"], strategy="delete"),
        saver.acopy_thread("x", "t"),
    ):
        if attempt.__name__ == "adelete_for_runs":  # asks for the threads of the run, of which there is none
            await attempt
            continue
        with pytest.raises(LeaseLost):
            await attempt
    assert await database.read(lambda tx: [tx.all(f"SELECT * FROM {name}") for name in TABLES]) == before
    await put(free, head, a=2)


async def test_the_fence_guards_the_threads_of_a_run_that_is_deleted(database: Counting) -> None:
    def fence(tx: Transaction, thread: str) -> None:
        raise LeaseLost("gone")

    made = checkpoint(a=1)
    await Checkpoints(database).aput(at(), made, {"run_id": "r"}, made["channel_versions"])
    with pytest.raises(LeaseLost):
        await Checkpoints(database, fence=fence).adelete_for_runs(["r"])
    assert await count(database, "checkpoints") == 1


async def test_ordinary_writes_are_kept_and_special_ones_replaced(database: Counting) -> None:
    saver = Checkpoints(database)
    head = await put(saver)
    await saver.aput_writes(at(head), [("a", 1), (INTERRUPT, ["old"]), (RESUME, [1])], "task")
    await saver.aput_writes(at(head), [("a", 2), (INTERRUPT, ["new"]), (RESUME, [1, 2]), (ERROR, "no")], "task")
    back = await saver.aget_tuple(at())
    assert back is not None
    found = {channel: value for _, channel, value in back.pending_writes or ()}
    assert found == {"a": 1, INTERRUPT: ["new"], RESUME: [1, 2], ERROR: "no"}


async def test_writes_come_back_in_the_order_in_which_they_are_applied(database: Counting) -> None:
    saver = Checkpoints(database)
    head = await put(saver)
    await saver.aput_writes(at(head), [("x", 1), ("x", 2)], "b", "~__pregel_push, 0000000002")
    await saver.aput_writes(at(head), [("x", 3)], "c", "~__pregel_push, 0000000010")
    await saver.aput_writes(at(head), [("x", 4)], "a", "~__pregel_push, 0000000003")
    await saver.aput_writes(at(head), [("x", 5)], "z")
    back = await saver.aget_tuple(at())
    assert back is not None
    assert [value for _, _, value in back.pending_writes or ()] == [5, 1, 2, 4, 3]


def test_versions_grow_by_one_and_never_meet() -> None:
    saver = Checkpoints(NO_DATABASE)
    current = None
    for step in range(1, 500):
        following = saver.get_next_version(current, None)
        assert int(following) == step
        assert current is None or following > current
        current = following
    assert len({saver.get_next_version(7.25, None) for _ in range(500)}) == 500


# Reading


async def test_the_head_is_what_was_written_last_even_if_the_clock_went_back(
    database: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Checkpoints(database)
    old = await put(saver, a="old")
    monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)  # as in a new process
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    new = await put(saver, old, a="new")
    assert new < old
    for reader in (saver, Checkpoints(database)):
        back = await reader.aget_tuple(at())
        assert back is not None
        assert back.checkpoint["id"] == new
        assert [item.checkpoint["id"] async for item in reader.alist(at())] == [new, old]
        assert [item.checkpoint["id"] async for item in reader.alist(at(), before=at(new))] == [old]
        assert [item.checkpoint["id"] async for item in reader.alist(at(), before=at(old))] == []
    await saver.aprune(["t"])
    assert [item.checkpoint["id"] async for item in saver.alist(at())] == [new]


async def test_writing_a_checkpoint_again_changes_neither_its_place_nor_its_number(database: Counting) -> None:
    saver = Checkpoints(database)
    first, second = checkpoint(a=1), checkpoint(a=2)
    for made in (first, second, first):
        await saver.aput(at(), made, {"step": 1}, made["channel_versions"])
    assert [item.checkpoint["id"] async for item in saver.alist(at())] == [second["id"], first["id"]]


async def test_listing_takes_what_it_is_asked_for(database: Counting) -> None:
    saver = Checkpoints(database)
    ids = [await put(saver, thread="t", ns="", a=step) for step in range(120)]
    child = await put(saver, thread="t", ns="child:1", a=1)
    other = await put(saver, thread="u", a=1)

    async def listed(config: Any, **options: Any) -> list[str]:
        return [item.checkpoint["id"] async for item in saver.alist(config, **options)]

    assert await listed(at()) == ids[::-1]
    assert await listed(at(), limit=0) == []
    assert await listed(at(), limit=-1) == []
    assert await listed(at(), limit=70) == ids[:-71:-1]
    assert await listed(at(ids[3])) == [ids[3]]
    assert await listed({"configurable": {"thread_id": "t"}}, limit=2) == [child, ids[-1]]
    assert await listed(None, limit=2) == [other, child]
    assert await listed(at(ns="child:1"), before=at(ids[0])) == []
    assert await listed(at(ns="child:1"), before=at(other)) == [child]
    assert await listed(at(), filter={"step": 1, "source": "loop"}, limit=1) == [ids[-1]]
    assert await listed(at(), filter={"parents": {"a": ["b"]}}) == []


async def test_a_checkpoint_removed_while_listing_is_left_out(database: Counting) -> None:
    saver = Checkpoints(database)
    for step in range(60):
        await put(saver, a=step)
    seen = 0
    async for _ in saver.alist(at()):
        seen += 1
        if seen == 1:
            await saver.adelete_thread("t")
    assert seen == 50


async def test_values_of_a_channel_that_was_emptied_are_gone(database: Counting) -> None:
    saver = Checkpoints(database)
    await put(saver, a=1)
    made = checkpoint({"a": 2.5})
    await saver.aput(at(), made, {}, {"a": 2.5})
    back = await saver.aget_tuple(at())
    assert back is not None
    assert back.checkpoint["channel_values"] == {}
    assert back.checkpoint["channel_versions"] == {"a": 2.5}


@pytest.mark.parametrize(
    "name",
    ["get_tuple", "list", "put", "put_writes", "delete_thread", "delete_for_runs", "copy_thread", "prune",
     "get_delta_channel_history"],
)  # fmt: skip
def test_the_synchronous_half_says_that_it_is_not_there(name: str) -> None:
    saver = Checkpoints(NO_DATABASE)
    with pytest.raises(UsageError, match="asynchronously") as caught:
        getattr(saver, name)({"configurable": {"thread_id": "t"}})
    assert "ainvoke" in caught.value.hint


def test_the_environment_switch_of_langgraph_changes_nothing() -> None:
    saver = Checkpoints(NO_DATABASE)
    assert saver.with_allowlist([("os", "system")]) is saver


# Upkeep


async def test_deleting_a_run_keeps_the_values_that_others_refer_to(database: Counting) -> None:
    saver = Checkpoints(database)
    first = checkpoint({"shared": 1.5, "own": 1.5}, shared="s", own="a")
    second = checkpoint({"shared": 1.5, "own": 2.5}, shared="s", own="b")
    await saver.aput(at(), first, {"run_id": "r1"}, first["channel_versions"])
    await saver.aput(at(first["id"]), second, {"run_id": "r2"}, {"own": 2.5})
    await saver.adelete_for_runs(["r1", "unknown"])
    back = await saver.aget_tuple(at())
    assert back is not None
    assert back.checkpoint["channel_values"] == {"shared": "s", "own": "b"}
    assert await count(database, "checkpoint_values") == 2


async def test_pruning_drops_the_values_that_nothing_refers_to(database: Counting) -> None:
    saver = Checkpoints(database)
    parent = None
    for step in range(5):
        made = checkpoint({"kept": 1.5, "moved": step + 1.5}, kept="k", moved=step)
        await saver.aput(at(parent), made, {}, made["channel_versions"] if step == 0 else {"moved": step + 1.5})
        parent = made["id"]
        await saver.aput_writes(at(parent), [("moved", step)], "task")
    await saver.aprune(["t"])
    assert [await count(database, name) for name in TABLES] == [1, 2, 1]
    back = await saver.aget_tuple(at())
    assert back is not None
    assert back.checkpoint["channel_values"] == {"kept": "k", "moved": 4}
    await saver.aprune(["t"], strategy="delete")
    assert [await count(database, name) for name in TABLES] == [0, 0, 0]


async def test_an_unknown_strategy_removes_nothing(database: Counting) -> None:
    saver = Checkpoints(database)
    await put(saver)
    with pytest.raises(UsageError, match="newest"):
        await saver.aprune(["t"], strategy="newest")
    assert await count(database, "checkpoints") == 1


async def test_a_copy_never_mixes_with_what_is_there(database: Counting) -> None:
    saver = Checkpoints(database)
    await put(saver, thread="a", x=1)
    await put(saver, thread="b", x=2)
    with pytest.raises(UsageError, match="b"):
        await saver.acopy_thread("a", "b")
    back = await saver.aget_tuple(at(thread="b"))
    assert back is not None
    assert back.checkpoint["channel_values"] == {"x": 2}


def extend(state: list[Any], batch: Any) -> list[Any]:
    return [*state, *(item for write in batch for item in write)]


class LogAlways(Turns):
    log: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=1)] = []


class LogSometimes(Turns):
    log: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=3)] = []


class LogRarely(Turns):
    log: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=100)] = []


def delta_app(saver: Checkpoints, state: type[Turns], steps: int) -> Any:
    async def turn(state: Turns) -> dict[str, Any]:
        return {"log": [f"turn {state.count}"], "plain": ["p"], "count": state.count + 1}

    def again(state: Turns) -> str:
        return END if state.count % steps == 0 else "turn"

    graph = StateGraph(state)
    graph.add_node("turn", turn)
    graph.add_edge(START, "turn")
    graph.add_conditional_edges("turn", again, ["turn", END])
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize(("state", "kept"), [(LogAlways, 1), (LogSometimes, 3), (LogRarely, 9)])
async def test_pruning_keeps_what_a_delta_channel_is_rebuilt_from(
    database: Counting, state: type[Turns], kept: int
) -> None:
    saver = Checkpoints(database)
    app = delta_app(saver, state, steps=7)
    config: Any = {"configurable": {"thread_id": "t"}}
    await app.ainvoke({"log": ["start"]}, config, durability="sync")
    before = (await app.aget_state(config)).values
    assert before["log"] == ["start", *(f"turn {n}" for n in range(7))]
    assert await count(database, "checkpoints") == 9

    await saver.aprune(["t"])
    assert await count(database, "checkpoints") == kept
    assert (await app.aget_state(config)).values == before

    await app.ainvoke({"log": ["more"]}, config, durability="sync")
    after = (await app.aget_state(config)).values
    assert after["log"] == [*before["log"], "more", *(f"turn {n}" for n in range(7, 14))]
    await saver.aprune(["t"])
    await saver.acopy_thread("t", "copy")
    assert (await app.aget_state({"configurable": {"thread_id": "copy"}})).values == after


async def test_two_branches_of_one_thread_keep_their_own_values(database: Counting) -> None:
    class State(BaseModel):
        items: Annotated[list[str], add] = []

    async def one(state: State) -> dict[str, list[str]]:
        return {"items": ["one"]}

    graph = StateGraph(State)
    graph.add_node("one", one)
    graph.add_edge(START, "one")
    app = graph.compile(checkpointer=Checkpoints(database, serde=serializer_for(State)))
    thread: Any = {"configurable": {"thread_id": "t"}}
    await app.ainvoke({"items": ["in"]}, thread, durability="sync")
    history = [state async for state in app.aget_state_history(thread)]
    left = await app.aupdate_state(history[0].config, {"items": ["left"]})
    right = await app.aupdate_state(history[0].config, {"items": ["right"]})
    assert (await app.aget_state(left)).values["items"] == ["in", "one", "left"]
    assert (await app.aget_state(right)).values["items"] == ["in", "one", "right"]


async def test_what_is_kept_outlives_the_process(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    for step in range(3):
        opened = await SQLiteDatabase.open(file)
        saver = Checkpoints(opened)
        back = await saver.aget_tuple(at())
        assert (back.checkpoint["channel_values"] if back else {}) == ({"a": step - 1} if step else {})
        head = await put(saver, back.checkpoint["id"] if back else None, a=step)
        await saver.aput_writes(at(head), [(INTERRUPT, (Interrupt("?", id="i"),))], "task")
        await opened.close()
    opened = await SQLiteDatabase.open(file)
    back = await Checkpoints(opened).aget_tuple(at())
    assert back is not None
    assert back.pending_writes == [("task", INTERRUPT, (Interrupt("?", id="i"),))]
    await opened.close()
