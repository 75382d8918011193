"""A loop written by hand on the anthropic SDK: the base that everything is a ratio of."""

from __future__ import annotations

from typing import Any, cast

from anthropic import AsyncAnthropic

from bench.common import KEY, MODEL, PROMPT, SYSTEM, TOOL, Run, add


def build_single(url: str) -> Run:
    client = AsyncAnthropic(api_key=KEY, base_url=url + "/1/x")

    async def run() -> str:
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        while True:
            reply = await client.messages.create(
                model=MODEL, max_tokens=1024, system=SYSTEM, tools=cast(Any, [TOOL]), messages=messages
            )
            calls = [block for block in reply.content if block.type == "tool_use"]
            if not calls:
                return cast(Any, reply.content[0]).text
            results = [
                {"type": "tool_result", "tool_use_id": c.id, "content": str(await add(**cast(Any, c.input)))}
                for c in calls
            ]
            messages += [{"role": "assistant", "content": reply.content}, {"role": "user", "content": results}]

    return run
