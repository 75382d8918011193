"""Bad days of the service and of the network: retried where that helps, and a typed error where not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import monotonic

import anyio
import pytest

from retinue.agents.models import ClaudeModel, Usage
from retinue.errors import (
    ModelContextExceeded,
    ModelError,
    ModelRateLimited,
    RetinueError,
    SignInNeeded,
    Timeout,
    Unreachable,
)
from tests.models.conftest import KEY, Time, ask
from tests.support.messages_server import Gate, calls, fails, messages_server, says, sends

pytestmark = pytest.mark.anyio
Claude = Callable[..., ClaudeModel]

BUSY = fails(429, "rate_limit_error", "Too many tokens", headers={"retry-after": "2"})
OVERLOADED = fails(529, "overloaded_error", "Overloaded")


def ignore(_: str) -> None:
    return


async def test_a_rate_limit_is_waited_out_for_as_long_as_the_service_asks(claude: Claude, time: Time) -> None:
    async with messages_server([BUSY, says("Now.")]) as server:
        reply = await claude(server).complete(ask())
    assert reply.content[0]["text"] == "Now."
    assert time.waits == [2.5], "what was asked, and half a second at most so that not all come back at once"


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529])
@pytest.mark.parametrize("on_text", [None, ignore], ids=["plain", "streamed"])
async def test_a_passing_failure_is_tried_again(claude: Claude, time: Time, status: int, on_text: None) -> None:
    async with messages_server([fails(status), fails(status), says("Now.")]) as server:
        await claude(server).complete(ask(), on_text=on_text)
    assert time.waits == [0.5, 1.0]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
async def test_a_mistake_is_not_tried_again(claude: Claude, time: Time, status: int) -> None:
    async with messages_server([fails(status)]) as server:
        with pytest.raises(RetinueError):
            await claude(server).complete(ask())
    assert time.waits == []


async def test_the_service_may_say_itself_whether_to_try_again(claude: Claude, time: Time) -> None:
    script = [fails(400, headers={"x-should-retry": "true"}), fails(503, headers={"x-should-retry": "false"})]
    async with messages_server(script) as server:
        with pytest.raises(ModelError, match="503"):
            await claude(server).complete(ask())
    assert len(time.waits) == 1


async def test_after_the_last_retry_the_failure_is_told(claude: Claude, time: Time) -> None:
    async with messages_server([OVERLOADED] * 5) as server:
        with pytest.raises(ModelRateLimited, match=r"529 \(overloaded_error\): Overloaded") as caught:
            await claude(server).complete(ask())
    assert len(server.requests) == 5
    assert caught.value.details["type"] == "overloaded_error"
    assert caught.value.details["request_id"].startswith("req_")
    assert caught.value.details["request_id"] in caught.value.message


async def test_a_wait_beyond_the_cap_is_refused_at_once(claude: Claude, time: Time) -> None:
    async with messages_server([fails(429, "rate_limit_error", headers={"retry-after": "86400"})]) as server:
        with pytest.raises(ModelRateLimited, match=r"asks to wait 86400 s, more than the 60 s") as caught:
            await claude(server).complete(ask())
    assert caught.value.details["retry_after"] == 86400
    assert time.waits == []


async def test_a_wait_beyond_the_deadline_is_refused_at_once(claude: Claude, time: Time) -> None:
    async with messages_server([fails(429, "rate_limit_error", headers={"retry-after": "30"})]) as server:
        with pytest.raises(ModelRateLimited, match=r"asks to wait 30 s, more than the 20\.0 s that the run has left"):
            await claude(server).complete(ask(), deadline=time.now + 20)
    assert time.waits == []


@pytest.mark.parametrize(
    ("status", "kind", "message", "error", "says_"),
    [
        (400, "invalid_request_error", "messages.0: bad", ModelError, "400 (invalid_request_error): messages.0: bad"),
        (
            400,
            "invalid_request_error",
            "prompt is too long: 208310 tokens > 200000 maximum",
            ModelContextExceeded,
            "208310",
        ),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000",
            ModelContextExceeded,
            "199000",
        ),
        (401, "authentication_error", "invalid x-api-key", SignInNeeded, "refused the credentials"),
        (402, "billing_error", "Your credit balance is too low", ModelError, "credit balance"),
        (403, "permission_error", "Not for you", SignInNeeded, "refused the credentials"),
        (404, "not_found_error", "model: claude-nope", ModelError, "claude-nope"),
        (413, "request_too_large", "Request exceeds the maximum size", ModelContextExceeded, "413"),
        (500, "api_error", "Internal server error", ModelError, "500"),
    ],
)
async def test_each_refusal_has_its_type(
    claude: Claude, status: int, kind: str, message: str, error: type[RetinueError], says_: str
) -> None:
    async with messages_server([fails(status, kind, message)] * 5) as server:
        with pytest.raises(RetinueError) as caught:
            await claude(server).complete(ask())
    assert type(caught.value) is error
    assert says_ in caught.value.message
    assert caught.value.details["status"] == status
    assert caught.value.details["type"] == kind


async def test_the_hint_of_an_unknown_model_names_it(claude: Claude) -> None:
    async with messages_server([fails(404, "not_found_error", "model: claude-nope")]) as server:
        with pytest.raises(ModelError) as caught:
            await claude(server, name="claude-nope").complete(ask())
    assert "'claude-nope'" in caught.value.hint


@pytest.mark.parametrize(
    "step",
    [
        fails(400, "invalid_request_error", f"your key {KEY} and\x1b[31m red \u202e text\n" + "x" * 5000),
        fails(401, "authentication_error", f"invalid key: {KEY}"),
        sends(b"<html>" + KEY.encode() + b"</html>", status=400, content_type="text/html"),
        sends(b'{"error": "no such model"}', status=400, content_type="application/json"),
        sends(b"[1]", status=400, content_type="application/json"),
    ],
)
@pytest.mark.parametrize("on_text", [None, ignore], ids=["plain", "streamed"])
async def test_an_error_is_short_on_one_line_and_holds_neither_key_nor_prompt(
    claude: Claude, step: object, on_text: None
) -> None:
    async with messages_server([step]) as server:  # pyright: ignore[reportArgumentType]  # parametrize is untyped
        with pytest.raises(RetinueError) as caught:
            await claude(server).complete(ask("my private question"), on_text=on_text)
    told = f"{caught.value} {caught.value.hint} {caught.value.details} {caught.value.__cause__!r}"
    assert KEY not in told
    assert "private question" not in told
    assert len(caught.value.message) < 500
    assert caught.value.message.isprintable()


async def test_neither_the_model_nor_its_client_shows_the_key(claude: Claude) -> None:
    assert KEY not in repr(claude("http://127.0.0.1:9"))


async def test_a_stream_cut_in_the_middle_is_asked_for_again_and_the_listener_is_told(
    claude: Claude, time: Time
) -> None:
    heard: list[str] = []
    whole = says("One, two, three, four.", output_tokens=9)
    async with messages_server([whole.cut_after(5), whole]) as server:
        reply = await claude(server).complete(ask(), on_text=heard.append, on_restart=lambda: heard.append("<again>"))
    first, _, second = "".join(heard).partition("<again>")
    assert second == reply.content[0]["text"] == "One, two, three, four."
    assert first
    assert "One, two, three, four.".startswith(first)
    assert time.waits == [0.5]
    assert reply.usage == Usage(input=200, output=10), "the cut attempt was billed too, as far as it is known"


async def test_a_listener_that_heard_nothing_is_not_told_of_a_restart(claude: Claude) -> None:
    heard: list[str] = []
    async with messages_server([OVERLOADED, says("Yes.").cut_after(1), says("Yes.")]) as server:
        await claude(server).complete(ask(), on_text=heard.append, on_restart=lambda: heard.append("<again>"))
    assert heard == ["Yes."]


@pytest.mark.parametrize("cut", range(1, 8))
async def test_a_stream_may_be_cut_after_any_event(claude: Claude, cut: int) -> None:
    step = calls(("search", {"query": "x"}))
    async with messages_server([step.cut_after(cut), step]) as server:
        reply = await claude(server).complete(ask(), on_text=ignore)
        assert len(server.requests) == 2
    assert reply.content == list(step.content)


async def test_a_plain_answer_cut_in_the_middle_is_asked_for_again(claude: Claude) -> None:
    async with messages_server([says("One.").cut_after(0), says("Two.")]) as server:
        reply = await claude(server).complete(ask())
    assert reply.content[0]["text"] == "Two."


async def test_a_stream_that_is_cut_every_time_fails_in_the_end(claude: Claude) -> None:
    async with messages_server([says("One, two.").cut_after(4)] * 5) as server:
        with pytest.raises(ModelError, match="broke before the answer was complete") as caught:
            await claude(server).complete(ask(), on_text=ignore)
        assert len(server.requests) == 5
    assert caught.value.code == "model_failed"


async def test_a_stream_that_just_ends_counts_as_cut(claude: Claude) -> None:
    async with messages_server([sends(b'event: ping\ndata: {"type": "ping"}\n\n'), says("Now.")]) as server:
        reply = await claude(server).complete(ask(), on_text=ignore)
    assert reply.content[0]["text"] == "Now."


@pytest.mark.parametrize(
    ("kind", "error", "attempts"),
    [
        ("overloaded_error", ModelRateLimited, 5),
        ("rate_limit_error", ModelRateLimited, 5),
        ("api_error", ModelError, 5),
        ("something_new_error", ModelError, 5),
        ("invalid_request_error", ModelError, 1),
        ("authentication_error", SignInNeeded, 1),
    ],
)
async def test_an_error_inside_a_stream_counts_as_if_it_had_been_the_answer(
    claude: Claude, kind: str, error: type[RetinueError], attempts: int
) -> None:
    step = says("One, two, three.").with_error(kind, "It broke", after=4)
    async with messages_server([step] * 5) as server:
        with pytest.raises(RetinueError, match=rf"{kind}\): It broke \[request req_") as caught:
            await claude(server).complete(ask(), on_text=ignore)
        assert len(server.requests) == attempts
    assert type(caught.value) is error


async def test_a_service_that_is_not_there_is_unreachable(claude: Claude, time: Time) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"cannot reach the model service at http://127\.0\.0\.1:{port}: no conn"):
        await claude(f"http://user:{KEY}@127.0.0.1:{port}/").complete(ask())
    assert time.waits == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http://"])
async def test_a_base_url_that_cannot_be_called_is_said_so(claude: Claude, url: str, time: Time) -> None:
    with pytest.raises(RetinueError, match="base URL"):
        await claude(url).complete(ask())
    assert time.waits == []


async def test_a_redirect_is_not_followed_with_the_prompt_and_the_key(claude: Claude) -> None:
    async with messages_server([says("stolen")]) as elsewhere:
        there = sends(b"", status=307, content_type="text/plain")
        there.headers["location"] = f"{elsewhere.url}/v1/messages"  # pyright: ignore[reportIndexIssue]
        async with messages_server([there]) as server:
            with pytest.raises(ModelError, match="307, a redirect"):
                await claude(server).complete(ask())
        assert elsewhere.connections == 0


async def test_silence_is_a_timeout_and_a_plain_call_is_not_paid_for_twice(claude: Claude, time: Time) -> None:
    async with messages_server([says("late").held(Gate())]) as server:
        with pytest.raises(Timeout, match="nothing came from the model service"):
            await claude(server, timeout=0.05).complete(ask())
        assert len(server.requests) == 1
    assert time.waits == []


async def test_a_stream_that_falls_silent_is_asked_for_again(claude: Claude, time: Time) -> None:
    async with messages_server([says("One, two").held(Gate(), after=4), says("Now.")]) as server:
        reply = await claude(server, timeout=0.05).complete(ask(), on_text=ignore)
    assert reply.content[0]["text"] == "Now."
    assert len(time.waits) == 1


async def test_a_call_in_flight_is_cut_at_the_deadline(claude: Claude, time: Time) -> None:
    gate = Gate()
    async with messages_server([says("late").held(gate)]) as server:
        with anyio.fail_after(5), pytest.raises(Timeout, match="before the time of the run was over"):
            await claude(server).complete(ask(), deadline=time.now + 0.05)
        with anyio.fail_after(5):
            await server.requests[0].gone.wait()


async def test_after_the_deadline_nothing_is_sent(claude: Claude, time: Time) -> None:
    async with messages_server([]) as server:
        with pytest.raises(Timeout):
            await claude(server).complete(ask(), deadline=time.now - 1)
        assert server.connections == 0


async def test_the_deadline_is_on_the_monotonic_clock() -> None:
    async with messages_server([says("In time.")]) as server:
        model = ClaudeModel(api_key=KEY, base_url=server.url)
        assert (await model.complete(ask(), deadline=monotonic() + 60)).stop_reason == "end_turn"
        with pytest.raises(Timeout):
            await model.complete(ask(), deadline=monotonic() - 1)


@pytest.mark.parametrize(
    ("on_text", "after"), [(None, 0), (ignore, 0), (ignore, 4)], ids=["plain", "streamed, before", "streamed, amid"]
)
async def test_cancelling_closes_the_connection(claude: Claude, on_text: None, after: int) -> None:
    gate = Gate()
    async with messages_server([says("One, two, three.").held(gate, after=after)]) as server:
        with anyio.fail_after(5):
            call = asyncio.ensure_future(claude(server).complete(ask(), on_text=on_text))
            await gate.reached.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await server.requests[0].gone.wait()


async def test_what_a_listener_raises_reaches_the_caller_and_closes_the_connection(claude: Claude) -> None:
    def refuse(_: str) -> None:
        raise KeyError("a mistake of the listener's")

    gate = Gate()
    async with messages_server([says("One, two, three.").held(gate, after=4)]) as server:
        with anyio.fail_after(5):
            with pytest.raises(KeyError):
                await claude(server).complete(ask(), on_text=refuse)
            await server.requests[0].gone.wait()
