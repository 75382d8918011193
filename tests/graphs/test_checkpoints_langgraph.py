"""What Retinue relies on in LangGraph beyond its documentation, on our saver. A new version that differs fails here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from importlib import import_module
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint as turn_of_the_loop
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.config import get_config
from langgraph.errors import EmptyInputError, GraphRecursionError
from langgraph.types import Command, GraphOutput, Interrupt, Send, interrupt
from pydantic import BaseModel

from retinue.database.base import Transaction
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import LeaseLost, NotSerializable
from retinue.graphs.checkpoints import Checkpoints, serializer_for

pytestmark = pytest.mark.anyio

# LangGraph's generic signatures are partly unknown to a strict type checker.
graphs: Any = import_module("langgraph.graph")
START, END, StateGraph, MessagesState = graphs.START, graphs.END, graphs.StateGraph, graphs.MessagesState

T = TypeVar("T")
CONFIG: Any = {"configurable": {"thread_id": "t"}}
OPTIONS: Any = {"durability": "sync", "version": "v2"}


class Found(BaseModel):
    text: str


class State(BaseModel):
    wanted: str = "abc"
    found: Annotated[list[Found], add] = []
    loops: int = 0


def sends(state: State) -> list[Send]:
    return [Send("scout", letter) for letter in state.wanted]


class Fan:
    """plan → scout for each letter (the letters in ``asking`` interrupt) → write. Keeps what was entered."""

    def __init__(self, saver: Checkpoints, *, asking: str = "", failing: str = "") -> None:
        self.asking, self.failing = asking, failing
        self.entered: list[str] = []
        self.metadata: list[tuple[str, Any, int]] = []
        graph = StateGraph(State)
        graph.add_node("plan", self.plan)
        graph.add_node("scout", self.scout)
        graph.add_node("write", self.write)
        graph.add_edge(START, "plan")
        graph.add_conditional_edges("plan", sends, ["scout"])
        graph.add_edge("scout", "write")
        graph.add_conditional_edges("write", self.after_writing, ["plan", END])
        self.app = graph.compile(checkpointer=saver)

    def after_writing(self, state: State) -> str:
        return END if state.loops == 2 else "plan"

    def note(self, name: str) -> None:
        known = get_config().get("metadata", {})
        self.entered.append(name)
        self.metadata.append((name, known["langgraph_path"], known["langgraph_step"]))

    async def plan(self, state: State) -> dict[str, Any]:
        self.note("plan")
        return {}

    async def scout(self, letter: str) -> dict[str, Any]:
        self.note(letter)
        if letter in self.asking:
            interrupt({"ask": letter})
        if letter in self.failing:
            raise ValueError(letter)
        return {"found": [Found(text=letter)]}

    async def write(self, state: State) -> dict[str, Any]:
        self.note("write")
        return {"loops": state.loops + 1}


@pytest.fixture(params=["memory", "file"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[SQLiteDatabase]:
    opened = await SQLiteDatabase.open(":memory:" if request.param == "memory" else tmp_path / "runs.db")
    yield opened
    await opened.close()


@pytest.fixture
def saver(database: SQLiteDatabase) -> Checkpoints:
    return Checkpoints(database, serde=serializer_for(State))


async def test_version_2_returns_the_value_and_the_interrupts_apart(saver: Checkpoints) -> None:
    fan = Fan(saver, asking="b")
    paused = await fan.app.ainvoke(State(), CONFIG, **OPTIONS)
    assert type(paused) is GraphOutput
    assert [asked.value for asked in paused.interrupts] == [{"ask": "b"}]
    fan.asking = ""
    done = cast(GraphOutput[State], await fan.app.ainvoke(None, CONFIG, **OPTIONS))
    assert type(done) is GraphOutput
    assert done.interrupts == ()
    assert isinstance(done.value, State)
    assert [found.text for found in done.value.found] == list("abcabc")


async def test_a_resume_with_none_enters_only_the_tasks_still_open_and_keeps_the_ids_of_their_interrupts(
    saver: Checkpoints,
) -> None:
    fan = Fan(saver, asking="abc")
    first = await fan.app.ainvoke(State(), CONFIG, **OPTIONS)
    ids = {asked.value["ask"]: asked.id for asked in first.interrupts}
    assert len(set(ids.values())) == 3
    assert fan.entered == ["plan", "a", "b", "c"]

    fan.entered, fan.asking = [], "ac"
    second = await fan.app.ainvoke(None, CONFIG, **OPTIONS)
    assert fan.entered == ["a", "b", "c"]
    assert {asked.value["ask"]: asked.id for asked in second.interrupts} == {"a": ids["a"], "c": ids["c"]}

    fan.entered = []
    third = await Fan(saver, asking="ac").app.ainvoke(None, CONFIG, **OPTIONS)
    assert {asked.value["ask"]: asked.id for asked in third.interrupts} == {"a": ids["a"], "c": ids["c"]}

    fan.asking = ""
    await fan.app.ainvoke(None, CONFIG, **OPTIONS)
    assert fan.entered == ["a", "c", "write", "plan", "a", "b", "c", "write"]


async def test_a_path_and_a_superstep_name_each_task_once_and_the_same_after_a_resume(saver: Checkpoints) -> None:
    fan = Fan(saver, asking="b")
    await fan.app.ainvoke(State(), CONFIG, **OPTIONS)
    fan.asking = ""
    await fan.app.ainvoke(None, CONFIG, **OPTIONS)
    pull, push = "__pregel_pull", "__pregel_push"
    sends = [("a", (push, 0, False)), ("b", (push, 1, False)), ("c", (push, 2, False))]
    assert [(name, tuple(path), step) for name, path, step in fan.metadata] == [
        ("plan", (pull, "plan"), 1),
        *((name, path, 2) for name, path in sends),
        ("b", (push, 1, False), 2),
        ("write", (pull, "write"), 3),
        ("plan", (pull, "plan"), 4),
        *((name, path, 5) for name, path in sends),
        ("write", (pull, "write"), 6),
    ]


async def test_a_failing_branch_keeps_what_its_finished_siblings_wrote(saver: Checkpoints) -> None:
    fan = Fan(saver, failing="c")
    with pytest.raises(ValueError, match="c"):
        await fan.app.ainvoke(State(), CONFIG, **OPTIONS)
    fan.entered, fan.failing = [], ""
    await fan.app.ainvoke(None, CONFIG, **OPTIONS)
    assert fan.entered[0] == "c"
    assert fan.entered[1] == "write"


class Gated(SQLiteDatabase):
    """Holds back the transaction after ``free`` others until the gate opens."""

    free = 0
    waiting: anyio.Event
    gate: anyio.Event

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        self.free -= 1
        if self.free < 0 and not self.gate.is_set():
            self.waiting.set()
            await self.gate.wait()
        return await super().write(work, flush=flush)


@pytest.mark.parametrize("place", [":memory:", "file"])
async def test_durability_sync_commits_a_superstep_before_the_next_one_starts(place: str, tmp_path: Path) -> None:
    database = await Gated.open(place if place == ":memory:" else tmp_path / "runs.db")
    assert isinstance(database, Gated)
    database.waiting, database.gate = anyio.Event(), anyio.Event()
    # Two checkpoints and the writes of the input and of plan; then the checkpoint of plan's superstep is held back.
    database.free = 4
    fan = Fan(Checkpoints(database, serde=serializer_for(State)))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(fan.app.ainvoke, State(), CONFIG, **OPTIONS))
            await database.waiting.wait()
            for _ in range(50):
                await turn_of_the_loop()
            assert fan.entered == ["plan"]
            database.gate.set()
    assert fan.entered[:4] == ["plan", "a", "b", "c"]
    await database.close()


async def test_a_node_finds_the_superstep_before_it_committed(database: SQLiteDatabase, saver: Checkpoints) -> None:
    committed: list[tuple[int, int]] = []

    async def node(state: State) -> dict[str, Any]:
        step = get_config().get("metadata", {})["langgraph_step"]
        ((newest,),) = await database.read(lambda tx: tx.all("SELECT max(seq) FROM checkpoints"))
        committed.append((step, newest))
        return {"loops": state.loops + 1}

    def again(state: State) -> str:
        return END if state.loops == 4 else "node"

    graph = StateGraph(State)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_conditional_edges("node", again, ["node", END])
    await graph.compile(checkpointer=saver).ainvoke(State(), CONFIG, **OPTIONS)
    assert committed == [(step, step + 1) for step in range(1, 5)]  # the input's, of step -1, is number one


async def test_a_result_that_cannot_be_kept_ends_the_run_before_the_next_step(saver: Checkpoints) -> None:
    fan = Fan(saver)

    class Unnamed(BaseModel):
        text: str

    async def scout(letter: str) -> dict[str, Any]:
        return {"found": [Unnamed(text=letter)]}

    graph = StateGraph(State)
    graph.add_node("scout", scout, input_schema=str)
    graph.add_node("write", fan.write)
    graph.add_conditional_edges(START, sends, ["scout"])
    graph.add_edge("scout", "write")
    with pytest.raises(NotSerializable, match="Unnamed") as caught:
        await graph.compile(checkpointer=saver).ainvoke(State(), CONFIG, **OPTIONS)
    assert caught.value.details["channel"] == "found"
    assert fan.entered == []


async def test_a_lost_lease_ends_the_run_at_its_next_write_and_changes_nothing(database: SQLiteDatabase) -> None:
    lost = False

    def fence(tx: Transaction, thread: str) -> None:
        if lost:
            raise LeaseLost("another process took the run over")

    saver = Checkpoints(database, fence=fence, serde=serializer_for(State))
    fan = Fan(saver)
    kept = "SELECT count(*) FROM checkpoints UNION ALL SELECT count(*) FROM checkpoint_writes"
    before: list[Any] = []

    async def plan(state: State) -> dict[str, Any]:
        nonlocal lost
        fan.note("plan")
        before.extend(await database.read(lambda tx: tx.all(kept)))
        lost = True
        return {}

    graph = StateGraph(State)
    graph.add_node("plan", plan)
    graph.add_node("write", fan.write)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "write")
    with pytest.raises(LeaseLost):
        await graph.compile(checkpointer=saver).ainvoke(State(), CONFIG, **OPTIONS)
    assert fan.entered == ["plan"]
    assert await database.read(lambda tx: tx.all(kept)) == before


async def test_an_interrupt_of_a_users_own_node_is_answered_by_its_id(saver: Checkpoints) -> None:
    class Answer(BaseModel):
        yes: bool

    async def ask(state: State) -> dict[str, Any]:
        answer = interrupt({"what": ("a", "tuple")}, response_schema=Answer)
        return {"found": [Found(text=f"{answer.yes}")]}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    app = graph.compile(checkpointer=saver)
    await app.ainvoke(State(), CONFIG, **OPTIONS)
    (task,) = (await app.aget_state(CONFIG)).tasks
    (asked,) = task.interrupts
    assert type(asked) is Interrupt
    assert asked.value == {"what": ("a", "tuple")}
    assert cast(Any, asked).response_schema["title"] == "Answer"
    done = await app.ainvoke(Command(resume={asked.id: {"yes": True}}), CONFIG, **OPTIONS)
    assert done.value.found == [Found(text="True")]


async def test_none_on_an_empty_thread_is_an_error_and_on_a_finished_one_runs_nothing(saver: Checkpoints) -> None:
    fan = Fan(saver)
    with pytest.raises(EmptyInputError):
        await fan.app.ainvoke(None, CONFIG, **OPTIONS)
    done = await fan.app.ainvoke(State(), CONFIG, **OPTIONS)
    fan.entered = []
    assert (await fan.app.ainvoke(None, CONFIG, **OPTIONS)).value == done.value
    assert fan.entered == []


async def test_the_recursion_limit_starts_again_with_each_resume(saver: Checkpoints) -> None:
    fan = Fan(saver)
    short: Any = {**CONFIG, "recursion_limit": 4}
    with pytest.raises(GraphRecursionError):
        await fan.app.ainvoke(State(), short, **OPTIONS)
    done = await fan.app.ainvoke(None, short, **OPTIONS)
    assert done.value.loops == 2


async def test_a_subgraph_keeps_its_own_checkpoints_and_resumes_in_the_middle(saver: Checkpoints) -> None:
    entered: list[str] = []
    asking = True

    async def before(state: State) -> dict[str, Any]:
        entered.append("before")
        return {"found": [Found(text="before")]}

    async def ask(state: State) -> dict[str, Any]:
        entered.append("ask")
        if asking:
            interrupt("?")
        return {"found": [Found(text="ask")]}

    inner = StateGraph(State)
    inner.add_node("before", before)
    inner.add_node("ask", ask)
    inner.add_edge(START, "before")
    inner.add_edge("before", "ask")
    outer = StateGraph(State)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    app = outer.compile(checkpointer=saver)
    paused = await app.ainvoke(State(), CONFIG, **OPTIONS)
    assert len(paused.interrupts) == 1
    asking = False
    done = await app.ainvoke(None, CONFIG, **OPTIONS)
    assert entered == ["before", "ask", "ask"]
    assert [found.text for found in done.value.found] == ["before", "ask"]
    spaces = {item.config.get("configurable", {})["checkpoint_ns"] async for item in saver.alist(CONFIG)}
    assert len(spaces) == 2


async def test_messages_and_history_work_as_in_any_graph(saver: Checkpoints) -> None:
    async def reply(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])}")]}

    graph = StateGraph(MessagesState)
    graph.add_node("reply", reply)
    graph.add_edge(START, "reply")
    app = graph.compile(checkpointer=saver)
    await app.ainvoke({"messages": [HumanMessage("a")]}, CONFIG, durability="sync")
    await app.ainvoke({"messages": [HumanMessage("b")]}, CONFIG, durability="sync")
    messages = (await app.aget_state(CONFIG)).values["messages"]
    assert [(type(m), m.content) for m in messages] == [
        (HumanMessage, "a"),
        (AIMessage, "1"),
        (HumanMessage, "b"),
        (AIMessage, "3"),
    ]
    history = [state async for state in app.aget_state_history(CONFIG)]
    assert [len(state.values.get("messages", ())) for state in history] == [4, 3, 2, 2, 1, 0]
    assert [state.metadata and state.metadata.get("step") for state in history] == [4, 3, 2, 1, 0, -1]
