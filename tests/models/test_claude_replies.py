"""What comes back, whole or streamed: the same reply either way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from retinue.agents.models import ClaudeModel, Reply, Usage
from retinue.errors import ModelError
from tests.models.conftest import ask
from tests.support.messages_server import Gate, Step, calls, messages_server, says, sends, sse

pytestmark = pytest.mark.anyio
Claude = Callable[..., ClaudeModel]

THINKING = {"type": "thinking", "thinking": "Let me see about this…", "signature": "c2lnbmVk"}


def ignore(_: str) -> None:
    return


async def both(claude: Claude, step: Step) -> Reply:
    """The reply to a plain request, after making sure that the streamed one is the same."""
    async with messages_server([step, step]) as server:
        model = claude(server)
        plain = await model.complete(ask())
        streamed = await model.complete(ask(), on_text=ignore)
    assert streamed.content == plain.content
    assert (streamed.stop_reason, streamed.usage, streamed.model) == (plain.stop_reason, plain.usage, plain.model)
    return plain


async def test_text_comes_with_its_usage_and_the_model_that_answered(claude: Claude) -> None:
    step = says("Because it is so.", cache_read_input_tokens=90, cache_creation_input_tokens=7, output_tokens=5)
    reply = await both(claude, step)
    assert reply.content == [{"type": "text", "text": "Because it is so."}]
    assert reply.stop_reason == "end_turn"
    assert reply.usage == Usage(input=100, output=5, cache_read=90, cache_write=7)
    assert reply.model == "claude-sonnet-5-5"
    assert reply.id.startswith("msg_")


async def test_parallel_calls_come_with_their_arguments(claude: Claude) -> None:
    step = calls(
        ("search", {"query": "réfund", "deep": {"limit": 3, "tags": ["a", None]}}), ("now", {}), text="Let me look."
    )
    reply = await both(claude, step)
    assert reply.stop_reason == "tool_use"
    assert reply.content == list(step.content)


async def test_blocks_that_this_version_does_not_know_are_kept_as_they_are(claude: Claude) -> None:
    strange = {"type": "hologram", "id": "h1", "layers": [{"depth": 1}]}
    redacted = {"type": "redacted_thinking", "data": "b3BhcXVl"}
    reply = await both(claude, says("Look:", THINKING, redacted, strange))
    assert reply.content == [{"type": "text", "text": "Look:"}, THINKING, redacted, strange]


async def test_thinking_and_unknown_blocks_can_be_sent_back_unchanged(claude: Claude) -> None:
    step = says("", THINKING, {"type": "hologram", "layers": []}, *calls(("search", {"query": "x"})).content)
    async with messages_server([step, says("Done.")]) as server:
        model = claude(server)
        first = await model.complete(ask(), on_text=ignore)
        result = {"type": "tool_result", "tool_use_id": first.content[-1]["id"], "content": "found"}
        conversation: list[Any] = [
            *ask().messages,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        await model.complete(ask(messages=conversation))
    assert server.refused == []


async def test_citations_are_gathered(claude: Claude) -> None:
    cited = {"type": "text", "text": "So it says.", "citations": [{"type": "char_location", "cited_text": "so"}]}
    reply = await both(claude, says("", cited))
    assert reply.content == [cited]


@pytest.mark.parametrize(
    "reason",
    ["end_turn", "stop_sequence", "max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"],
)
async def test_each_way_to_stop_is_a_reply_and_not_an_error(claude: Claude, reason: str) -> None:
    assert (await both(claude, says("So far", stop_reason=reason))).stop_reason == reason


async def test_a_refusal_may_have_no_content_at_all(claude: Claude) -> None:
    assert (await both(claude, says("", stop_reason="refusal"))).content == []


async def test_a_paused_turn_can_go_on(claude: Claude) -> None:
    async with messages_server([says("Part one.", stop_reason="pause_turn"), says("Part two.")]) as server:
        model = claude(server)
        paused = await model.complete(ask())
        conversation: list[Any] = [*ask().messages, {"role": "assistant", "content": paused.content}]
        assert (await model.complete(ask(messages=conversation))).stop_reason == "end_turn"


async def test_text_is_heard_piece_by_piece_while_the_answer_is_still_being_written(claude: Claude) -> None:
    gate = Gate()
    heard: list[str] = []
    async with messages_server([says("One, two, three, four.", THINKING).held(gate, after=5)]) as server:
        model = claude(server)
        with anyio.fail_after(5):
            call = asyncio.ensure_future(model.complete(ask(), on_text=heard.append))
            await gate.reached.wait()
            while not heard:
                await anyio.lowlevel.checkpoint()
            assert not call.done()
            gate.open.set()
            reply = await call
    assert len(heard) > 1
    assert "".join(heard) == reply.content[0]["text"] == "One, two, three, four."


async def test_events_of_unknown_kinds_are_passed_over(claude: Claude) -> None:
    step = (
        says("Hello.")
        .with_event({"type": "weather", "outlook": "fair"}, after=0)
        .with_event(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "aroma_delta", "aroma": "tea"}}, after=3
        )
        .with_event(b": a comment\n\nevent: ping\nretry: 10\n\n", after=4)
    )
    async with messages_server([step]) as server:
        reply = await claude(server).complete(ask(), on_text=ignore)
    assert reply.content == [{"type": "text", "text": "Hello."}]


START: dict[str, Any] = {
    "type": "message_start",
    "message": {"type": "message", "content": [], "usage": {}, "model": "m"},
}
BLOCK: dict[str, Any] = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
TOOL: dict[str, Any] = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "tool_use", "id": "a", "name": "n", "input": {}},
}
STOP: dict[str, Any] = {"type": "message_stop"}


def delta(**fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": fields}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([{"type": "message_start"}], id="a start without a message"),
        pytest.param([START, START], id="two starts"),
        pytest.param([BLOCK], id="a block before the start"),
        pytest.param([START, {**BLOCK, "index": 1}], id="a block that skips one"),
        pytest.param([START, BLOCK, BLOCK], id="a block opened twice"),
        pytest.param([START, {**BLOCK, "content_block": "text"}], id="a block that is not an object"),
        pytest.param([START, delta(type="text_delta", text="x")], id="a piece of no block"),
        pytest.param([START, BLOCK, delta(type="text_delta", text=7)], id="a piece that is not text"),
        pytest.param([START, BLOCK, delta(type="text_delta")], id="a piece without text"),
        pytest.param([START, BLOCK, {"type": "content_block_stop", "index": 9}], id="the end of no block"),
        pytest.param([START, BLOCK, {"type": "message_delta", "delta": None}], id="a change of nothing"),
        pytest.param([START, STOP], id="no reason to stop"),
        pytest.param(
            [START, {"type": "message_delta", "delta": {"stop_reason": "bored"}}, STOP], id="an unknown reason to stop"
        ),
        pytest.param(
            [START, BLOCK, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, STOP],
            id="a block left open",
        ),
        pytest.param(
            [
                START,
                TOOL,
                delta(type="input_json_delta", partial_json='{"a": '),
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
                STOP,
            ],
            id="arguments cut short",
        ),
        pytest.param(
            [
                START,
                TOOL,
                delta(type="input_json_delta", partial_json="[1]"),
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
                STOP,
            ],
            id="arguments that are not an object",
        ),
    ],
)
async def test_a_stream_that_breaks_the_protocol_is_a_model_error(claude: Claude, events: list[dict[str, Any]]) -> None:
    body = b"".join(sse(event) for event in events) + sse({"type": "ping"})
    async with messages_server([sends(body)]) as server:
        with pytest.raises(ModelError, match="the model service sent") as caught:
            await claude(server).complete(ask(), on_text=ignore)
    assert caught.value.code == "model_failed"
    assert len(server.requests) == 1, "it would send the same again"


@pytest.mark.parametrize("body", [b"data: {not json}\n\n", b"data: 7\n\n", b"event: x\ndata: []\n\n"])
async def test_an_event_that_is_no_event_is_a_model_error(claude: Claude, body: bytes) -> None:
    async with messages_server([sends(body)]) as server:
        with pytest.raises(ModelError, match="an event that is not"):
            await claude(server).complete(ask(), on_text=ignore)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b"[]",
        b"{}",
        b'{"type": "message", "content": [{"text": "x"}], "stop_reason": "end_turn"}',
        b'{"type": "message", "content": "x", "stop_reason": "end_turn"}',
        b'{"type": "message", "content": [], "stop_reason": null}',
    ],
)
async def test_an_answer_that_is_not_a_message_is_a_model_error(claude: Claude, body: bytes) -> None:
    async with messages_server([sends(body, content_type="application/json")]) as server:
        with pytest.raises(ModelError, match="the model service sent"):
            await claude(server).complete(ask())


async def test_a_call_whose_arguments_were_cut_at_max_tokens_is_left_out(claude: Claude) -> None:
    events = [
        START,
        BLOCK,
        delta(type="text_delta", text="I will look."),
        {"type": "content_block_stop", "index": 0},
        {**TOOL, "index": 1},
        {**delta(type="input_json_delta", partial_json='{"query": "ref'), "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 64}},
        STOP,
    ]
    async with messages_server([sends(b"".join(map(sse, events)))]) as server:
        reply = await claude(server).complete(ask(), on_text=ignore)
    assert (reply.stop_reason, reply.content) == ("max_tokens", [{"type": "text", "text": "I will look."}])
    assert reply.usage.output == 64


async def test_a_server_that_does_not_stream_is_understood(claude: Claude) -> None:
    body = (
        b'{"type": "message", "content": [{"type": "text", "text": "All at once."}], "stop_reason": "end_turn",'
        b' "model": "tiny", "usage": {"input_tokens": 3}}'
    )
    heard: list[str] = []
    async with messages_server([sends(body, content_type="application/json; charset=utf-8")]) as server:
        reply = await claude(server).complete(ask(), on_text=heard.append)
    assert heard == ["All at once."]
    assert (reply.model, reply.usage, reply.id) == ("tiny", Usage(input=3), "")


async def test_a_connection_that_breaks_after_the_last_event_does_no_harm(claude: Claude) -> None:
    async with messages_server([says("All of it.").cut_after(8), says("never asked")]) as server:
        reply = await claude(server).complete(ask(), on_text=ignore)
        assert len(server.requests) == 1
    assert reply.content == [{"type": "text", "text": "All of it."}]
