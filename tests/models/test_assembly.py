"""A stream gives the same reply however the network cuts its bytes and the service its text."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.agents.models.replies import Assembler, reply_of
from retinue.agents.models.sse import EventReader
from retinue.errors import ModelError
from tests.support.messages_server import USAGE, events_of, sse

Json = dict[str, Any]

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


def _text(value: str) -> Json:
    return {"type": "text", "text": value}


def _thinking(value: str) -> Json:
    return {"type": "thinking", "thinking": value, "signature": "c2ln"}


def _tool_use(name: str, arguments: Json) -> Json:
    return {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": arguments}


arguments = st.dictionaries(text, json_values, max_size=3)
blocks: st.SearchStrategy[Json] = st.one_of(
    st.builds(_text, text),
    st.builds(_thinking, text),
    st.builds(_tool_use, st.sampled_from(["search", "read"]), arguments),
    st.just({"type": "hologram", "layers": [1]}),
)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": draw(st.lists(blocks, max_size=4)),
        "stop_reason": draw(st.sampled_from(["end_turn", "tool_use"])),
        "stop_sequence": None,
        "usage": {**USAGE, "output_tokens": draw(st.integers(0, 1000))},
    }


def chunked(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, Any], list[bytes]]:
    """A message, and the bytes of its events in any line ends, cut anywhere, with comments between."""
    message = draw(messages())
    events = events_of(message)
    places = draw(st.lists(st.integers(0, len(events)), max_size=3))
    for place in places:
        events.insert(place, draw(st.sampled_from([b": keep-alive\n\n", b"\n", sse({"type": "ping"})])))
    data = b"".join(events).replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))
    return message, chunked(draw, data)


def assembled(chunks: list[bytes]) -> tuple[Assembler, str]:
    reader, assembler, heard = EventReader(), Assembler(), ""
    for chunk in chunks:
        for data in reader.feed(chunk):
            heard += assembler.feed(data)
    if (rest := reader.end()) is not None:
        heard += assembler.feed(rest)
    return assembler, heard


@given(streams())
def test_any_cut_of_the_bytes_gives_the_same_reply(stream: tuple[dict[str, Any], list[bytes]]) -> None:
    message, chunks = stream
    assembler, heard = assembled(chunks)
    assert assembler.reply() == reply_of(message)
    assert heard == "".join(block["text"] for block in message["content"] if block["type"] == "text")


@given(st.data(), text)
def test_any_cut_of_the_text_gives_the_same_reply(data: st.DataObject, whole: str) -> None:
    size = data.draw(st.integers(1, len(whole)))
    sent = orjson.dumps({"query": whole}).decode()
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"type": "message", "model": "m", "usage": dict(USAGE)}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": whole[:size]}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
            for part in whole[size:]
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "a", "name": "search", "input": {}},
        },
        *(
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": sent[start : start + size]},
            }
            for start in range(0, len(sent), size)
        ),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    assembler, heard = assembled([sse(event) for event in events])
    assert heard == whole
    assert assembler.reply().content == [
        {"type": "text", "text": whole},
        {"type": "tool_use", "id": "a", "name": "search", "input": {"query": whole}},
    ]


@given(messages(), st.data())
def test_a_stream_cut_anywhere_is_whole_or_known_to_be_cut(message: dict[str, Any], data: st.DataObject) -> None:
    stream = b"".join(events_of(message))
    end = data.draw(st.integers(0, len(stream)))
    reader, assembler = EventReader(), Assembler()
    for event in reader.feed(stream[:end]):
        assembler.feed(event)
    if assembler.finished:
        assert assembler.reply() == reply_of(message)
    else:
        with pytest.raises(ModelError, match="ends in the middle"):
            assembler.reply()


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_any_bytes_are_events_or_a_model_error(chunks: list[bytes]) -> None:
    try:
        assembler, _ = assembled(chunks)
    except ModelError:
        return
    assert not assembler.finished


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["message_start", "content_block_start", "content_block_delta", "message_delta"])},
            optional={
                "index": json_values,
                "delta": json_values,
                "content_block": json_values,
                "message": json_values,
                "usage": json_values,
            },
        ),
        max_size=5,
    )
)
def test_any_events_are_taken_or_a_model_error(events: list[dict[str, Any]]) -> None:
    assembler = Assembler()
    try:
        for event in events:
            assembler.feed(orjson.dumps(event))
    except ModelError:
        return
    assert assembler.usage.total >= 0


def test_data_over_several_lines_is_one_event() -> None:
    reader = EventReader()
    assert reader.feed(b'event: x\r\nid: 7\r\ndata: {"a":\r\ndata: 1}\r\n\r') == []
    assert reader.feed(b"\ndata:[]\n\n") == [b'{"a":\n1}', b"[]"]


def test_an_event_without_an_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinue.agents.models.sse.MAX_EVENT", 100)
    reader = EventReader()
    for _ in range(10):
        assert reader.feed(b"0123456789") == []
    with pytest.raises(ModelError, match="more than 100 bytes"):
        reader.feed(b"0")
