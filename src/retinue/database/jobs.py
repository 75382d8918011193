"""Units of work on their way to a thread and back: what the databases' workers share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from retinue.database.base import Transaction

Calls = list[Callable[[], None]]
"""What waits for a commit."""

_log = logging.getLogger("retinue.database")


class Job(NamedTuple):
    work: Callable[[Transaction], Any]
    flush: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


def announce(calls: Calls) -> None:
    """Make the calls that waited for a commit. One that fails takes neither the others nor the writer along."""
    for call in calls:
        try:
            call()
        except Exception:
            _log.exception("a call after a commit failed; the commit stands")


def deliver(job: Job, value: Any, calls: Calls, error: BaseException | None) -> None:
    """Hand a job's outcome to its event loop, from any thread."""
    if isinstance(error, StopIteration):  # a future cannot hold one
        cause, error = error, RuntimeError("a unit of work raised StopIteration")
        error.__cause__ = cause
    try:
        job.loop.call_soon_threadsafe(_settle, job.future, value, calls, error)
    except RuntimeError:  # the loop was closed under a write in flight; the write itself stands
        return


def _settle(future: asyncio.Future[Any], value: Any, calls: Calls, error: BaseException | None) -> None:
    announce(calls)
    if future.done():
        if error is not None:
            _log.warning("a unit of work failed after its caller had gone: %s", type(error).__name__)
    elif error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
