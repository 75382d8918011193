"""The loop of one agent: what it asks, what it makes of answers, and which errors it ends with."""

from __future__ import annotations

import hashlib
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from retinue.agents.agent import Agent
from retinue.agents.budget import Spend
from retinue.agents.calls import keep
from retinue.agents.loop import DATA_NOTICE, TOOL_PROMPT
from retinue.agents.member import Done, Waiting
from retinue.agents.models.base import Price, Reply, Usage
from retinue.agents.models.function import FunctionCall, ToolUse
from retinue.agents.models.scripted import ScriptedModel
from retinue.agents.scope import Left
from retinue.agents.tools.base import ToolResult
from retinue.errors import (
    BudgetExceeded,
    ModelContextExceeded,
    ModelRefused,
    ModelTruncated,
    OutputInvalid,
    RunError,
    SignInNeeded,
    Timeout,
    ToolFailed,
    Unreachable,
    WorkflowChanged,
)
from tests.support.flows import Sayer, tool
from tests.support.scope import Bench, Rows

pytestmark = pytest.mark.anyio


class Finding(BaseModel):
    quote: str
    score: float = 0.0


def agent(*tools: Any, **options: Any) -> Agent:
    settings: dict[str, Any] = {"prompt": "Look.", "tools": tools, **options}
    return Agent("scout", **settings)


def look(q: str) -> str:
    """Look it up."""
    return f"found {q}"


LOOK = tool(look, "read_only")


def reply(*content: dict[str, Any], stop: Any = "end_turn") -> Reply:
    return Reply(content=list(content), stop_reason=stop, model="m")


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


# What it asks


async def test_the_model_sees_the_prompt_the_task_and_the_tools() -> None:
    model = ScriptedModel(["done"])
    assert await Bench(agent(LOOK), model).done("find it") == "done"
    (request,) = model.requests
    assert request.system == f"Look.\n\n{DATA_NOTICE}"
    assert list(request.messages) == [{"role": "user", "content": "find it"}]
    assert [spec["name"] for spec in request.tools] == ["look"]
    assert (request.agent, request.max_tokens, request.output) == ("scout", 4096, None)


async def test_without_tools_nothing_is_said_about_them() -> None:
    model = ScriptedModel(["done"])
    await Bench(agent(), model).done()
    assert model.requests[0].system == "Look."


async def test_results_go_back_beside_their_calls() -> None:
    model = ScriptedModel([[ToolUse("look", {"q": "a"}), ToolUse("look", {"q": "b"})], "done"])
    await Bench(agent(LOOK), model).done()
    asked, answered = model.requests[1].messages[1:]
    assert asked["role"] == "assistant"
    assert [(b["tool_use_id"], b["content"]) for b in answered["content"] if isinstance(b, dict)] == [
        ("toolu_fn_0_0", [text("found a")]),
        ("toolu_fn_0_1", [text("found b")]),
    ]


async def test_a_tool_that_the_policy_denies_is_not_offered_and_not_called() -> None:
    called: list[str] = []

    def drop(what: str) -> str:
        """Drop it."""
        called.append(what)
        return "gone"

    model = ScriptedModel([ToolUse("drop", {"what": "x"}), "ok"])
    bench = Bench(agent(LOOK, tool(drop, "unsafe", deny=["drop"])), model)
    await bench.done()
    assert [spec["name"] for spec in model.requests[0].tools] == ["look"]
    assert "policy does not allow" in str(model.requests[1].messages[-1])
    assert called == []
    assert [action for action, _ in bench.rows.audit] == ["tool.denied"]


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("nothing", {}, "There is no tool named 'nothing'"),
        ("look", {}, "Invalid arguments"),
        ("look", {"q": 1}, "Invalid arguments: q: 1 is not of type 'string'"),
        ("look", {"q": "x", "more": 1}, "Invalid arguments"),
        ("look", ["x"], "they must be a JSON object"),
        ("look", "x", "they must be a JSON object"),
        ("look", None, "they must be a JSON object"),
    ],
)
async def test_a_call_that_makes_no_sense_is_told_to_the_model(name: str, arguments: Any, said: str) -> None:
    use = {"type": "tool_use", "id": "t", "name": name, "input": arguments}
    model = ScriptedModel([reply(use, stop="tool_use"), "ok"])
    bench = Bench(agent(LOOK), model)
    assert await bench.done() == "ok"
    result = model.requests[1].messages[-1]["content"][0]
    assert isinstance(result, dict)
    assert result["is_error"] is True
    assert said in result["content"][0]["text"]
    assert not any(key.startswith("intent") for key in bench.rows.facts)


