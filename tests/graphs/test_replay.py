"""A run made a test: replayed by path, whatever the order; what differs is told; no secret is in the recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from retinue.agents.agent import Agent
from retinue.agents.models.base import FREE, Model
from retinue.agents.models.function import Answer, FunctionCall, FunctionModel
from retinue.agents.models.scripted import ScriptedModel
from retinue.errors import ToolFailed, UsageError
from retinue.graphs.nodes import step
from retinue.graphs.recording import RecordedModel, Recording, record
from retinue.graphs.redact import REDACTED, Redactor
from retinue.graphs.replay import replay, without_secrets
from retinue.graphs.workflow import Workflow
from tests.support.desk import APPROVE, Desk
from tests.support.flows import State, fan, one, tool

pytestmark = pytest.mark.anyio

KEY = "sk-ant-api03-abcdefghijklmnop"


def functions(flow: Workflow) -> Mapping[str, Model]:
    found: dict[str, Model] = {}
    for agent in flow.agents:
        assert agent.function is not None
        function = agent.function
        found[agent.name] = (
            function if isinstance(function, FunctionModel) else FunctionModel(function, name=agent.name)
        )
    return found


async def recorded(desk: Desk, flow: Workflow, run: str) -> Recording:
    (started,) = await desk.events(run, "run.started")
    models = {
        agent: RecordedModel(name=name, price=FREE, language_model=started["language_model"])
        for agent, name in started["models"].items()
    }
    return await record(desk.db, await desk.record(run), target=flow.name, models=models, servers={})


async def same(desk: Desk, flow: Workflow, run: str) -> Recording:
    found = await recorded(desk, flow, run)
    again = await replay(found, flow)
    assert again.differences == []
    return found


def calling(function: Any, effect: Any, *, calls: int = 1) -> Agent:
    def say(call: FunctionCall) -> Answer:
        if call.results:
            return "; ".join(result.text for result in call.results)
        return [call.use("act", what=f"{call.task} {n}") for n in range(calls)]

    return Agent("actor", prompt="Act.", function=say, tools=[tool(function, effect)])


async def test_parallel_branches_with_parallel_calls_replay_by_path_and_nothing_is_called(desk: Desk) -> None:
    made: list[str] = []

    def act(what: str) -> str:
        """Act."""
        made.append(what)
        return f"{what} was number {len(made)}"

    flow = fan(calling(act, "read_only", calls=3), ["a", "b", "c"])
    run = (await desk.run(flow, functions(flow))).run
    for _ in range(3):
        await same(desk, flow, run)
    assert len(made) == 9


async def test_answers_are_given_again_in_their_rounds(desk: Desk) -> None:
    def act(what: str) -> str:
        """Act."""
        return what

    flow = fan(calling(act, "unsafe"), ["a", "b"])
    run = (await desk.run(flow, functions(flow))).run
    for value in (APPROVE, {"decision": "reject", "reason": "no"}):
        await desk.answer((await desk.inbox(run))[0], value)
        outcome = await desk.resume(run, flow, functions(flow))
    assert outcome.status == "done"
    assert (await same(desk, flow, run)).pauses


async def test_a_run_that_waits_replays_up_to_its_question(desk: Desk) -> None:
    def act(what: str) -> str:
        """Act."""
        return what

    flow = one(calling(act, "unsafe"))
    run = (await desk.run(flow, functions(flow))).run
    assert (await same(desk, flow, run)).status == "waiting"


async def test_a_call_in_doubt_is_in_doubt_again(desk: Desk) -> None:
    def act(what: str) -> str:
        """Act."""
        raise ToolFailed("the line is dead")

    flow = one(calling(act, "unsafe"))
    run = (await desk.run(flow, functions(flow), settings={"approve": ["*"]})).run
    (question,) = await desk.inbox(run)
    await desk.answer(question, {"happened": True, "result": "it did"})
    assert (await desk.resume(run, flow, functions(flow))).output["text"] == "it did"
    await same(desk, flow, run)


async def test_interrupts_of_users_own_nodes_are_answered_again(desk: Desk) -> None:
    def ask(state: State) -> dict[str, Any]:
        return {"text": interrupt("Which text?")}

    graph = StateGraph(State)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    flow = Workflow("asking", graph)
    run = (await desk.run(flow)).run
    await desk.answer_all(run, "this one")
    assert (await desk.resume(run, flow)).output["text"] == "this one"
    await same(desk, flow, run)


async def test_runs_that_members_made_are_replayed_with_it(desk: Desk) -> None:
    member = fan(Agent("looker", prompt="Look.", function=lambda call: f"saw {call.task}"), ["a", "b"])
    graph = StateGraph(State)
    graph.add_node("ask", step(member, task="{}", into=lambda out, s: {"text": str(out.found)}))
    graph.add_edge(START, "ask")
    flow = Workflow("outer", graph)
    run = (await desk.run(flow, functions(flow))).run
    assert len((await same(desk, flow, run)).runs) == 2


async def test_a_failed_run_fails_alike(desk: Desk) -> None:
    from retinue.errors import ModelError

    flow = one(Agent("worker", prompt="Work."))
    outcome = await desk.run(flow, ScriptedModel([ModelError("the service is down")]))
    assert outcome.status == "failed"
    assert (await same(desk, flow, outcome.run)).error is not None


async def test_long_results_are_replayed_whole(desk: Desk) -> None:
    def act(what: str) -> str:
        """Act."""
        return "x" * 900

    agent = calling(act, "read_only")
    agent.max_result = 100
    flow = one(agent)
    run = (await desk.run(flow, functions(flow))).run
    assert len((await same(desk, flow, run)).artifacts) == 1


async def test_a_changed_task_prompt_and_tool_are_each_told(desk: Desk) -> None:
    def act(what: str) -> str:
        """Act."""
        return what

    flow = one(calling(act, "read_only"))
    found = await recorded(desk, flow, (await desk.run(flow, functions(flow))).run)
    other = await replay(found, one(calling(act, "read_only"), task="another task"))
    assert "work@1 task.task was 'the task', is 'another task'" in other.differences
    assert "work@1: the model is asked something else at reply:0" in other.differences

    def changed(what: str, more: int = 0) -> str:
        """Act."""
        return what

    changed.__name__ = "act"
    tools = await replay(found, one(calling(changed, "read_only")))
    assert tools.differences == ["tools: actor.act has changed"]
    agent = calling(act, "read_only")
    agent.prompt += " Now."
    prompts = await replay(found, one(agent))
    assert prompts.differences == ["prompts: actor has changed"]


async def test_no_secret_is_in_a_recording_and_it_still_replays(desk: Desk) -> None:
    def act(what: str) -> str:
        """Act."""
        return f"password: hunter2hunter2 for {what}, and the word is tangerine-9"

    flow = one(calling(act, "read_only"), task=lambda s: f"use {s.question}")
    found = await recorded(desk, flow, (await desk.run(flow, functions(flow), value={"question": KEY})).run)
    kept = await without_secrets(found, flow, Redactor(["tangerine-9"]))
    text = kept.model_dump_json()
    assert REDACTED in text
    assert [secret for secret in (KEY, "hunter2hunter2", "tangerine-9") if secret in text] == []
    assert Recording.model_validate_json(text) == kept
    assert (await replay(kept, flow)).differences == []


async def test_a_run_whose_code_says_a_secret_is_not_recorded(desk: Desk) -> None:
    flow = one(Agent("worker", prompt="Work.", function=lambda call: "done"), task=f"use {KEY}")
    found = await recorded(desk, flow, (await desk.run(flow, functions(flow))).run)
    with pytest.raises(UsageError, match="the workflow's own code puts a secret into it"):
        await without_secrets(found, flow, Redactor())


async def test_runs_that_are_stopped_forked_or_part_of_another_are_not_recorded(desk: Desk) -> None:
    flow = one(Agent("worker", prompt="Work."))
    execution = await desk.start(flow, ScriptedModel(["x"]))
    execution.end("stop")
    await desk.runs.execute(execution)
    with pytest.raises(UsageError, match="it is stopped"):
        await recorded(desk, flow, execution.run)


@given(st.text("abc 019-_:/\"'=", max_size=40), st.text("abc ", max_size=8))
def test_a_known_secret_never_stays_and_redacting_twice_changes_nothing(around: str, end: str) -> None:
    redactor = Redactor([KEY, "tangerine-9"])
    text = f"{around}{KEY}{end}tangerine-9{around}"
    once = redactor.value({"note": [text]})
    assert KEY not in str(once)
    assert "tangerine-9" not in str(once)
    assert redactor.value(once) == once
