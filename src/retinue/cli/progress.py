"""What a run looks like so far: a projection of its event stream, for the live view and for `runs show`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retinue.graphs.events import Line
from retinue.text import one_line, printable

NO_MODEL = "No language model is configured; functions of the workflow do the work."

TAIL = 2000
"""Characters of text as it comes that are kept."""


@dataclass(slots=True, kw_only=True)
class ToolRow:
    server: str
    tool: str
    arguments: str = ""
    state: Literal["running", "ok", "failed", "doubt"] = "running"
    seconds: float = 0.0
    progress: str = ""

    @property
    def name(self) -> str:
        return f"{self.server}/{self.tool}" if self.server else self.tool


@dataclass(slots=True, kw_only=True)
class AgentRow:
    path: str
    agent: str
    model: str = ""
    turn: int = 0
    state: Literal["working", "waiting", "finished"] = "working"
    tools: dict[str, ToolRow] = field(default_factory=dict[str, ToolRow])
    calls: int = 0
    text: str = ""


@dataclass(slots=True, kw_only=True)
class Spending:
    """Of one agent, or of all."""

    tokens: int = 0
    usd: float = 0.0
    turns: int = 0

    def add(self, line: Line) -> None:
        self.tokens += sum(line.get("usage", {}).values())
        self.usd += line.get("cost_usd", 0.0)
        self.turns += 1


@dataclass(slots=True, kw_only=True)
class Progress:
    """Fed with lines in order; one from the middle of a stream makes do with what it says itself."""

    workflow: str = ""
    language_model: bool | None = None
    agents: dict[str, AgentRow] = field(default_factory=dict[str, AgentRow])
    questions: dict[str, str] = field(default_factory=dict[str, str])
    """Open ones: id to title."""
    spent: Spending = field(default_factory=Spending)
    last: Line | None = None
    """The line that ended the execution."""

    def feed(self, line: Line) -> None:
        match line["type"]:
            case "run.started":
                self.workflow = line["workflow"]
                self.language_model = line["language_model"]
            case "run.resumed":
                self.language_model = line["language_model"]
            case "question.asked":
                self._asked(line)
            case "question.answered" | "question.expired":
                self.questions.pop(line["question"], None)
            case "agent.started" | "agent.finished" | "model.called" | "model.replied" | "text.delta":
                self._agent_line(line)
            case "tool.called" | "tool.finished" | "tool.progress" | "tool.in_doubt":
                self._tool_line(line)
            case kind if kind.startswith("run."):
                self.last = line
            case _:
                pass

    def go_on(self) -> None:
        """A new execution begins: what is finished has been shown."""
        self.agents = {path: row for path, row in self.agents.items() if row.state != "finished"}
        self.last = None

    def _asked(self, line: Line) -> None:
        self.questions[line["question"]] = printable(line["title"])
        if (row := self.agents.get(line.get("path", ""))) is not None:
            row.state = "waiting"

    def _agent_line(self, line: Line) -> None:
        row = self._row(line)
        row.model = line.get("model", row.model)
        match line["type"]:
            case "agent.finished":
                row.state, row.text = "finished", ""
            case "model.called":
                row.state, row.turn, row.text = "working", line["turn"] + 1, ""
            case "model.replied":
                row.turn, row.text = line["turn"] + 1, ""
                self.spent.add(line)
            case "text.delta":
                row.text = (row.text + line["text"])[-TAIL:]
            case _:
                row.state = "working"

    def _tool_line(self, line: Line) -> None:
        row = self._row(line)
        call = line.get("call", line.get("tool", ""))
        tool = row.tools.get(call)
        if tool is None or line["type"] == "tool.called":
            tool = row.tools[call] = ToolRow(server=line.get("server", ""), tool=line.get("tool", ""))
            row.calls += 1
        match line["type"]:
            case "tool.called":
                row.state, tool.arguments = "working", short_arguments(line["arguments"])
            case "tool.finished":
                tool.state = "failed" if line["is_error"] else "ok"
                tool.seconds, tool.progress = line["seconds"], ""
            case "tool.progress":
                tool.progress = progress_text(line)
            case _:
                tool.state = "doubt"

    def _row(self, line: Line) -> AgentRow:
        path = line.get("path", "")
        row = self.agents.get(path)
        if row is None:
            row = self.agents[path] = AgentRow(path=path, agent=line.get("agent", ""))
        return row


def short_arguments(arguments: Mapping[str, Any], limit: int = 72) -> str:
    """``query="refund approval" limit=5``, on one line."""
    parts: list[str] = []
    for name, value in arguments.items():
        text = one_line(str(value), 48)
        parts.append(f'{name}="{text}"' if isinstance(value, str) else f"{name}={text}")
    return one_line(" ".join(parts), limit)


def gist(given: Mapping[str, Any], limit: int) -> str:
    """A run's input on one line: its first text, else its fields."""
    texts = [value for value in given.values() if isinstance(value, str) and value]
    fields = [f"{name}={value}" for name, value in given.items() if value not in (None, "", [], {})]
    return one_line(texts[0] if texts else " ".join(fields), limit)


def progress_text(line: Line) -> str:
    done, total = line["done"], line["total"]
    numbers = f"{done:g} of {total:g}" if total else f"{done:g}"
    return one_line(f"{numbers} {line['message'] or ''}", 72)


def money(usd: float) -> str:
    return f"${usd:.4f}" if usd < 1 else f"${usd:.2f}"


def spent_text(seconds: float, tokens: int, usd: float, turns: int) -> str:
    """``12.3 s · 3,112 tokens · $0.0123 · 7 turns``; what is nothing is left out."""
    parts = [f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"]
    parts += [f"{tokens:,} tokens"] if tokens else []
    parts += [money(usd)] if usd else []
    parts += [f"{turns} turn{'' if turns == 1 else 's'}"] if turns else []
    return " · ".join(parts)
