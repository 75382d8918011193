"""A new run that shares the history of another one: at every superstep of many kinds of graphs, edited or not."""

from __future__ import annotations

from collections.abc import Mapping
from operator import add
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.models.base import Model
from retinue.agents.models.function import Answer, FunctionCall, FunctionModel
from retinue.agents.models.scripted import ScriptedModel
from retinue.agents.tools.base import digest
from retinue.errors import InvalidInput, NodeFailed, RunNotFound, UsageError, WorkflowChanged
from retinue.graphs.checkpoints import Checkpoints
from retinue.graphs.diff import MISSING, changes, diff
from retinue.graphs.drive import Outcome
from retinue.graphs.execution import Execution
from retinue.graphs.nodes import each, step
from retinue.graphs.timeline import checkpoints
from retinue.graphs.workflow import Workflow
from tests.support.desk import APPROVE, Desk
from tests.support.flows import fan, one, tool

pytestmark = pytest.mark.anyio


class Work(BaseModel):
    topic: str = "tea"
    items: list[str] = []
    found: Annotated[list[str], add] = []
    rounds: int = 0
    text: str | None = None


def say(call: FunctionCall) -> Answer:
    return f"about {call.task}"


def looping() -> Workflow:
    """begin → look, look, … → write ⟲ twice → sign, with a join and a fan-out."""
    looker = Agent("looker", prompt="Look.", function=say)
    writer = Agent("writer", prompt="Write.", function=say)

    async def begin(state: Work) -> dict[str, Any]:
        return {"items": [f"{state.topic} {n}" for n in range(2)]}

    async def note(state: Work) -> dict[str, Any]:
        return {}

    async def again(state: Work) -> Literal["write", "left"]:
        return "write" if state.rounds < 2 else "left"

    graph = StateGraph(Work)
    graph.add_node("begin", begin)
    graph.add_node("look", step(looker, task=lambda item: item, into="found"))
    graph.add_node(
        "write", step(writer, task=lambda s: f"{s.topic}, {len(s.found)} found", into=lambda out, s: {
            "text": out, "rounds": s.rounds + 1,
        })
    )  # fmt: skip
    for name in ("left", "right", "sign"):
        graph.add_node(name, note)
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", each(lambda s: s.items, "look"), ["look"])
    graph.add_edge("look", "write")
    graph.add_conditional_edges("write", again, ["write", "left"])
    graph.add_edge("left", "right")
    graph.add_edge(["left", "right"], "sign")
    graph.add_edge("sign", END)
    return Workflow("looping", graph)


def functions(flow: Workflow) -> Mapping[str, Model]:
    found: dict[str, Model] = {}
    for agent in flow.agents:
        assert agent.function is not None
        function = agent.function
        found[agent.name] = (
            function if isinstance(function, FunctionModel) else FunctionModel(function, name=agent.name)
        )
    return found


async def fork(desk: Desk, flow: Workflow, run: str, at: int, models: Any = None, **options: Any) -> Execution:
    equipment = await desk.equip(flow, models or functions(flow))
    return await desk.runs.fork(await desk.record(run), at, flow, equipment, **options)


async def forked(desk: Desk, flow: Workflow, run: str, at: int, models: Any = None, **options: Any) -> Outcome:
    return await desk.runs.execute(await fork(desk, flow, run, at, models, **options))


async def whole(desk: Desk, run: str) -> str:
    """A digest of every row of a run."""
    found: list[Any] = []
    for table in ("runs", "events", "journal", "questions", "artifacts"):
        found += await desk.rows(f"SELECT * FROM {table} WHERE {'id' if table == 'runs' else 'run'} = ?", run)
    for table in ("checkpoints", "checkpoint_values", "checkpoint_writes"):
        rows = await desk.rows(f"SELECT * FROM {table} WHERE thread = ?", run)
        found += [[cell.hex() if isinstance(cell, bytes) else cell for cell in row] for row in rows]
    return digest(sorted(map(list, found), key=repr))


async def test_what_is_listed_is_what_langgraph_says_of_the_same_checkpoints(desk: Desk) -> None:
    flow = looping()
    run = (await desk.run(flow, functions(flow))).run
    graph = flow.compile(lambda *types: Checkpoints(desk.db))
    config: Any = {"configurable": {"thread_id": run}}
    said = {s.metadata.get("step"): s.next async for s in graph.aget_state_history(config) if s.metadata}
    listed = await checkpoints(desk.db, run)
    assert {step.step: sorted(step.next) for step in listed} == {step: sorted(names) for step, names in said.items()}
    assert [step.nodes for step in listed[2:5]] == [["begin"], ["look", "look"], ["write"]]


