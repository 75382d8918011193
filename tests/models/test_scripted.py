"""The public test double."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

import anyio
import pytest

from retinue.agents.models import FREE, Held, Model, Price, Reply, ScriptedModel, ScriptExhausted, ToolUse, Usage
from retinue.errors import ModelRateLimited, Timeout, Unreachable
from tests.models.conftest import ask

pytestmark = pytest.mark.anyio


def text(reply: Reply) -> str:
    return reply.content[0]["text"]


async def test_lines_are_given_in_order() -> None:
    model = ScriptedModel(["one", {"n": 2}, ToolUse("search", {"query": "x"}), lambda call: call.task.upper()])
    assert text(await model.complete(ask())) == "one"
    assert text(await model.complete(ask())) == '{"n":2}'
    assert (await model.complete(ask())).content[0]["name"] == "search"
    assert text(await model.complete(ask("quiet"))) == "QUIET"
    assert model.left == 0


async def test_each_agent_can_have_a_script_of_its_own() -> None:
    model = ScriptedModel({"a": ["one", "two"], "b": ["three"]})
    assert text(await model.complete(ask(agent="b"))) == "three"
    assert text(await model.complete(ask(agent="a"))) == "one"
    with pytest.raises(ScriptExhausted, match="no reply left for call 2 of b"):
        await model.complete(ask(agent="b"))
    with pytest.raises(ScriptExhausted, match="call 1 of stranger"):
        await model.complete(ask(agent="stranger"))
    assert model.left == 1


async def test_an_exhausted_script_says_so() -> None:
    with pytest.raises(ScriptExhausted, match="scripted has no reply left for call 1 of the agent") as caught:
        await ScriptedModel([]).complete(ask())
    assert caught.value.code == "script_exhausted"


async def test_errors_are_raised() -> None:
    model = ScriptedModel([ModelRateLimited("busy"), Unreachable("gone"), asyncio.CancelledError])
    for error in (ModelRateLimited, Unreachable, asyncio.CancelledError):
        with pytest.raises(error):
            await model.complete(ask())


async def test_requests_are_kept_as_they_were_when_they_were_made() -> None:
    messages: list[Any] = [{"role": "user", "content": "first"}]
    model = ScriptedModel(["one"])
    await model.complete(ask(messages=messages, agent="a"))
    messages.append({"role": "user", "content": "second"})
    assert [m["content"] for m in model.requests[0].messages] == ["first"]
    assert model.requests[0].agent == "a"


async def test_a_held_line_waits_for_its_release() -> None:
    held = Held("late")
    model = ScriptedModel([held])
    with anyio.fail_after(5):
        call = asyncio.ensure_future(model.complete(ask()))
        await held.asked.wait()
        assert not call.done()
        held.release.set()
        assert text(await call) == "late"


async def test_a_held_line_ends_at_the_deadline() -> None:
    with anyio.fail_after(5), pytest.raises(Timeout):
        await ScriptedModel([Held("never")]).complete(ask(), deadline=monotonic() + 0.02)


async def test_a_held_error_is_raised_when_it_is_released() -> None:
    held = Held(Unreachable("gone"))
    held.release.set()
    with pytest.raises(Unreachable):
        await ScriptedModel([held]).complete(ask())


async def test_usage_price_name_and_kind_are_the_tests_to_say() -> None:
    price, usage = Price(input=3, output=15), Usage(input=10, output=5)
    own = Reply(content=[], stop_reason="refusal", model="m", usage=Usage(input=1))
    model: Model = ScriptedModel(["a", own], name="costly", price=price, usage=usage, language_model=False)
    assert (model.name, model.price, model.language_model) == ("costly", price, False)
    assert (await model.complete(ask())).usage == usage
    assert await model.complete(ask()) == own
    assert ScriptedModel([]).price is FREE


async def test_text_is_heard() -> None:
    heard: list[str] = []
    await ScriptedModel(["Because."]).complete(ask(), on_text=heard.append)
    assert heard == ["Because."]
