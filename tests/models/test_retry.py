"""How long is waited, and when no more."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.agents.models import Reply, RetryPolicy, Usage
from retinue.agents.models.faults import Fault
from retinue.agents.models.retry import retry_after
from retinue.errors import ModelError, ModelRateLimited, RetinueError
from tests.models.conftest import Time

pytestmark = pytest.mark.anyio

DONE = Reply(content=[], stop_reason="end_turn", model="m", usage=Usage(output=1))


class Service:
    """Fails as often as it is told to."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = list(faults)
        self.attempts: list[int] = []

    async def __call__(self, number: int) -> Reply:
        self.attempts.append(number)
        if self.faults:
            raise self.faults.pop(0)
        return DONE


def passing(asked: float | None = None, **usage: int) -> Fault:
    return Fault(ModelError("passing"), repeatable=True, asked=asked, usage=Usage(**usage))


async def test_waits_grow_and_are_bounded(time: Time) -> None:
    with pytest.raises(ModelError, match="passing"):
        await time.policy(max_retries=7).run(Service(*[passing()] * 8))
    assert time.waits == [0.5, 1, 2, 4, 8, 8, 8]


async def test_a_wait_is_a_random_part_of_its_bound(time: Time) -> None:
    parts = iter([0.0, 0.25, 1.0])
    policy = RetryPolicy(sleep=time.sleep, clock=time.clock, jitter=lambda: next(parts))
    await policy.run(Service(passing(), passing(), passing()))
    assert time.waits == [0.0, 0.25, 2.0]


async def test_with_no_retries_the_first_failure_is_told(time: Time) -> None:
    service = Service(passing())
    with pytest.raises(ModelError):
        await time.policy(max_retries=0).run(service)
    assert service.attempts == [0]


async def test_a_retry_whose_wait_would_pass_the_deadline_is_not_made(time: Time) -> None:
    service = Service(*[passing()] * 5)
    with pytest.raises(ModelError, match="passing"):
        await time.policy().run(service, deadline=time.now + 2.0)
    assert time.waits == [0.5, 1.0]


async def test_each_further_attempt_is_announced_and_what_was_lost_is_counted(time: Time) -> None:
    told: list[int] = []
    service = Service(passing(input=100), passing(input=100, output=7))
    reply = await time.policy().run(service, on_retry=lambda: told.append(len(service.attempts)))
    assert told == [1, 2]
    assert reply.usage == Usage(input=200, output=8)


async def test_a_first_reply_is_handed_on_untouched(time: Time) -> None:
    assert await time.policy().run(Service()) is DONE


async def test_a_mistake_of_ours_passes_through(time: Time) -> None:
    async def broken(_: int) -> Reply:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        await time.policy().run(broken)
    assert time.waits == []


@given(
    faults=st.lists(
        st.tuples(st.booleans(), st.none() | st.floats(min_value=0.001, max_value=1e7)), min_size=1, max_size=12
    ),
    jitters=st.lists(st.floats(min_value=0, max_value=1), min_size=12, max_size=12),
    retries=st.integers(min_value=0, max_value=10),
    cap=st.floats(min_value=0, max_value=120),
    left=st.none() | st.floats(min_value=-5, max_value=200),
)
async def test_no_wait_passes_the_cap_or_the_deadline(
    faults: list[tuple[bool, float | None]], jitters: list[float], retries: int, cap: float, left: float | None
) -> None:
    time, draws = Time(), iter(jitters)
    service = Service(
        *(Fault(ModelError("it broke"), repeatable=repeatable, asked=asked) for repeatable, asked in faults)
    )
    policy = RetryPolicy(
        max_retries=retries, retry_after_cap=cap, sleep=time.sleep, clock=time.clock, jitter=lambda: next(draws)
    )
    deadline = None if left is None else time.now + left
    error: RetinueError | None = None
    try:
        await policy.run(service, deadline=deadline)
    except RetinueError as raised:
        error = raised
    made = len(service.attempts)
    assert made == len(time.waits) + 1
    assert made <= retries + 1
    assert deadline is None or time.now <= deadline or not time.waits  # a sum of floats may round up to it
    for wait, (repeatable, asked) in zip(time.waits, faults, strict=False):
        assert repeatable, "a mistake is not tried again"
        assert 0 <= wait <= max(cap if asked is not None else 0, policy.max_backoff if asked is None else 0)
        assert asked is None or wait >= asked, "what the service asks is obeyed"
    if error is not None and "retry_after" in error.details:
        assert isinstance(error, ModelRateLimited)
        asked = faults[made - 1][1]
        assert error.details["retry_after"] == asked
        assert asked is not None
        assert asked > cap or (deadline is not None and time.now + asked >= deadline)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Wed, 99 Foo 2026 99:99:99 GMT"}, None),
    ],
)
def test_the_wait_that_headers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_the_wait_may_be_given_as_a_date() -> None:
    now = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
    later = format_datetime(now.replace(second=42), usegmt=True)
    assert retry_after({"retry-after": later}, now=now.timestamp) == 42
    assert retry_after({"retry-after": later}, now=now.replace(minute=1).timestamp) is None


@given(st.text(max_size=40))
def test_any_header_is_read_without_an_error(value: str) -> None:
    result: Any = retry_after({"retry-after": value})
    assert result is None or result > 0
