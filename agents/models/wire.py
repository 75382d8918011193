"""The body of a Messages API request: our request, less what the server lacks, plus cache breakpoints.

Source: https://platform.claude.com/docs/en/api/messages. No ``temperature``: current models refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from .base import Block, Message, Request, ToolSpec
from .schema import in_words

Effort = Literal["low", "medium", "high", "xhigh", "max"]

LONG = 21_333
"""Above this max_tokens an answer may take longer than ten minutes, and the API wants it streamed."""

EPHEMERAL = {"type": "ephemeral"}
CACHEABLE = frozenset({"text", "image", "document", "tool_use", "tool_result", "search_result"})
NOT_AT_TOP = frozenset({"anyOf", "oneOf", "allOf"})
"""Words that the API refuses at the top of a tool's schema. The arguments are validated before the call anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a server behind the Messages API can do; what it lacks is left out of requests, or asked for in words."""

    cache: bool = True
    """Prompt-cache breakpoints (``cache_control``)."""
    structured: bool = True
    """Structured output (``output_config.format``). Without it the schema goes into the system prompt."""
    effort: bool = True
    """``output_config.effort``."""


def body_of(
    request: Request,
    *,
    model: str,
    schema: Mapping[str, Any] | None,
    stream: bool,
    profile: Profile,
    effort: Effort | None = None,
) -> dict[str, Any]:
    """The JSON body. ``schema`` is the request's output schema as the API takes it, or None to ask in words."""
    system = request.system
    if request.output is not None and schema is None:
        system = f"{system}\n\n{in_words(request.output)}".strip()
    tools = [_tool(tool) for tool in request.tools]
    messages = _messages(request.messages)
    body: dict[str, Any] = {"model": model, "max_tokens": request.max_tokens, "messages": messages}
    if system:
        body["system"] = system
    if tools:
        body["tools"] = tools
    if stream:
        body["stream"] = True
    output: dict[str, Any] = {}
    if schema is not None:
        output["format"] = {"type": "json_schema", "schema": schema}
    if effort is not None and profile.effort:
        output["effort"] = effort
    if output:
        body["output_config"] = output
    if profile.cache:
        _mark(body)
    return body


def _mark(body: dict[str, Any]) -> None:
    """Breakpoints: the prompt with the tools before it, the last turn, and the turn before it, where the previous call
    ended (a cached prefix is only looked for some 20 blocks back from a breakpoint). Four are allowed."""
    if "system" in body:
        body["system"] = [{"type": "text", "text": body["system"], "cache_control": EPHEMERAL}]
    elif "tools" in body:
        body["tools"][-1] = {**body["tools"][-1], "cache_control": EPHEMERAL}
    messages: list[Message] = body["messages"]
    for index in [i for i, message in enumerate(messages) if message["role"] == "user"][-2:]:
        messages[index] = _marked(messages[index])


def _marked(message: Message) -> Message:
    content = message["content"]
    blocks: list[Block] = [{"type": "text", "text": content}] if isinstance(content, str) else [*content]
    for index in range(len(blocks) - 1, -1, -1):
        if blocks[index].get("type") in CACHEABLE:
            blocks[index] = {**blocks[index], "cache_control": EPHEMERAL}
            break
    return {"role": message["role"], "content": blocks}


def _messages(messages: Sequence[Message]) -> list[Message]:
    """The conversation without empty texts and empty messages, which a model or tool may write but nobody may send."""
    kept: list[Message] = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            if content.strip():
                kept.append(message)
        elif blocks := _solid(content):
            kept.append(message if blocks is content else {"role": message["role"], "content": blocks})
    return kept


def _solid(blocks: list[Block]) -> list[Block]:
    """The blocks without empty texts, also inside of tool results; the same list where there is none."""
    if not any(map(_hollow, blocks)):
        return blocks
    return [
        {**block, "content": _solid(block["content"])} if _hollow(block) else block
        for block in blocks
        if block["type"] == "tool_result" or not _hollow(block)
    ]


def _hollow(block: Block) -> bool:
    if block["type"] == "text":
        return not block["text"].strip()
    inner = block.get("content")
    return block["type"] == "tool_result" and isinstance(inner, list) and any(map(_hollow, cast("list[Block]", inner)))


def _tool(tool: ToolSpec) -> dict[str, Any]:
    schema = tool["input_schema"]
    if schema.get("type") != "object" or not NOT_AT_TOP.isdisjoint(schema):
        schema = {**{word: value for word, value in schema.items() if word not in NOT_AT_TOP}, "type": "object"}
    return {"name": tool["name"], "description": tool["description"], "input_schema": schema}
