"""Users' own nodes: a workflow is a plain LangGraph graph, and what its nodes ask lands in the same inbox."""

from __future__ import annotations

import asyncio
from operator import add
from typing import Annotated, Any, Literal, cast

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel

from retinue.agents.agent import Agent
from retinue.agents.models.scripted import ScriptedModel
from retinue.agents.tools.functions import FunctionToolset
from retinue.errors import AnswerRejected
from retinue.graphs.nodes import each, step
from retinue.graphs.workflow import Workflow
from tests.support.desk import APPROVE, Desk

pytestmark = pytest.mark.anyio


class State(BaseModel):
    question: str = ""
    said: Annotated[list[Any], add] = []
    text: str | None = None


class Choice(BaseModel):
    colour: Literal["red", "blue"]
    shade: int


Graph = StateGraph[Any, Any, Any, Any]


def flow(graph: Graph, **options: Any) -> Workflow:
    return Workflow("flow", graph, **options)


def chain(*nodes: Any, state: type[Any] = State) -> Graph:
    """Nodes one after the other, under the names of their functions."""
    graph: Graph = StateGraph(state)
    graph.add_sequence(nodes)
    graph.add_edge(START, nodes[0].__name__)
    return graph


async def test_an_interrupt_becomes_a_question_and_its_answer_the_value(desk: Desk) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt("which colour?", response_schema={"enum": ["red", "blue"]})]}

    outcome = await desk.run(flow(graph := chain(ask)))
    assert outcome.status == "waiting"
    (question,) = await desk.inbox()
    assert (question.kind, question.title, question.path) == ("choice", "which colour?", "")
    with pytest.raises(AnswerRejected):
        await desk.answer(question, "green")
    await desk.answer(question, "blue")
    outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.status == "done"
    assert outcome.output["said"] == ["blue"]


async def test_several_interrupts_at_once_are_answered_in_any_order_and_one_at_a_time(desk: Desk) -> None:
    entered: list[str] = []

    async def ask(item: str) -> dict[str, Any]:
        entered.append(item)
        return {"said": [(item, interrupt(f"what about {item}?"))]}

    async def fan(state: State) -> dict[str, Any]:
        return {}

    graph: Graph = StateGraph(State)
    graph.add_node("fan", fan)
    graph.add_node("ask", cast(Any, ask))
    graph.add_edge(START, "fan")
    graph.add_conditional_edges("fan", each(lambda s: ["a", "b", "c"], "ask"), ["ask"])
    graph.add_edge("ask", END)
    outcome = await desk.run(flow(graph))
    for _ in range(2):
        asked = sorted(await desk.inbox(), key=lambda q: q.title)
        await desk.answer(asked[-1], f"{asked[-1].title} yes")
        outcome = await desk.resume(outcome.run, flow(graph))
        assert outcome.status == "waiting"
    (last,) = await desk.inbox()
    await desk.answer(last, "what about a? yes")
    outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.output["said"] == [[i, f"what about {i}? yes"] for i in "abc"]
    # A branch that was answered is not entered again when another one is.
    assert (entered.count("c"), entered.count("b"), entered.count("a")) == (2, 3, 4)


async def test_interrupts_in_a_loop_of_one_node_are_asked_one_after_the_other(desk: Desk) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt(f"number {n}?") for n in range(3)]}

    graph = chain(ask)
    outcome = await desk.run(flow(graph))
    for n in range(3):
        (question,) = await desk.inbox()
        assert question.title == f"number {n}?"
        await desk.answer(question, n * 10)
        outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.output["said"] == [0, 10, 20]


async def test_interrupts_of_one_loop_survive_a_new_process_between_them(tmp_path: Any) -> None:
    from tests.support.desk import opened

    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt(f"number {n}?") for n in range(3)]}

    async with opened(tmp_path / "runs.db") as first:
        outcome = await first.run(flow(chain(ask)))
    for n in range(3):
        async with opened(tmp_path / "runs.db") as other:
            (question,) = await other.inbox()
            await other.answer(question, n)
            outcome = await other.resume(outcome.run, flow(chain(ask)))
    assert outcome.output["said"] == [0, 1, 2]


