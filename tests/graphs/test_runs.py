"""The rows of runs: begun, found, compared with what would resume them, listed, pruned."""

from __future__ import annotations

from operator import add
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.budget import Budget
from retinue.agents.models.function import FunctionCall, ToolUse
from retinue.agents.models.scripted import ScriptedModel
from retinue.errors import ConfigError, InvalidInput, RunNotFound, UsageError, WorkflowChanged
from retinue.graphs import records
from retinue.graphs.fingerprint import differences
from retinue.graphs.nodes import each, step
from retinue.graphs.workflow import Workflow
from tests.support.desk import Desk, opened
from tests.support.flows import Sayer, State, fan, one, tool
from tests.support.people import ME, OTHER

pytestmark = pytest.mark.anyio


def send(to: str) -> str:
    """Send it."""
    return f"sent to {to}"


def clerk(**options: Any) -> Agent:
    settings: dict[str, Any] = {"prompt": "Send.", "tools": [tool(send, "unsafe", name="outbox")], **options}
    return Agent("clerk", **settings)


def sends() -> Sayer:
    return Sayer(lambda call: call.results[-1].text if call.turn else ToolUse("send", {"to": call.task}))


def says(value: str = "x") -> Sayer:
    return Sayer(lambda call: value)


# Fingerprint


class Finding(BaseModel):
    quote: str


class Wider(BaseModel):
    question: str = ""
    found: Annotated[list[Any], add] = []
    text: str | None = None
    more: int = 0


def rewired() -> Workflow:
    flow = one(clerk())
    graph = StateGraph(State)
    graph.add_node("work", flow.graph.nodes["work"].runnable)
    graph.add_node("after", _nothing)
    graph.add_edge(START, "work")
    graph.add_edge("work", "after")
    return Workflow("one", graph)


async def _nothing(state: State) -> dict[str, Any]:
    return {}


def widened() -> Workflow:
    graph = StateGraph(Wider)
    graph.add_node("work", step(clerk(), task="the task", into="text"))
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return Workflow("one", graph)


def another_tool() -> Workflow:
    def send(to: str, copy: bool = False) -> str:
        """Send it, maybe twice."""
        return to

    return one(clerk(tools=[tool(send, "unsafe", name="outbox")]))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda: one(clerk(prompt="Send quickly.")), "prompts: clerk has changed"),
        (lambda: one(clerk(output=Finding)), "outputs: clerk is new"),
        (another_tool, "tools: clerk.send has changed"),
        (lambda: one(clerk(tools=[tool(send, "unsafe", name="outbox", allow=["*"])])), "tools: clerk.send has changed"),
        (lambda: one(clerk(tools=[])), "tools: clerk.send is gone"),
        (rewired, "nodes: after is new"),
        (widened, "state: more is new"),
        (lambda: one(Agent("other", prompt="Send.")), "nodes: work has changed"),
    ],
    ids=["prompt", "output", "tool", "policy", "no tools", "nodes", "state", "agent"],
)
async def test_a_paused_run_is_not_resumed_by_another_version_of_its_workflow(
    desk: Desk, changed: Any, said: str
) -> None:
    outcome = await desk.run(one(clerk()), sends())
    await desk.answer_all(outcome.run)
    before = await desk.rows("SELECT * FROM runs")
    with pytest.raises(WorkflowChanged) as caught:
        await desk.take(outcome.run, changed(), sends())
    assert any(said in change for change in caught.value.details["changes"]), caught.value.details
    assert await desk.rows("SELECT * FROM runs") == before
    assert (await desk.resume(outcome.run, one(clerk()), sends())).status == "done"


async def test_the_same_workflow_made_anew_is_no_change() -> None:
    assert one(clerk()).shape == one(clerk()).shape
    assert differences(one(clerk()).shape, one(clerk()).shape) == []