async def test_a_fork_at_every_superstep_of_a_loop_ends_alike_and_the_parent_is_untouched(desk: Desk) -> None:
    flow = looping()
    first = await desk.run(flow, functions(flow))
    before = await whole(desk, first.run)
    for listed in await checkpoints(desk.db, first.run):
        outcome = await forked(desk, flow, first.run, listed.step)
        assert outcome.output == first.output
        shared = await diff(desk.db, first.run, listed.step, listed.step, other=outcome.run)
        assert (shared.state, shared.facts) == ([], [])
        asked = len(await desk.events(first.run, "model.called"))
        carried = [p for p in await desk.facts(first.run) if int(p.rpartition("@")[2]) <= listed.step]
        assert len(await desk.events(outcome.run, "model.called")) == asked - len(carried)
        (started,) = await desk.events(outcome.run, "run.started")
        assert started["seq"] == 1
        assert started["forked_from"] == {"run": first.run, "step": listed.step, "changed": []}
        assert await whole(desk, first.run) == before


async def test_a_fork_of_a_fork_shares_what_both_share(desk: Desk) -> None:
    flow = looping()
    first = await desk.run(flow, functions(flow))
    second = await forked(desk, flow, first.run, 3, changes={"topic": "milk"})
    for listed in await checkpoints(desk.db, second.run):
        third = await forked(desk, flow, second.run, listed.step)
        assert third.status == "done"
        if listed.step >= 4:
            assert third.output == second.output


async def test_an_edit_follows_the_edges_again_and_replaces_a_field_whatever_its_reducer(desk: Desk) -> None:
    flow = looping()
    first = await desk.run(flow, functions(flow))
    fewer = await forked(desk, flow, first.run, 1, changes={"items": ["one"]})
    assert fewer.output["found"] == ["about one"]
    replaced = await forked(desk, flow, first.run, 2, changes={"found": ["mine"], "topic": "milk"})
    assert (replaced.output["found"], replaced.output["text"]) == (["mine"], "about milk, 1 found")
    ended = await forked(desk, flow, first.run, 3, changes={"rounds": 7})
    assert (ended.output["rounds"], ended.output["text"]) == (7, first.output["text"])
    (edited,) = [s for s in await checkpoints(desk.db, ended.run) if s.source == "update"]
    assert (edited.step, edited.nodes, edited.next) == (4, ["write"], ["left"])
    found = await diff(desk.db, first.run, 3, 4, other=ended.run)
    assert [(c.where, c.before, c.after) for c in found.state] == [("rounds", 1, 7)]
    assert found.facts == []


async def test_an_edit_of_the_last_superstep_is_the_output(desk: Desk) -> None:
    flow = one(Agent("worker", prompt="Work."))
    first = await desk.run(flow, ScriptedModel(["done"]))
    outcome = await forked(desk, flow, first.run, 1, ScriptedModel([]), changes={"text": "edited"})
    assert (outcome.status, outcome.output["text"]) == ("done", "edited")


async def test_at_minus_one_the_input_is_set_and_validated(desk: Desk) -> None:
    flow = looping()
    first = await desk.run(flow, functions(flow))
    outcome = await forked(desk, flow, first.run, -1, changes={"topic": "milk"})
    assert outcome.output["items"] == ["milk 0", "milk 1"]
    assert (await desk.record(outcome.run)).input["topic"] == "milk"
    with pytest.raises(InvalidInput, match="has no input 'colour'"):
        await fork(desk, flow, first.run, -1, changes={"colour": "red"})


async def test_a_node_that_chose_what_came_next_keeps_its_choice_after_an_edit(desk: Desk) -> None:
    async def choose(state: Work) -> Command[Literal["left", "right"]]:
        return Command(update={"rounds": 1}, goto="right")

    async def mark(state: Work) -> dict[str, Any]:
        return {"text": f"right {state.topic}"}

    graph = StateGraph(Work)
    graph.add_node("choose", choose)
    graph.add_node("left", mark)
    graph.add_node("right", mark)
    graph.add_edge(START, "choose")
    flow = Workflow("goto", graph)
    first = await desk.run(flow)
    outcome = await forked(desk, flow, first.run, 1, changes={"topic": "milk"})
    assert outcome.output["text"] == "right milk"
    assert [s.nodes for s in await checkpoints(desk.db, outcome.run)][-1] == ["right"]