async def test_an_answer_that_the_nodes_own_type_refuses_is_asked_again_with_the_reason(desk: Desk) -> None:
    class Even(BaseModel):
        number: int

        def model_post_init(self, context: Any) -> None:
            if self.number % 2:
                raise ValueError("it is odd")

    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt("an even number?", response_schema=Even).number]}

    graph = chain(ask)
    outcome = await desk.run(flow(graph))
    (question,) = await desk.inbox()
    assert question.schema["properties"]["number"]["type"] == "integer"
    for odd in (1, 3):
        await desk.answer(question, {"number": odd})
        outcome = await desk.resume(outcome.run, flow(graph))
        assert outcome.status == "waiting"
        (question,) = await desk.inbox()
        assert "it is odd" in question.body["problem"]
    await desk.answer(question, {"number": 4})
    outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.output["said"] == [4]
    assert sorted(s for (s,) in await desk.rows("SELECT status FROM questions")) == [
        "answered",
        "withdrawn",
        "withdrawn",
    ]


async def test_of_two_answers_only_the_refused_one_is_asked_again(desk: Desk) -> None:
    class Short(BaseModel):
        text: str

        def model_post_init(self, context: Any) -> None:
            if len(self.text) > 3:
                raise ValueError("too long")

    async def left(state: State) -> dict[str, Any]:
        return {"said": [interrupt("left?", response_schema=Short).text]}

    async def right(state: State) -> dict[str, Any]:
        return {"said": [interrupt("right?", response_schema=Short).text]}

    graph = StateGraph(State)
    for node in (left, right):
        graph.add_node(node)
        graph.add_edge(START, node.__name__)
    outcome = await desk.run(flow(graph))
    for question in await desk.inbox():
        await desk.answer(question, {"text": "yes" if question.title == "left?" else "too long"})
    outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.status == "waiting"
    (question,) = await desk.inbox()
    assert question.title == "right?"
    await desk.answer(question, {"text": "ok"})
    outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.output["said"] == ["yes", "ok"]


async def test_a_schema_that_is_no_json_schema_takes_any_answer(desk: Desk) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt("what?", response_schema={"type": "no such type"})]}

    outcome = await desk.run(flow(graph := chain(ask)))
    await desk.answer_all(outcome.run, "that")
    assert (await desk.resume(outcome.run, flow(graph))).output["said"] == ["that"]


@pytest.mark.parametrize("value", [2**80, {1: {2, 3}}, {"when": b"x"}, "half \udcff"], ids=ascii)
async def test_whatever_a_node_shows_can_be_shown(desk: Desk, value: Any) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt(value)]}

    outcome = await desk.run(flow(graph := chain(ask)))
    assert outcome.status == "waiting", outcome.error
    await desk.answer_all(outcome.run, "ok")
    assert (await desk.resume(outcome.run, flow(graph))).status == "done"


async def test_a_question_that_a_checkpoint_cannot_hold_is_a_typed_error(desk: Desk) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt(Alien())]}

    outcome = await desk.run(flow(chain(ask)))
    assert outcome.error is not None
    assert outcome.error.code == "not_serializable"


async def test_an_answer_without_a_json_form_is_rejected(desk: Desk) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt("what?")]}

    await desk.run(flow(chain(ask)))
    (question,) = await desk.inbox()
    for value in (2**80, "half \udcff", object()):
        with pytest.raises(AnswerRejected):
            await desk.answer(question, value)
    assert len(await desk.inbox()) == 1


async def test_false_and_null_are_answers(desk: Desk) -> None:
    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt("yes or no?"), interrupt("anything?")]}

    outcome = await desk.run(flow(graph := chain(ask)))
    for value in (False, None):
        await desk.answer_all(outcome.run, value)
        outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.output["said"] == [False, None]


async def test_a_person_and_an_agent_ask_at_once(desk: Desk) -> None:
    sent: list[str] = []

    async def send(to: str) -> str:
        """Send it."""
        sent.append(to)
        return "sent"

    async def ask(state: State) -> dict[str, Any]:
        return {"said": [interrupt("and you?")]}

    clerk = Agent("clerk", prompt="Send.", tools=[FunctionToolset(send, effect="unsafe")])
    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_node("send", step(clerk, task="x", into="said"))
    graph.add_edge(START, "ask")
    graph.add_edge(START, "send")

    def model() -> ScriptedModel:
        from retinue.agents.models.function import ToolUse

        return ScriptedModel([ToolUse("send", {"to": "a"}), "done"])

    models = model()
    outcome = await desk.run(flow(graph), models)
    asked = {q.kind: q for q in await desk.inbox()}
    await desk.answer(asked["text"], "me")
    outcome = await desk.resume(outcome.run, flow(graph), models)
    assert outcome.status == "waiting"
    assert sent == []
    await desk.answer(asked["approval"], APPROVE)
    outcome = await desk.resume(outcome.run, flow(graph), models)
    assert sorted(outcome.output["said"]) == ["done", "me"]
    assert sent == ["a"]