async def test_a_change_that_the_fingerprint_cannot_see_is_seen_at_the_next_reply(desk: Desk) -> None:
    """The task is made by a function, and functions have no fingerprint."""

    def flow(word: str) -> Workflow:
        graph = StateGraph(State)
        graph.add_node("work", step(clerk(), task=lambda s: word, into="text"))
        graph.add_edge(START, "work")
        return Workflow("one", graph)

    outcome = await desk.run(flow("one thing"), sends())
    await desk.answer_all(outcome.run)
    outcome = await desk.resume(outcome.run, flow("another thing"), sends())
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "workflow_changed"


# Input and output


async def test_the_input_is_kept_before_the_first_step_and_used_again(tmp_path: Path) -> None:
    def flow() -> Workflow:
        async def echo(state: State) -> dict[str, Any]:
            return {"text": state.question}

        graph = StateGraph(State)
        graph.add_node(echo)
        graph.add_edge(START, "echo")
        return Workflow("echo", graph)

    async with opened(tmp_path / "runs.db") as first:
        execution = await first.start(flow(), value={"question": "why?"})
    async with opened(tmp_path / "runs.db") as second:
        assert (await second.resume(execution.run, flow())).output["text"] == "why?"


UNFIT: list[Any] = [
    {"question": 1},
    {"nothing": 1},
    3,
    None,
    [],
    "bare text",
    {"question": "half \udcff"},
    {"found": [2**70]},
]


@pytest.mark.parametrize("value", UNFIT, ids=ascii)
async def test_an_input_that_does_not_fit_makes_no_run(desk: Desk, value: Any) -> None:
    execution = desk.runs.start(one(clerk()), value, principal=ME, equipment=await desk.equip(one(clerk()), None))
    with pytest.raises(InvalidInput):
        await execution
    assert await desk.rows("SELECT 1 FROM runs UNION SELECT 1 FROM events UNION SELECT 1 FROM audit") == []


async def test_a_bare_text_is_the_first_required_text(desk: Desk) -> None:
    class Ask(BaseModel):
        depth: int = 1
        question: str

    async def echo(state: State) -> dict[str, Any]:
        return {"text": state.question}

    graph = StateGraph(State, input_schema=Ask)
    graph.add_node(echo)
    graph.add_edge(START, "echo")
    flow = Workflow("echo", graph)
    assert flow.main_field == "question"
    assert flow.read_input("why?") == {"depth": 1, "question": "why?"}


async def test_a_field_that_is_not_there_is_known_before_a_run_is_made(desk: Desk) -> None:
    graph = StateGraph(State)
    graph.add_node("work", step(clerk(), task="x", into="txet"))
    graph.add_edge(START, "work")
    with pytest.raises(ConfigError, match="'txet'"):
        await desk.run(Workflow("one", graph), says())
    assert await desk.rows("SELECT 1 FROM runs") == []


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a b", "a/b", "a" * 65])
def test_a_workflow_needs_a_name_that_a_command_can_have(name: str) -> None:
    with pytest.raises(ConfigError):
        Workflow(name, StateGraph(State))


def test_two_agents_of_one_name_are_refused() -> None:
    graph = StateGraph(State)
    graph.add_node("a", step(clerk(), task="x"))
    graph.add_node("b", step(clerk(), task="x"))
    with pytest.raises(ConfigError, match="two agents named 'clerk'"):
        _ = Workflow("one", graph).agents


# Steps


async def test_outputs_of_parallel_steps_are_appended_in_the_order_of_the_items(desk: Desk) -> None:
    model = Sayer(lambda call: call.task.upper())
    outcome = await desk.run(fan(Agent("scout", prompt="Look."), list("cab")), model)
    assert outcome.output["found"] == ["C", "A", "B"]
    assert sorted(await desk.facts(outcome.run)) == ["work[0]@2", "work[1]@2", "work[2]@2"]


async def test_two_items_that_are_equal_are_two_pieces_of_work(desk: Desk) -> None:
    model = says("x")
    outcome = await desk.run(fan(Agent("scout", prompt="Look."), ["a", "a"]), model)
    assert outcome.output["found"] == ["x", "x"]
    assert len(model.requests) == 2


async def test_nothing_to_fan_out_to_ends_the_branch(desk: Desk) -> None:
    outcome = await desk.run(fan(Agent("scout", prompt="Look."), []), says())
    assert (outcome.status, outcome.output["found"]) == ("done", [])