async def test_a_failing_tool_does_not_fail_the_ones_beside_it() -> None:
    def broken(q: str) -> str:
        """Break."""
        raise ValueError("no such thing")

    model = ScriptedModel([[ToolUse("broken", {"q": "a"}), ToolUse("look", {"q": "b"})], "ok"])
    await Bench(agent(LOOK, tool(broken, "read_only")), model).done()
    first, second = model.requests[1].messages[-1]["content"]
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["is_error"], first["content"]) == (True, [text("ValueError: no such thing")])
    assert second["content"] == [text("found b")]


async def test_a_tool_that_says_nothing_is_given_words() -> None:
    async def quiet() -> ToolResult:
        """Be quiet."""
        return ToolResult()

    model = ScriptedModel([ToolUse("quiet", {}), "ok"])
    await Bench(agent(tool(quiet, "read_only")), model).done()
    assert "(no output)" in str(model.requests[1].messages[-1])


# Its output


async def test_structured_output_is_read_and_typed() -> None:
    model = ScriptedModel([Finding(quote="x", score=0.5)])
    assert await Bench(agent(output=Finding), model).done() == Finding(quote="x", score=0.5)
    assert model.requests[0].output is not None
    assert model.requests[0].output["additionalProperties"] is False


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "\n {} \n"])
async def test_json_in_a_code_fence_is_json(fence: str) -> None:
    bench = Bench(agent(output=Finding), ScriptedModel([fence.replace("{}", '{"quote": "x"}')]))
    assert await bench.done() == Finding(quote="x")
    assert await bench.done() == Finding(quote="x")


async def test_an_invalid_answer_is_asked_for_again_once_with_what_is_wrong() -> None:
    model = ScriptedModel(['{"quote": 1}', '{"quote": "x"}'])
    assert await Bench(agent(output=Finding), model).done() == Finding(quote="x")
    said = model.requests[1].messages[-1]["content"]
    assert "quote: Input should be a valid string" in str(said)


async def test_an_answer_that_is_invalid_twice_is_a_typed_error() -> None:
    model = ScriptedModel(["nonsense", "more nonsense", '{"quote": "too late"}'])
    bench = Bench(agent(output=Finding), model)
    with pytest.raises(OutputInvalid):
        await bench.work()
    assert model.left == 1
    with pytest.raises(OutputInvalid):  # and nothing is asked to find that out again
        await bench.work()
    assert model.left == 1


async def test_an_empty_answer_is_asked_for_again_in_a_conversation_that_providers_accept() -> None:
    model = ScriptedModel([reply(), reply(text("")), "x"])
    with pytest.raises(OutputInvalid):
        await Bench(agent(), model).work()
    assistant = model.requests[1].messages[1]
    assert assistant["role"] == "assistant"
    assert assistant["content"] == [text("(no answer)")]


class Odd(BaseModel):
    """What a JSON form made of the value would not read back."""

    model_config = ConfigDict(strict=True)

    day: date
    sender: str = Field(alias="from")
    numbers: tuple[int, ...]
    flags: set[str]


async def test_an_output_is_the_same_value_when_it_is_replayed() -> None:
    answer = '{"day": "2026-11-20", "from": "me", "numbers": [1, 2], "flags": ["a"]}'
    bench = Bench(agent(output=Odd), ScriptedModel([answer]))
    first = await bench.done()
    again = await bench.done()
    assert first == again
    assert isinstance(again, Odd)
    assert again.numbers == (1, 2)


