"""The three ways in which an execution is shown: JSON lines, plain lines, a live tree."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Protocol

from .group import App
from .plain import describe
from .progress import Progress

if TYPE_CHECKING:
    from retinue.graphs.events import Line
    from retinue.graphs.records import RunRecord

LAST_LINES = ("run.waiting", "run.done", "run.failed", "run.refused", "run.cancelled", "run.stopped")
QUIET_SECONDS = 5.0
"""Between two lines about the progress of one thing, in plain view."""


class View(Protocol):
    """Told of every line, in order. Begun and ended around each execution."""

    def begin(self, record: RunRecord) -> None: ...

    def line(self, line: Line) -> None:
        """Raises `Gone` when nobody reads any more."""
        ...

    def preparing(self, text: str) -> None:
        """Something that takes time before or beside the run (indexing, say)."""
        ...

    def stopping(self) -> None: ...

    def end(self) -> None:
        """Leave the terminal as it was found."""
        ...

    def restore(self) -> None:
        """The same in a hurry, from a signal handler."""
        ...


class JsonView:
    """Every line, as it is."""

    def __init__(self, app: App) -> None:
        self._out = app.out

    def begin(self, record: RunRecord) -> None: ...

    def line(self, line: Line) -> None:
        self._out.line(line)

    def preparing(self, text: str) -> None: ...

    def stopping(self) -> None: ...

    def end(self) -> None: ...

    def restore(self) -> None: ...


class PlainView:
    """What happens, line by line, on stderr."""

    def __init__(self, app: App) -> None:
        self._out = app.out
        self._told: dict[str, float] = {}

    def begin(self, record: RunRecord) -> None: ...

    def line(self, line: Line) -> None:
        if line["type"] == "run.resumed" and self._lately("model", period=math.inf):
            line = {**line, "language_model": True}  # it was told already
        if line["type"] == "run.started":
            self._lately("model")
        if line["type"] == "tool.progress" and self._lately(f"{line['path']} {line['tool']}"):
            return
        if line["type"] not in LAST_LINES and (text := describe(line)):  # how it ended is shown at length
            self._out.note(text)

    def preparing(self, text: str) -> None:
        if not self._lately("preparing"):
            self._out.note(text)

    def _lately(self, what: str, *, period: float = QUIET_SECONDS) -> bool:
        now = time.monotonic()
        lately = what in self._told and now - self._told[what] < period
        if not lately:
            self._told[what] = now
        return lately

    def stopping(self) -> None:
        self._out.note("Stopping. Once more leaves at once.")

    def end(self) -> None: ...

    def restore(self) -> None: ...


def view_for(app: App, progress: Progress, *, workflow: str) -> View:
    if app.out.json:
        return JsonView(app)
    if app.out.live:
        from .live import LiveView  # rich costs a tenth of a second

        return LiveView(progress, workflow=workflow)
    return PlainView(app)


def indexing_text(told: Any) -> str:
    """What `Host.on_progress` says, in words."""
    done, total = getattr(told, "done", None), getattr(told, "total", None)
    what = getattr(told, "document", None) or getattr(told, "path", None) or ""
    numbers = f" {done} of {total}" if done is not None and total else ""
    return f"Reading the library{numbers} {what}".rstrip()