async def test_an_approval_of_a_finished_step_is_carried_and_an_open_question_is_asked_anew(desk: Desk) -> None:
    sent: list[str] = []

    def send(to: str) -> str:
        """Send it."""
        sent.append(to)
        return f"sent to {to}"

    def clerk(call: FunctionCall) -> Answer:
        return call.results[0].text if call.results else call.use("send", to=call.task)

    agent = Agent("clerk", prompt="Send.", function=clerk, tools=[tool(send, "unsafe")])
    graph = StateGraph(Work)
    graph.add_node("first", step(agent, task="ann", into="found"))
    graph.add_node("second", step(agent, task="bob", into="found"))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    flow = Workflow("letters", graph)
    run = (await desk.run(flow, functions(flow))).run
    await desk.answer_all(run, APPROVE)
    assert (await desk.resume(run, flow, functions(flow))).status == "waiting"
    listed = await checkpoints(desk.db, run)
    assert [(s.step, [q.status for q in s.questions]) for s in listed] == [(-1, []), (0, []), (1, ["answered", "open"])]
    before = await whole(desk, run)
    waiting = await forked(desk, flow, run, 1)
    assert waiting.status == "waiting"
    asked = await desk.rows("SELECT path, status FROM questions WHERE run = ? ORDER BY path", waiting.run)
    assert asked == [("first@1", "answered"), ("second@2", "open")]
    await desk.answer_all(waiting.run, APPROVE)
    assert (await desk.resume(waiting.run, flow, functions(flow))).output["found"] == ["sent to ann", "sent to bob"]
    assert sent == ["ann", "bob"], "the letter to ann was not sent again"
    assert await whole(desk, run) == before
    assert len(await desk.inbox(run)) == 1, "the parent still waits"


async def test_the_interrupt_of_a_users_own_node_is_carried_with_its_step(desk: Desk) -> None:
    def ask(state: Work) -> dict[str, Any]:
        return {"topic": interrupt("Which topic?")}

    def ask_more(state: Work) -> dict[str, Any]:
        return {"text": f"{state.topic} {interrupt('Which text?')}"}

    graph = StateGraph(Work)
    graph.add_node("ask", ask)
    graph.add_node("more", ask_more)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "more")
    flow = Workflow("talk", graph)
    run = (await desk.run(flow)).run
    for answer in ("milk", "is white"):
        await desk.answer_all(run, answer)
        outcome = await desk.resume(run, flow)
    assert outcome.output["text"] == "milk is white"
    assert [len(s.questions) for s in await checkpoints(desk.db, run)] == [0, 0, 1, 1]
    fork_ = await forked(desk, flow, run, 1)
    (question,) = await desk.inbox(fork_.run)
    assert question.title == "Which text?"
    await desk.answer(question, "is cold")
    assert (await desk.resume(fork_.run, flow)).output["text"] == "milk is cold"


async def test_steps_inside_a_finished_subgraph_are_carried(desk: Desk) -> None:
    inner = StateGraph(Work)
    inner.add_node("work", step(Agent("inner", prompt="Work.", function=say), task=lambda s: s.topic, into="text"))
    inner.add_edge(START, "work")

    async def end(state: Work) -> dict[str, Any]:
        return {"rounds": 1}

    graph = StateGraph(Work)
    graph.add_node("sub", inner.compile())
    graph.add_node("end", end)
    graph.add_edge(START, "sub")
    graph.add_edge("sub", "end")
    flow = Workflow("outer", graph)
    first = await desk.run(flow, functions(flow))
    for listed in await checkpoints(desk.db, first.run):
        outcome = await forked(desk, flow, first.run, listed.step)
        assert outcome.output == first.output
        assert len(await desk.events(outcome.run, "model.called")) == (1 if listed.step < 1 else 0)
        assert len(await desk.facts(outcome.run)) == 1


async def test_long_results_of_carried_steps_stay_readable(desk: Desk) -> None:
    def read() -> str:
        """Read."""
        return "x" * 500

    def reader(call: FunctionCall) -> Answer:
        return "read" if call.results else call.use("read")

    flow = one(Agent("reader", prompt="Read.", function=reader, tools=[tool(read, "read_only")], max_result=100))
    first = await desk.run(flow, functions(flow))
    for at, kept in ((0, 0), (1, 1)):
        run = (await fork(desk, flow, first.run, at)).run
        assert len(await desk.rows("SELECT id FROM artifacts WHERE run = ?", run)) == kept