async def test_an_output_type_need_not_be_a_model() -> None:
    bench = Bench(agent(output=list[Finding]), ScriptedModel(['[{"quote": "a"}]']))
    assert await bench.done() == [Finding(quote="a")]
    assert await bench.done() == [Finding(quote="a")]


async def test_what_was_asked_for_so_far_is_not_changed_by_what_comes_after() -> None:
    """A paused turn goes on in the same message, and requests that were sent stay what they were."""
    first = reply(text("one "), {"type": "server_tool_use", "id": "s", "name": "x", "input": {}}, stop="pause_turn")
    model = ScriptedModel([first, reply(text("two ")), "unused"])
    bench = Bench(agent(), model)
    assert await bench.done() == "two "
    messages = model.requests[1].messages
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert len(messages[1]["content"]) == 2


async def test_a_turn_that_pauses_twice_is_still_one_message() -> None:
    model = ScriptedModel([reply(text("a"), stop="pause_turn"), reply(text("b"), stop="pause_turn"), "c"])
    assert await Bench(agent(), model).done() == "c"
    (_, assistant) = model.requests[2].messages
    assert assistant["content"] == [text("a"), text("b")]


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        ("refusal", ModelRefused),
        ("max_tokens", ModelTruncated),
        ("model_context_window_exceeded", ModelContextExceeded),
    ],
)
async def test_an_answer_that_is_none_is_a_typed_error_also_when_replayed(stop: Any, error: type[Exception]) -> None:
    model = ScriptedModel([reply(text("half"), stop=stop)])
    bench = Bench(agent(), model)
    for _ in range(2):
        with pytest.raises(error):
            await bench.work()
    assert model.left == 0
    assert "output" not in bench.rows.facts


async def test_a_conversation_without_end_ends_at_its_turns() -> None:
    model = Sayer(lambda call: ToolUse("look", {"q": str(call.turn)}))
    with pytest.raises(RunError, match="did not finish in 3 turns"):
        await Bench(agent(LOOK, max_turns=3), model).work()
    assert len(model.requests) == 3


# Replay


async def test_a_finished_agent_asks_nothing_when_it_is_run_again() -> None:
    model = ScriptedModel(["done"])
    bench = Bench(agent(), model)
    assert await bench.done() == await bench.done() == "done"
    assert bench.rows.commits == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "Look harder."},
        {"output": Finding},
        {"tools": []},
    ],
    ids=["prompt", "output", "tools"],
)
async def test_another_request_than_the_journals_is_noticed_and_not_replayed_over(changed: dict[str, Any]) -> None:
    rows = Rows()
    ask = tool(look, "read_only", ask=["look"])
    bench = Bench(agent(ask), ScriptedModel([ToolUse("look", {"q": "x"})]), rows)
    assert isinstance(await bench.work(), Waiting)
    with pytest.raises(WorkflowChanged):
        await Bench(agent(ask, **changed), ScriptedModel([]), rows).work()
    with pytest.raises(WorkflowChanged):
        await Bench(agent(ask), ScriptedModel([]), rows).work("another task")


async def test_a_changed_result_in_the_journal_is_noticed_at_the_next_turn() -> None:
    rows = Rows()
    ask = tool(look, "read_only", ask=["look"])
    script = [ToolUse("nothing", {}), ToolUse("look", {"q": "x"})]
    assert isinstance(await Bench(agent(ask), ScriptedModel(script), rows).work(), Waiting)
    rows.facts["result:0.0"] = rows.facts["result:0.0"].replace("no tool", "a tool")
    with pytest.raises(WorkflowChanged):
        await Bench(agent(ask), ScriptedModel([]), rows).work()


async def test_the_name_of_a_reply_is_kept_for_traces() -> None:
    bench = Bench(agent(), ScriptedModel([Reply(content=[text("x")], stop_reason="end_turn", model="m", id="msg_1")]))
    await bench.done()
    assert '"msg_1"' in bench.rows.facts["reply:0"]


# Tools that fail, and results that are large