async def test_an_output_goes_where_a_function_says_or_nowhere(desk: Desk) -> None:
    def both(output: Finding, state: State) -> dict[str, Any]:
        return {"text": output.quote, "found": [state.question, output]}

    graph = StateGraph(State)
    scout = Agent("scout", prompt="Look.", output=Finding)
    graph.add_node("one", step(scout, task=lambda s: f"about {s.question}", into=both))
    graph.add_node("two", step(scout, task="x"))
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    model = ScriptedModel([Finding(quote="q"), Finding(quote="unused")])
    outcome = await desk.run(Workflow("two", graph), model, value={"question": "it"})
    assert outcome.output["text"] == "q"
    assert outcome.output["found"] == ["it", {"quote": "q"}]
    assert (await desk.facts(outcome.run))["one@1"]["task"]["task"] == "about it"
    assert (await desk.facts(outcome.run))["two@2"]["output"]["value"] == '{"quote":"unused"}'


async def test_a_list_of_findings_is_appended_one_by_one(desk: Desk) -> None:
    graph = StateGraph(State)
    scout = Agent("scout", prompt="Look.", output=list[Finding])
    graph.add_node("scout", step(scout, task="x", into="found"))
    graph.add_edge(START, "scout")
    outcome = await desk.run(Workflow("list", graph), ScriptedModel(['[{"quote": "a"}, {"quote": "b"}]']))
    assert outcome.output["found"] == [{"quote": "a"}, {"quote": "b"}]


async def test_a_step_entered_again_by_a_loop_is_new_work(desk: Desk) -> None:
    graph = StateGraph(State)
    graph.add_node("work", step(Agent("scout", prompt="Look."), task=lambda s: f"round {len(s.found)}", into="found"))

    async def more(state: State) -> str:
        return "work" if len(state.found) < 3 else END

    graph.add_edge(START, "work")
    graph.add_conditional_edges("work", more, ["work", END])
    model = Sayer(lambda call: call.task)
    outcome = await desk.run(Workflow("loop", graph), model)
    assert outcome.output["found"] == ["round 0", "round 1", "round 2"]
    assert sorted(await desk.facts(outcome.run)) == ["work@1", "work@2", "work@3"]


def _number(state: Any) -> Any:
    return 3


@pytest.mark.parametrize("task", [3, None, _number], ids=["number", "nothing", "function"])
async def test_a_task_that_is_no_text_is_a_typed_error(desk: Desk, task: Any) -> None:
    graph = StateGraph(State)
    graph.add_node("work", step(Agent("scout", prompt="Look."), task=task))
    graph.add_edge(START, "work")
    outcome = await desk.run(Workflow("bad", graph), says())
    assert outcome.error is not None
    assert outcome.error.code in ("config_invalid", "node_failed")


async def test_items_that_must_be_awaited_are_refused_with_words(desk: Desk) -> None:
    async def items(state: State) -> list[str]:
        return ["a"]

    graph = StateGraph(State)
    graph.add_node("begin", _nothing)
    graph.add_node("work", step(Agent("scout", prompt="Look."), task="x"))
    graph.add_edge(START, "begin")
    awaited: Any = items
    graph.add_conditional_edges("begin", each(awaited, "work"), ["work"])
    outcome = await desk.run(Workflow("bad", graph), says())
    assert outcome.error is not None
    assert "plain function" in outcome.error.message


async def test_a_step_outside_of_a_run_says_so() -> None:
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    graph.add_node("work", step(Agent("scout", prompt="Look."), task="x"))
    graph.add_edge(START, "work")
    with pytest.raises(ConfigError, match="only in a Retinue run"):
        await graph.compile().ainvoke({})  # pyright: ignore[reportUnknownMemberType]


# Finding, listing, pruning