async def test_a_fork_has_a_budget_of_its_own_and_can_be_resumed_by_another_process(desk: Desk) -> None:
    flow = looping()
    first = await desk.run(flow, functions(flow))
    execution = await fork(desk, flow, first.run, 3)
    execution.end("stop")
    assert (await desk.runs.execute(execution)).status == "stopped"
    outcome = await desk.resume(execution.run, flow, functions(flow))
    assert outcome.output == first.output
    assert (await desk.record(outcome.run)).turns == 1


async def test_other_prompts_may_go_on_and_another_graph_may_not(desk: Desk) -> None:
    flow = looping()
    first = await desk.run(flow, functions(flow))
    other = looping()
    (writer,) = (agent for agent in other.agents if agent.name == "writer")
    writer.prompt = "Write in verse."
    assert (await forked(desk, other, first.run, 2)).status == "done"
    changed = looping()

    async def more(state: Work) -> dict[str, Any]:
        return {}

    changed.graph.add_node("more", more)
    with pytest.raises(WorkflowChanged, match="nodes: more is new"):
        await fork(desk, changed, first.run, 2)


@pytest.mark.parametrize(
    ("at", "given", "error", "words"),
    [
        (9, {}, UsageError, "has no superstep 9; its last one is 7"),
        (2, {"colour": 1}, UsageError, "has no field 'colour'"),
        (2, {"rounds": "many"}, InvalidInput, "rounds: Input should be a valid integer"),
        (2, {"items.7": "x"}, UsageError, "there is no items.7 in the state"),
        (2, {"topic.name": "x"}, UsageError, "there is no topic.name in the state"),
    ],
)
async def test_a_fork_that_cannot_be_is_refused_in_words_and_leaves_no_run(
    desk: Desk, at: int, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    flow = looping()
    first = await desk.run(flow, functions(flow))
    with pytest.raises(error, match=words):
        await fork(desk, flow, first.run, at, changes=given)
    assert await desk.rows("SELECT count(*) FROM runs") == [(1,)]


async def test_an_edge_that_fails_on_the_edited_state_refuses_the_fork(desk: Desk) -> None:
    async def begin(state: Work) -> dict[str, Any]:
        return {}

    async def route(state: Work) -> str:
        return {"tea": "end"}[state.topic]

    graph = StateGraph(Work)
    graph.add_node("begin", begin)
    graph.add_node("end", begin)
    graph.add_edge(START, "begin")
    graph.add_conditional_edges("begin", route, ["end"])
    flow = Workflow("picky", graph)
    first = await desk.run(flow)
    with pytest.raises(NodeFailed, match="the edges after begin fail on the edited state: KeyError"):
        await fork(desk, flow, first.run, 1, changes={"topic": "milk"})


async def test_a_run_that_a_member_made_is_not_forked_alone_but_its_parent_is(desk: Desk) -> None:
    member = fan(Agent("looker", prompt="Look.", function=say), ["a", "b"], description="Looks.")
    graph = StateGraph(Work)
    graph.add_node("ask", step(member, task="{}", into=lambda out, s: {"items": list(out.found)}))
    graph.add_node(
        "write", step(Agent("writer", prompt="Write.", function=say), task=lambda s: str(s.items), into="text")
    )
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "write")
    flow = Workflow("asking", graph)
    first = await desk.run(flow, functions(flow))
    ((child,),) = await desk.rows("SELECT id FROM runs WHERE root = ?", first.run)
    with pytest.raises(UsageError, match="is part of another one"):
        await fork(desk, flow, child, 1)
    after = await forked(desk, flow, first.run, 1)
    assert after.output == first.output
    assert await desk.rows("SELECT id FROM runs WHERE root = ?", after.run) == [], "its result is in the state"
    again = await forked(desk, flow, first.run, 0)
    assert again.output == first.output
    assert len(await desk.rows("SELECT id FROM runs WHERE root = ?", again.run)) == 1
    with pytest.raises(RunNotFound):
        await desk.record("ffff")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_changes_are_empty_for_equal_values_alone_and_turn_around(before: Any, after: Any) -> None:
    found = list(changes(before, after))
    assert (found == []) == (digest(before) == digest(after))
    assert list(changes(before, before)) == []
    back = {(c.where, repr(c.after), repr(c.before)) for c in changes(after, before)}
    assert {(c.where, repr(c.before), repr(c.after)) for c in found} == back
    assert all(c.before is not MISSING or c.after is not MISSING for c in found)