async def test_a_node_goes_where_its_command_says(desk: Desk) -> None:
    async def start(state: State) -> Command[Literal["right"]]:
        return Command(goto="right", update={"said": ["start"]})

    async def left(state: State) -> dict[str, Any]:
        return {"said": ["left"]}

    async def right(state: State) -> Command[Literal["ask"]]:
        return Command(goto=[Send("ask", "x"), Send("ask", "y")])

    async def ask(item: str) -> dict[str, Any]:
        return {"said": [item + interrupt(item)]}

    graph: Graph = StateGraph(State)
    nodes: list[Any] = [start, left, right, ask]
    for node in nodes:
        graph.add_node(node)
    graph.add_edge(START, "start")
    outcome = await desk.run(flow(graph))
    for question in await desk.inbox():
        await desk.answer(question, "!")
    outcome = await desk.resume(outcome.run, flow(graph))
    assert outcome.output["said"] == ["start", "x!", "y!"]


class Kept(BaseModel):
    word: str


class Inner(BaseModel):
    question: str
    kept: Kept | None = None
    words: Annotated[list[str], add] = []
    text: str | None = None


async def test_a_subgraph_with_agents_and_interrupts_works_as_a_node(desk: Desk) -> None:
    async def keep(state: Inner) -> dict[str, Any]:
        return {"kept": Kept(word=interrupt("a word?"))}

    scout = Agent("scout", prompt="Look.")
    inner = StateGraph(Inner)
    inner.add_node("keep", keep)
    inner.add_node("scout", step(scout, task=lambda s: s.kept.word, into="words"))
    inner.add_edge(START, "keep")
    inner.add_edge("keep", "scout")

    async def finish(state: Any) -> dict[str, Any]:
        return {"text": "".join(state.words)}

    inner.add_node("finish", finish)
    inner.add_edge("scout", "finish")
    outer = StateGraph(State)
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    workflow = flow(outer)
    assert [agent.name for agent in workflow.agents] == ["scout"]
    models = ScriptedModel(["found it"])
    outcome = await desk.run(workflow, models)
    await desk.answer_all(outcome.run, "lease")
    outcome = await desk.resume(outcome.run, workflow, models)
    assert outcome.output["text"] == "found it"
    (path,) = await desk.facts(outcome.run)
    assert path.startswith("inner~")
    assert path.endswith("/scout@2")


async def test_a_subgraphs_change_is_seen_in_the_fingerprint() -> None:
    def workflow(*names: str) -> Workflow:
        async def nothing(state: State) -> dict[str, Any]:
            return {}

        inner = StateGraph(State)
        for name in names:
            inner.add_node(name, nothing)
        inner.add_edge(START, names[0])
        outer = StateGraph(State)
        outer.add_node("inner", inner.compile())
        outer.add_edge(START, "inner")
        return flow(outer)

    assert workflow("a", "b").shape == workflow("a", "b").shape
    assert workflow("a", "b").shape != workflow("a", "c").shape


async def test_a_node_with_a_retry_policy_is_retried_and_its_agent_does_not_repeat_itself(desk: Desk) -> None:
    attempts: list[int] = []

    def into(value: str, state: State) -> dict[str, Any]:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("not yet")
        return {"text": value}

    graph = StateGraph(State)
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ConnectionError)
    graph.add_node("scout", step(Agent("scout", prompt="Look."), task="x", into=into), retry_policy=policy)
    graph.add_edge(START, "scout")
    models = ScriptedModel(["once"])
    outcome = await desk.run(flow(graph), models)
    assert outcome.output["text"] == "once"
    assert (len(attempts), len(models.requests)) == (3, 1)


async def test_an_error_inside_parallel_tool_calls_reaches_the_retry_policy_as_itself(desk: Desk) -> None:
    from retinue.agents.models.function import ToolUse
    from retinue.errors import Unreachable

    tries: list[str] = []

    async def look(q: str) -> str:
        """Look."""
        tries.append(q)
        if q == "bad" and tries.count("bad") < 2:
            raise Unreachable("not there")
        return q

    graph = StateGraph(State)
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=Unreachable)
    scout = Agent("scout", prompt="Look.", tools=[FunctionToolset(look, effect="read_only")])
    graph.add_node("scout", step(scout, task="x", into="text"), retry_policy=policy)
    graph.add_edge(START, "scout")
    models = ScriptedModel([[ToolUse("look", {"q": "good"}), ToolUse("look", {"q": "bad"})], "done"])
    outcome = await desk.run(flow(graph), models)
    assert outcome.output["text"] == "done"
    assert sorted(tries) == ["bad", "bad", "good"]
    assert len(models.requests) == 2