async def test_a_run_is_found_by_the_beginning_of_its_id(desk: Desk) -> None:
    equipment = await desk.equip(one(clerk()), None)
    for id_ in ("ab" * 16, "ac" * 16):
        await desk.runs.start(one(clerk()), {}, principal=ME, equipment=equipment, run=id_)
    assert (await records.find(desk.db, "ab")).id == "ab" * 16
    for bad in ("", "xyz", "ad", "%", "ab" * 17):
        with pytest.raises(RunNotFound):
            await records.find(desk.db, bad)
    with pytest.raises(UsageError, match="more than one run: abab"):
        await records.find(desk.db, "a")
    with pytest.raises(RunNotFound):
        await records.find(desk.db, "ab", subject=OTHER.key)


async def test_runs_are_listed_newest_first_by_owner_workflow_and_status(tmp_path: Path) -> None:
    now = [1000.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    async with opened(tmp_path / "runs.db", clock=clock) as desk:
        done = (await desk.run(one(Agent("scout", prompt="Look.")), says())).run
        waiting = (await desk.run(one(clerk()), sends())).run
        others = (await desk.run(fan(clerk(), ["a"]), sends(), principal=OTHER)).run

        async def ids(**options: Any) -> list[str]:
            return [run.id for run in await records.recent(desk.db, **options)]

        assert await ids() == [others, waiting, done]
        assert await ids(subject=ME.key) == [waiting, done]
        assert await ids(workflow="fan") == [others]
        assert await ids(status=["done", "failed"]) == [done]
        assert await ids(limit=1) == [others]
        assert await ids(before=(await desk.record(waiting)).created_at) == [done]


async def test_pruning_removes_ended_runs_whole_and_keeps_the_trail(tmp_path: Path) -> None:
    now = [1000.0]
    big = "x" * 50_000

    def read() -> str:
        """Read."""
        return big

    async with opened(tmp_path / "runs.db", clock=lambda: now[0]) as desk:
        reader = Agent("reader", prompt="Read.", tools=[tool(read, "read_only")])

        def say(call: FunctionCall) -> Any:
            return "x" if call.turn else ToolUse("read", {})

        old = (await desk.run(one(reader), Sayer(say))).run
        now[0] += 100
        recent = (await desk.run(one(reader), Sayer(say))).run
        waiting = (await desk.run(one(clerk()), sends())).run
        trail = await desk.rows("SELECT * FROM audit")
        assert await desk.rows("SELECT run FROM artifacts ORDER BY run") == sorted([(old,), (recent,)])
        assert await records.prune(desk.db, older_than=50, dry_run=True) == [old]
        assert await records.prune(desk.db, older_than=50, subject=OTHER.key) == []
        assert await records.prune(desk.db, older_than=50) == [old]
        assert await records.prune(desk.db, older_than=-1) == [recent]
        with pytest.raises(RunNotFound):
            await desk.record(old)
        for table, column in (
            *((name, "run") for name in ("events", "journal", "questions", "artifacts")),
            *((name, "thread") for name in ("checkpoints", "checkpoint_values", "checkpoint_writes")),
        ):
            assert {row[0] for row in await desk.rows(f"SELECT DISTINCT {column} FROM {table}")} <= {waiting}
        assert await desk.rows("SELECT * FROM audit") == trail
        await desk.answer_all(waiting)
        assert (await desk.resume(waiting, one(clerk()), sends())).status == "done"


async def test_what_is_shown_of_a_run_has_no_inner_names(desk: Desk) -> None:
    outcome = await desk.run(one(Agent("scout", prompt="Look.")), says(), budget=Budget(turns=5))
    shown = (await desk.record(outcome.run)).to_json()
    assert (shown["run"], shown["status"], shown["by"]) == (outcome.run, "done", ME.key)
    assert shown["budget"]["turns"] == 5
    assert shown["spent"]["turns"] == 1
    assert not {"principal", "fingerprint", "traceparent", "settings"} & set(shown)


async def test_a_finished_agent_leaves_nothing_in_memory(desk: Desk) -> None:
    execution = await desk.start(fan(Agent("scout", prompt="Look."), [str(n) for n in range(20)]), says())
    await desk.runs.execute(execution)
    assert set(execution.paths.values()) == {None}
    assert desk.runs.bus.followed(execution.run) is False
