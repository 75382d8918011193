"""Questions are asked once and answered once, by a person who may, whoever executes the run."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from retinue.agents.agent import Agent
from retinue.agents.models.function import FunctionCall, ToolUse
from retinue.auth.principal import Principal
from retinue.errors import AlreadyAnswered, AnswerRejected, NotAllowed, QuestionNotFound
from retinue.graphs import questions
from retinue.graphs.workflow import Workflow
from tests.support.desk import APPROVE, Desk, opened
from tests.support.flows import Sayer, fan, one, tool
from tests.support.people import DELEGATE, OTHER, READER

pytestmark = pytest.mark.anyio


class Outbox:
    """A tool that sends, and asks first."""

    def __init__(self, *, server: str = "outbox") -> None:
        self.sent: list[str] = []
        self.toolset = tool(self.send, "unsafe", name=server)
        self.agent = Agent("clerk", prompt="Send.", tools=[self.toolset])

    async def send(self, to: str, count: int = 1) -> str:
        """Send it."""
        self.sent += [to] * count
        return f"sent to {to}"

    def model(self) -> Sayer:
        def say(call: FunctionCall) -> Any:
            if not call.turn:
                return ToolUse("send", {"to": call.task})
            return call.results[-1].text

        return Sayer(say)


async def asked(desk: Desk, **options: Any) -> tuple[Outbox, Workflow, Sayer, str, questions.Question]:
    """A run that waits for an approval."""
    outbox = Outbox()
    flow, model = one(outbox.agent, **options), outbox.model()
    outcome = await desk.run(flow, model)
    assert outcome.status == "waiting"
    (question,) = await desk.inbox()
    return outbox, flow, model, outcome.run, question


async def test_an_approval_shows_exactly_what_will_be_called(desk: Desk) -> None:
    outbox, flow, model, run, question = await asked(desk)
    assert question.kind == "approval"
    assert question.path == "work@1"
    assert question.body["arguments"] == {"to": "the task"}
    assert (question.body["server"], question.body["tool"]) == ("outbox", "send")
    assert outbox.sent == []
    await desk.answer(question)
    outcome = await desk.resume(run, flow, model)
    assert (outcome.output["text"], outbox.sent) == ("sent to the task", ["the task"])
    assert len(model.requests) == 2


async def test_a_rejection_tells_the_model_why(desk: Desk) -> None:
    outbox, flow, model, run, question = await asked(desk)
    await desk.answer(question, {"decision": "reject", "reason": "too early"})
    outcome = await desk.resume(run, flow, model)
    assert outcome.output["text"] == "A person rejected this call: too early"
    assert outbox.sent == []


async def test_edited_arguments_are_what_is_called_also_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "runs.db") as first:
        _, _, _, run, question = await asked(first)
        await first.answer(question, {"decision": "edit", "arguments": {"to": "her", "count": 2}})
    async with opened(tmp_path / "runs.db") as second:
        outbox = Outbox()
        outcome = await second.resume(run, one(outbox.agent), outbox.model())
        assert outcome.output["text"] == "sent to her"
        assert outbox.sent == ["her", "her"]
        assert (await second.facts(run))["work@1"]["intent:0.0"]["arguments"] == {"to": "her", "count": 2}


@pytest.mark.parametrize(
    "value",
    [
        {"decision": "edit"},
        {"decision": "edit", "arguments": {"to": 1}},
        {"decision": "edit", "arguments": {"to": "x", "else": 1}},
        {"decision": "maybe"},
        {},
        "approve",
        None,
        {"decision": "approve", "extra": 1},
    ],
    ids=orjson.dumps,
)
async def test_an_answer_that_does_not_fit_is_rejected_and_the_question_stays_open(desk: Desk, value: Any) -> None:
    outbox, flow, model, run, question = await asked(desk)
    with pytest.raises(AnswerRejected):
        await desk.answer(question, value)
    assert [q.id for q in await desk.inbox()] == [question.id]
    await desk.answer(question)
    assert (await desk.resume(run, flow, model)).status == "done"
    assert outbox.sent == ["the task"]


@pytest.mark.parametrize("who", [READER, DELEGATE], ids=["without the scope", "an agent for the person"])
async def test_an_answer_by_one_who_may_not_approve_is_refused(desk: Desk, who: Principal) -> None:
    *_, question = await asked(desk)
    with pytest.raises(NotAllowed):
        await desk.answer(question, principal=who)
    assert len(await desk.inbox()) == 1


async def test_anothers_question_is_not_there(desk: Desk) -> None:
    *_, question = await asked(desk)
    with pytest.raises(QuestionNotFound):
        await desk.answer(question, principal=OTHER)
    assert await questions.inbox(desk.db, subject=OTHER.key) == []


async def test_a_question_is_answered_once(desk: Desk) -> None:
    *_, question = await asked(desk)
    await desk.answer(question)
    with pytest.raises(AlreadyAnswered, match="answered by"):
        await desk.answer(question, {"decision": "reject"})


async def test_of_two_that_answer_at_once_one_is_told_that_it_was_late(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with opened(path) as first, opened(path) as second:
        *_, question = await asked(first)
        results = await asyncio.gather(*(d.answer(question) for d in (first, second)), return_exceptions=True)
        assert sorted(type(r).__name__ for r in results) == ["AlreadyAnswered", "Question"]


async def test_an_approval_is_for_what_was_shown_and_for_nothing_else(desk: Desk) -> None:
    outbox, flow, model, run, question = await asked(desk)
    await desk.answer(question)
    body = {**question.body, "hash": "0" * 64}
    await desk.change("UPDATE questions SET body = ? WHERE id = ?", orjson.dumps(body).decode(), question.id)
    outcome = await desk.resume(run, flow, model)
    assert "for other arguments" in outcome.output["text"]
    assert outbox.sent == []


async def test_a_question_that_nobody_answers_in_time_counts_as_rejected(tmp_path: Path) -> None:
    now = [1000.0]
    async with opened(tmp_path / "runs.db", clock=lambda: now[0]) as desk:
        outbox, flow, model, run, question = await asked(desk, answer_within=60)
        assert question.expires_at == 1060
        assert await desk.runs.abandoned() == []
        now[0] += 61
        assert await desk.inbox() == []
        with pytest.raises(AlreadyAnswered, match="expired"):
            await desk.answer(question)
        # Nobody will answer any more, so somebody must go on with it.
        assert [record.id for record in await desk.runs.abandoned()] == [run]
        outcome = await desk.resume(run, flow, model)
        assert "Nobody approved this call in time" in outcome.output["text"]
        assert outbox.sent == []
        (line,) = await desk.events(run, "question.expired")
        assert (line["question"], line["kind"]) == (question.id, "approval")


async def test_a_run_whose_answer_nobody_went_on_with_is_found_again(desk: Desk) -> None:
    _, flow, model, run, question = await asked(desk)
    assert await desk.runs.abandoned() == []
    await desk.answer(question)
    assert [record.id for record in await desk.runs.abandoned()] == [run]
    await desk.resume(run, flow, model)
    assert await desk.runs.abandoned() == []


async def test_questions_of_a_run_that_is_over_are_withdrawn(desk: Desk) -> None:
    *_, run, question = await asked(desk)
    assert await desk.runs.cancel(await desk.record(run), principal=READER) is True
    assert await desk.inbox() == []
    with pytest.raises(AlreadyAnswered, match="withdrawn"):
        await desk.answer(question)


async def test_an_approval_given_at_the_start_is_not_asked_for_and_is_in_the_trail_once(desk: Desk) -> None:
    outbox = Outbox()
    outcome = await desk.run(one(outbox.agent), outbox.model(), settings={"approve": ["outbox/*"]})
    assert (outcome.status, outbox.sent) == ("done", ["the task"])
    rows = await desk.rows("SELECT body FROM audit WHERE action = 'tool.preapproved'")
    assert [orjson.loads(body)["rule"] for (body,) in rows] == ["outbox/*"]


async def test_an_approval_given_at_the_start_for_another_server_does_not_count(desk: Desk) -> None:
    outbox = Outbox(server="other")
    outcome = await desk.run(one(outbox.agent), outbox.model(), settings={"approve": ["outbox/*"]})
    assert outcome.status == "waiting"


async def test_an_answer_while_the_run_executes_is_taken_up_without_a_pause(on_disk: Desk) -> None:
    """One branch asks, the other still works; the answer comes before the run would wait."""
    outbox = Outbox()
    gate = asyncio.Event()

    async def pause(call: FunctionCall) -> None:
        if call.task == "slow":
            await gate.wait()

    def say(call: FunctionCall) -> Any:
        if call.task == "slow":
            return "slow is done"
        return call.results[-1].text if call.turn else ToolUse("send", {"to": call.task})

    model = Sayer(say, pause=pause)
    execution = await on_disk.start(fan(outbox.agent, ["ask", "slow"]), model)
    running = asyncio.create_task(on_disk.runs.execute(execution))
    with anyio.fail_after(20):
        while not (found := await on_disk.inbox()):
            await anyio.lowlevel.checkpoint()
        await on_disk.answer(found[0])
        gate.set()
        outcome = await running
    assert outcome.output["found"] == ["sent to ask", "slow is done"]
    assert await on_disk.events(execution.run, "run.waiting") == []
    assert outbox.sent == ["ask"]


@pytest.mark.parametrize("seed", range(30))
async def test_no_wake_up_is_lost_whenever_the_answers_come(tmp_path: Path, seed: int) -> None:
    """Answers come at random moments from another connection; nobody resumes a run that does not wait."""
    chance = random.Random(seed)
    outbox = Outbox()
    path = tmp_path / "runs.db"
    async with opened(path) as desk, opened(path) as person:
        flow = fan(outbox.agent, ["a", "b", "c"])
        model = outbox.model()
        execution = await desk.start(flow, model)
        over = asyncio.Event()

        async def answer() -> None:
            while not over.is_set():
                for question in await person.inbox():
                    if chance.random() < 0.3:
                        await person.answer(question)
                for _ in range(chance.randrange(20)):
                    await asyncio.sleep(0)

        with anyio.fail_after(30):
            answering = asyncio.create_task(answer())
            outcome = await desk.runs.execute(execution)
            while outcome.status == "waiting":
                waiting = (await desk.events(execution.run, "run.waiting"))[-1]["questions"]
                open_ = [q["id"] for q in waiting]
                while set(open_) <= {q.id for q in await desk.inbox()}:
                    await anyio.lowlevel.checkpoint()
                outcome = await desk.resume(execution.run, flow, model)
            over.set()
            await answering
        assert outcome.output["found"] == ["sent to a", "sent to b", "sent to c"]
        assert sorted(outbox.sent) == ["a", "b", "c"]
        assert len(model.requests) == 6
        asked = await desk.events(execution.run, "question.asked")
        assert len(asked) == 3


async def test_two_questions_of_one_agent_are_asked_together_and_answered_apart(desk: Desk) -> None:
    outbox = Outbox()

    def say(call: FunctionCall) -> Any:
        if not call.turn:
            return [ToolUse("send", {"to": "a"}), ToolUse("send", {"to": "b"})]
        return " / ".join(result.text for result in call.results)

    flow, model = one(outbox.agent), Sayer(say)
    outcome = await desk.run(flow, model)
    first, second = await desk.inbox()
    await desk.answer(second)
    outcome = await desk.resume(outcome.run, flow, model)
    assert outcome.status == "waiting"
    assert outbox.sent == [second.body["arguments"]["to"]]
    await desk.answer(first, {"decision": "reject"})
    outcome = await desk.resume(outcome.run, flow, model)
    assert outbox.sent == [second.body["arguments"]["to"]]
    assert "rejected" in outcome.output["text"]
    assert len(model.requests) == 2
    assert len(await desk.events(outcome.run, "question.asked")) == 2


async def test_a_resume_with_nothing_answered_waits_again_and_repeats_nothing(desk: Desk) -> None:
    _, flow, model, run, question = await asked(desk)
    for _ in range(3):
        assert (await desk.resume(run, flow, model)).status == "waiting"
    assert [q.id for q in await desk.inbox()] == [question.id]
    assert len(model.requests) == 1
    await desk.answer(question, APPROVE)
    assert (await desk.resume(run, flow, model)).status == "done"


async def test_a_schema_does_not_make_anybody_fetch_anything() -> None:
    with pytest.raises(AnswerRejected, match="not looked up"):
        questions.check({"$ref": "http://127.0.0.1:9/schema"}, 1)
