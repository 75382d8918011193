"""Events as plain lines: for a log, a pipe, a terminal without colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from retinue.text import one_line

from .progress import NO_MODEL, money, progress_text, short_arguments

if TYPE_CHECKING:
    from retinue.graphs.events import Line


def clock(line: Line) -> str:
    """The event's local time of day."""
    from datetime import datetime

    return datetime.fromisoformat(line["ts"]).astimezone().strftime("%H:%M:%S")


def describe(line: Line) -> str | None:
    """One event in words; None for one that a reader can do without."""
    describer = _DESCRIBERS.get(line["type"])
    return None if describer is None else describer(line)


def _who(line: Line) -> str:
    return line.get("path") or line.get("agent") or "the workflow"


def _tool(line: Line) -> str:
    return f"{line['server']}/{line['tool']}" if line.get("server") else str(line.get("tool", ""))


def _started(line: Line) -> str:
    first = "" if line["language_model"] else f"{NO_MODEL} "
    return f"{first}Run {line['run'][:6]} of {line['workflow']} has begun."


def _resumed(line: Line) -> str:
    first = "" if line["language_model"] else f"{NO_MODEL} "
    return f"{first}Run {line['run'][:6]} goes on."


def _replied(line: Line) -> str | None:
    tokens = sum(line["usage"].values())
    if not tokens:
        return None
    cost = f", {money(line['cost_usd'])}" if line["cost_usd"] else ""
    return f"{_who(line)}: turn {line['turn'] + 1}, {tokens:,} tokens{cost}"


def _finished_tool(line: Line) -> str:
    if line["is_error"]:
        return f"{_who(line)}: {_tool(line)} failed: {one_line(line['preview'], 160)}"
    return f"{_who(line)}: {_tool(line)} answered after {line['seconds']:.1f} s"


def _ended(line: Line) -> str:
    ending = line["type"].removeprefix("run.")
    return f"Run {line['run'][:6]} {ending}: {one_line(line['error']['message'], 400)}"


_DESCRIBERS: dict[str, Callable[[Any], str | None]] = {
    "run.started": _started,
    "run.resumed": _resumed,
    "run.waiting": lambda line: f"Run {line['run'][:6]} waits for an answer.",
    "run.done": lambda line: f"Run {line['run'][:6]} is done.",
    "run.failed": _ended,
    "run.refused": _ended,
    "run.cancelled": _ended,
    "run.stopped": _ended,
    "agent.started": lambda line: f"{_who(line)}: begins, with {line['model']}",
    "agent.finished": lambda line: f"{_who(line)}: finished",
    "model.replied": _replied,
    "tool.called": lambda line: f"{_who(line)}: calls {_tool(line)} {short_arguments(line['arguments'])}".rstrip(),
    "tool.finished": _finished_tool,
    "tool.progress": lambda line: f"{_who(line)}: {_tool(line)} {progress_text(line)}",
    "tool.in_doubt": lambda line: f"{_who(line)}: it is not known whether {_tool(line)} happened",
    "question.asked": lambda line: f"A question: {line['title']}",
    "question.answered": lambda line: f"The question was answered by {line['by'].rpartition('|')[2]}.",
    "question.expired": lambda line: "A question was not answered in time.",
}