@pytest.mark.parametrize("error", [Timeout("late"), ToolFailed("broken")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("effect", ["read_only", "idempotent"])
async def test_a_repeatable_tool_that_fails_is_the_models_to_deal_with(error: Exception, effect: Any) -> None:
    def broken() -> str:
        """Break."""
        raise error

    model = ScriptedModel([ToolUse("broken", {}), "ok"])
    await Bench(agent(tool(broken, effect)), model).done()
    assert "The tool did not answer" in str(model.requests[1].messages[-1])


@pytest.mark.parametrize("error", [Unreachable("gone"), SignInNeeded("who?")], ids=lambda e: type(e).__name__)
async def test_a_server_that_is_not_there_ends_the_agent_and_can_be_tried_again(error: Exception) -> None:
    answers: list[Exception | str] = [error, "found"]

    def flaky() -> str:
        """Break once."""
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    model = ScriptedModel([ToolUse("flaky", {}), "ok"])
    bench = Bench(agent(tool(flaky, "read_only")), model)
    with pytest.raises(type(error)):
        await bench.work()
    assert await bench.done() == "ok"


@pytest.mark.parametrize(
    "error", [Timeout("late"), ToolFailed("broken"), Unreachable("gone"), SignInNeeded("who?")], ids=str
)
async def test_an_unsafe_tool_that_gives_no_result_is_in_doubt(error: Exception) -> None:
    made: list[int] = []

    def pay() -> str:
        """Pay."""
        made.append(1)
        if len(made) == 1:
            raise error
        return "paid"

    model = ScriptedModel([ToolUse("pay", {}), "ok"])
    bench = Bench(agent(tool(pay, "unsafe", allow=["pay"])), model)
    assert await bench.work() == Waiting(("q:doubt:0.0",))
    assert await bench.work() == Waiting(("q:doubt:0.0",))
    assert len(made) == 1
    bench.rows.answer({"happened": False})
    assert await bench.done() == "ok"
    assert len(made) == 2
    assert "paid" in bench.rows.facts["result:0.0"]


async def test_a_call_that_a_person_says_happened_is_not_made_again() -> None:
    made: list[int] = []

    def pay() -> str:
        """Pay."""
        made.append(1)
        raise Timeout("late")

    model = ScriptedModel([ToolUse("pay", {}), "ok"])
    bench = Bench(agent(tool(pay, "unsafe", allow=["pay"])), model)
    await bench.work()
    bench.rows.answer({"happened": True})
    assert await bench.done() == "ok"
    assert made == [1]
    assert "A person confirmed" in str(model.requests[1].messages[-1])


async def test_a_call_that_is_in_doubt_twice_is_asked_about_twice() -> None:
    made: list[str] = []

    async def pay() -> str:
        """Pay."""
        made.append("x")
        raise Timeout("late")

    model = ScriptedModel([ToolUse("pay", {}), "ok"])
    bench = Bench(agent(tool(pay, "unsafe", allow=["pay"])), model)
    for key in ("doubt:0.0", "doubt:0.0/1"):
        assert await bench.work() == Waiting((f"q:{key}",))
        bench.rows.answer({"happened": key.endswith("1")}, key)
    assert await bench.done() == "ok"
    assert len(made) == 2


async def test_a_repeated_call_has_the_key_of_the_first_one() -> None:
    keys: list[str] = []

    def put(idempotency_key: str) -> str:
        """Put."""
        keys.append(idempotency_key)
        if len(keys) == 1:
            raise Unreachable("gone")
        return "ok"

    bench = Bench(agent(tool(put, "keyed")), ScriptedModel([ToolUse("put", {}), ToolUse("put", {}), "ok"]))
    with pytest.raises(Unreachable):
        await bench.work()
    assert await bench.done() == "ok"
    assert keys[0] == keys[1] != keys[2]


async def test_a_large_result_is_kept_whole_beside_a_preview() -> None:
    whole = "é" * 5000

    def read() -> str:
        """Read."""
        return whole

    model = ScriptedModel([ToolUse("read", {}), "ok"])
    bench = Bench(agent(tool(read, "read_only"), max_result=100), model)
    await bench.done()
    sha256 = hashlib.sha256(whole.encode()).hexdigest()
    assert await bench.scope.artifact(sha256) == whole.encode()
    shown = str(model.requests[1].messages[-1])
    assert "é" * 100 in shown
    assert "é" * 101 not in shown
    assert sha256[:12] in shown
    assert "of 5000 characters" in shown


def test_many_texts_of_one_result_share_its_limit() -> None:
    result = ToolResult(content=[text("a" * 60), text("b" * 60), text("c" * 60)], structured={"x": 1})
    kept, artifacts = keep(result, 100)
    texts = [block["text"] for block in kept.content]
    assert texts[0] == "a" * 60
    assert texts[1].startswith("b" * 40 + "\n[")
    assert texts[2].startswith("\n[The first 0 of 60")
    assert len(artifacts) == 2
    assert kept.structured is None
    assert keep(result, 1000) == (result, {})


async def test_a_result_that_has_no_json_form_is_an_error_of_a_call_that_was_made() -> None:
    made: list[int] = []

    async def odd() -> ToolResult:
        """Be odd."""
        made.append(1)
        return ToolResult(content=[{"type": "image", "data": object()}])

    async def broken_text() -> str:
        """Be broken."""
        return "half a \ud83d pair"

    tools = [tool(odd, "unsafe", allow=["odd"]), tool(broken_text, "read_only")]
    model = ScriptedModel([[ToolUse("odd", {}), ToolUse("broken_text", {})], "ok"])
    bench = Bench(agent(*tools), model)
    assert await bench.done() == "ok"
    assert made == [1]
    shown = str(model.requests[1].messages[-1])
    assert "its answer cannot be kept" in shown
    assert "half a ? pair" in shown


# What a call may cost


PRICE = Price(input=2, output=10, cache_write=3)


async def test_a_call_is_reserved_at_its_upper_bound_and_settled_at_its_cost() -> None:
    seen: list[Spend] = []

    def say(call: FunctionCall) -> str:
        seen.append(bench.rows.spent)
        return "x"

    usage = Usage(input=20, output=5)
    bench = Bench(agent(max_tokens=100), Sayer(say, usage=usage, price=PRICE))
    await bench.done("a" * 50)
    assert seen[0].tokens > 150
    assert seen[0].micro_usd >= 50 * 3 + 100 * 10
    assert bench.rows.spent == Spend(tokens=25, micro_usd=90, turns=1)


async def test_the_bound_counts_what_a_provider_adds_for_tools() -> None:
    plain, tooled = Bench(agent(), ScriptedModel(["x"])), Bench(agent(LOOK), ScriptedModel(["x"]))
    seen: list[int] = []
    for bench in (plain, tooled):
        await bench.work(left=Left(tokens=10_000))
        assert isinstance(bench.model, ScriptedModel)
        seen.append(bench.model.requests[0].max_tokens)
    with pytest.raises(BudgetExceeded):
        await Bench(agent(LOOK), ScriptedModel(["x"])).work(left=Left(tokens=TOOL_PROMPT + 200))


@pytest.mark.parametrize("left", [Left(tokens=50), Left(micro_usd=50), Left(turns=0)], ids=str)
async def test_a_call_for_which_nothing_is_left_is_not_made(left: Left) -> None:
    model = Sayer(lambda call: "x", price=PRICE)
    bench = Bench(agent(), model)
    with pytest.raises(BudgetExceeded):
        await bench.work(left=left)
    assert model.requests == []
    assert bench.rows.commits == 0


async def test_a_call_that_fails_forfeits_its_reservation() -> None:
    bench = Bench(agent(), ScriptedModel([Unreachable("gone")]))
    with pytest.raises(Unreachable):
        await bench.work()
    assert bench.scope.forfeited == 1
    assert bench.rows.spent.turns == 1


async def test_done_carries_the_text_that_its_value_was_read_from() -> None:
    outcome = await Bench(agent(output=Finding), ScriptedModel([Finding(quote="x")])).work()
    assert outcome == Done(Finding(quote="x"), '{"quote":"x","score":0.0}')