async def test_a_failing_node_says_where_and_shows_no_traceback(desk: Desk) -> None:
    async def broken(state: State) -> dict[str, Any]:
        raise KeyError("secret-ish")

    outcome = await desk.run(flow(chain(broken)))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "node_failed"
    assert "KeyError" in outcome.error.message
    assert "test_users_nodes.py:" in outcome.error.message
    assert "Traceback" not in outcome.error.message
    assert (await desk.record(outcome.run)).error == outcome.error.body()


async def test_the_place_named_is_the_users_and_not_a_librarys(desk: Desk) -> None:
    import json

    async def broken(state: State) -> dict[str, Any]:
        return json.loads("{")

    outcome = await desk.run(flow(chain(broken)))
    assert outcome.error is not None
    assert "test_users_nodes.py:" in outcome.error.message
    assert "decoder.py" not in outcome.error.message


async def test_errors_in_a_group_are_unwrapped(desk: Desk) -> None:
    async def broken(state: State) -> dict[str, Any]:
        async def fail() -> None:
            raise ValueError("inside")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
        return {}

    outcome = await desk.run(flow(chain(broken)))
    assert outcome.error is not None
    assert outcome.error.message.startswith("ValueError: inside")


async def test_a_graph_that_never_ends_is_ended_by_its_limit_of_supersteps(desk: Desk) -> None:
    async def again(state: State) -> Command[Literal["again"]]:
        return Command(goto="again", update={"said": [1]})

    outcome = await desk.run(flow(chain(again), max_steps=7))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert "supersteps" in outcome.error.message


async def test_the_limit_of_supersteps_counts_over_resumes(desk: Desk) -> None:
    async def again(state: State) -> Command[Literal["again"]]:
        interrupt("go on?")
        return Command(goto="again")

    workflow = flow(chain(again), max_steps=5)
    outcome = await desk.run(workflow)
    rounds = 0
    while outcome.status == "waiting":
        rounds += 1
        await desk.answer_all(outcome.run, True)
        outcome = await desk.resume(outcome.run, workflow)
    assert outcome.status == "failed"
    assert rounds <= 6


async def test_an_output_that_does_not_fit_is_a_typed_error(desk: Desk) -> None:
    class Answer(BaseModel):
        text: str

    async def nothing(state: State) -> dict[str, Any]:
        return {"said": [1]}

    graph = StateGraph(State, output_schema=Answer)
    graph.add_sequence([nothing])
    graph.add_edge(START, "nothing")
    outcome = await desk.run(flow(graph))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "output_invalid"


class Alien:
    pass


@pytest.mark.parametrize("value", [Alien(), lambda: None], ids=["object", "function"])
async def test_a_value_that_cannot_be_kept_fails_the_run_and_loses_nothing_else(desk: Desk, value: Any) -> None:
    class Loose(BaseModel):
        question: str = ""
        text: str | None = None
        extra: Any = None

    graph = StateGraph(Loose)
    graph.add_node("scout", step(Agent("scout", prompt="Look."), task="x", into="text"))

    async def spoil(state: Loose) -> dict[str, Any]:
        return {"extra": value}

    graph.add_node("spoil", spoil)
    graph.add_edge(START, "scout")
    graph.add_edge("scout", "spoil")
    outcome = await desk.run(flow(graph), ScriptedModel(["kept"]))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "not_serializable"
    assert "extra" in outcome.error.message
    assert (await desk.facts(outcome.run))["scout@1"]["output"] == {"value": "kept"}


async def test_an_output_that_has_no_json_form_is_a_typed_error(desk: Desk) -> None:
    class Big(BaseModel):
        question: str = ""
        number: int = 0

    async def grow(state: Big) -> dict[str, Any]:
        return {"number": 2**80}

    outcome = await desk.run(flow(chain(grow, state=Big)))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "not_serializable"


def merge(left: list[int], right: list[int]) -> list[int]:
    return left + right


class Merged(BaseModel):
    numbers: Annotated[list[int], merge] = []


async def test_a_reducer_of_the_users_own_does_not_look_like_a_change_in_the_next_process() -> None:
    assert "0x" not in str(flow(chain(_nothing, state=Merged)).shape)


async def _nothing(state: Any) -> dict[str, Any]:
    return {}


async def test_a_wrapped_step_says_that_its_agent_is_not_a_step_of_the_workflow(desk: Desk) -> None:
    inner = step(Agent("scout", prompt="Look."), task="x")

    async def wrapped(state: State, config: Any) -> Any:
        return await inner(state, config)

    wrapped.__annotations__.clear()
    outcome = await desk.run(flow(chain(wrapped)))
    assert outcome.error is not None
    assert outcome.error.code == "config_invalid"
    assert "scout" in outcome.error.message
