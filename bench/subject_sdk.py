"""A loop written by hand on the anthropic SDK: the base that everything is a ratio of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from anthropic import AsyncAnthropic

from bench.common import ASK, KEY, MODEL, PROMPT, SPECIALIST, SUPERVISOR, SYSTEM, TOOL, Run, add


async def loop(client: AsyncAnthropic, system: str, prompt: str, tools: Sequence[Any], run: Callable[..., Any]) -> str:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    while True:
        reply = await client.messages.create(
            model=MODEL, max_tokens=1024, system=system, tools=cast(Any, tools), messages=messages
        )
        calls = [block for block in reply.content if block.type == "tool_use"]
        if not calls:
            return cast(Any, reply.content[0]).text
        values = await asyncio.gather(*(run(call.name, **cast(Any, call.input)) for call in calls))
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": str(value)}
            for call, value in zip(calls, values, strict=True)
        ]
        messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]


async def call_add(_: str, a: int, b: int) -> int:
    return await add(a, b)


def build_single(url: str, key: str = "x") -> Run:
    client = AsyncAnthropic(api_key=KEY, base_url=f"{url}/1/{key}")
    return lambda: loop(client, SYSTEM, PROMPT, [TOOL], call_add)


def build_multi(url: str) -> Run:
    client = AsyncAnthropic(api_key=KEY, base_url=url + "/1/task")
    tools = [{"name": f"ask_{n}", "description": f"Ask {n}.", "input_schema": ASK} for n in ("alpha", "beta", "gamma")]

    async def ask(_: str, task: str) -> str:
        return await loop(client, SPECIALIST, task, [TOOL], call_add)

    return lambda: loop(client, SUPERVISOR, PROMPT, tools, ask)
