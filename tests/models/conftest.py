"""A model that talks to a local server, and a clock that only a test moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retinue.agents.models import ClaudeModel, Request, RetryPolicy
from tests.support.messages_server import MessagesServer

KEY = "sk-canary-0f9e8d7c6b5a"


class Time:
    """Waits pass at once and are written down. Jitter is always all of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def policy(self, **changes: Any) -> RetryPolicy:
        return RetryPolicy(clock=self.clock, sleep=self.sleep, jitter=lambda: 1.0, **changes)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def claude(time: Time) -> Callable[..., ClaudeModel]:
    """``claude(server, **options)``: a model at this server that never really waits."""

    def make(server: MessagesServer | str, **options: Any) -> ClaudeModel:
        url = server if isinstance(server, str) else server.url
        options = {"api_key": KEY, "retry": time.policy(), **options}
        return ClaudeModel(base_url=url, **options)

    return make


def ask(text: str = "Why?", **fields: Any) -> Request:
    base: dict[str, Any] = {"system": "Be brief.", "messages": [{"role": "user", "content": text}]}
    return Request(**{**base, **fields})
