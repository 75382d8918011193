"""The live view: one tree of agents and their tools, drawn over itself on stderr while the run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import textwrap
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from retinue.text import one_line, printable

from .progress import NO_MODEL, AgentRow, Progress, ToolRow, gist, spent_text
from .terminal import silent_keys

if TYPE_CHECKING:
    from retinue.graphs.events import Line
    from retinue.graphs.records import RunRecord

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
PERIOD = 0.12
DETAIL = 5
"""Lines about what one agent does, where there is room for them."""
TEXT_LINES = 2
ENDED_ROWS = 60
"""Rows of the last drawing, which stays."""

Row = tuple[int, Text]
"""Depth below the run, and one line."""


class LiveView:
    """``console`` is where it draws: by default the terminal behind stderr."""

    def __init__(self, progress: Progress, *, workflow: str, console: Console | None = None) -> None:
        self._progress = progress
        self._workflow = workflow
        self._console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live: Live | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._keys = contextlib.ExitStack()
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._run = ""
        self._about = ""
        """What the run was asked."""
        self._preparing = ""
        self._stopping = False
        self._ended = False
        self._told = False
        """Whether the person knows that no language model is used."""

    def begin(self, record: RunRecord) -> None:
        self._workflow = record.workflow
        self._about = gist(record.input, 120)
        self.remember(record.id, seconds=record.active)
        self._keys.enter_context(silent_keys())
        self._live = Live(
            console=self._console, auto_refresh=False, vertical_overflow="crop", get_renderable=self.render
        )
        self._live.start(refresh=True)
        self._ticking = asyncio.create_task(self._tick(), name="live view")

    def remember(self, run: str, *, seconds: float) -> None:
        """Which run it is, and how long it has been executed before."""
        self._run = run
        self._seconds_before = seconds
        self._began = time.monotonic()
        self._ended = False

    async def _tick(self) -> None:
        while self._live is not None:
            self._live.refresh()
            await asyncio.sleep(PERIOD)

    def line(self, line: Line) -> None:
        self._preparing = ""

    def preparing(self, text: str) -> None:
        self._preparing = one_line(text, 200)

    def stopping(self) -> None:
        self._stopping = True

    def end(self) -> None:
        live, self._live = self._live, None
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        self._ended = True
        if live is not None:
            live.vertical_overflow = "visible"
            live.stop()
        self._told = self._told or self._progress.language_model is False
        self._keys.close()

    def restore(self) -> None:
        self._keys.close()
        os.write(2, b"\n\x1b[?25h")  # past Python's buffers: one of them may be in use right now

    # Drawing

    def render(self) -> Group:
        height = ENDED_ROWS if self._ended else max(self._console.size.height - 1, 6)
        head, foot = self._head(), self._foot()
        rows = self._fitted(height - len(head) - len(foot))
        drawn = [*head, *_with_guides(rows), *foot]
        for text in drawn:
            text.no_wrap, text.overflow = True, "ellipsis"
        return Group(*drawn)

    def _head(self) -> list[Text]:
        title = Text.assemble((printable(self._workflow), "bold"), f"  {self._run[:6]}", (f"  {self._about}", "dim"))
        if self._progress.language_model is False and not self._told:
            return [Text(NO_MODEL, "yellow"), title]
        return [title]

    def _foot(self) -> list[Text]:
        asked = [] if self._ended else list(self._progress.questions.values())[:5]  # what is left open is shown whole
        rows = [Text(f"? {one_line(title, 200)}", "yellow") for title in asked]
        spent = self._progress.spent
        seconds = self._seconds_before + (0.0 if self._live is None else time.monotonic() - self._began)
        if self._live is None and self._progress.last is not None:
            seconds = self._progress.last.get("spent", {}).get("seconds", seconds)
        text = spent_text(seconds, spent.tokens, spent.usd, spent.turns)
        if self._stopping and not self._ended:
            rows.append(Text("Stopping, once calls in flight have ended. Ctrl-C again leaves at once.", "yellow"))
        if self._preparing and not self._ended:
            rows.append(Text(f"{self._spinner()} {self._preparing}", "dim"))
        rows.append(Text(text, "dim"))
        return rows

    def _fitted(self, room: int) -> list[Row]:
        """As many agents as fit: those at work with what they do, then the finished ones, the latest last."""
        agents = list(self._progress.agents.values())
        finished = [agent for agent in agents if agent.state == "finished"]
        working = [agent for agent in agents if agent.state != "finished"]
        detail: list[Row] = []
        for shown in range(DETAIL, -1, -1):
            detail = [row for agent in working for row in self._agent_rows(agent, shown)]
            if len(detail) < room:
                break
        if len(detail) > room - 1:
            left = len(detail) - max(room - 2, 1)
            detail = [*detail[: max(room - 2, 1)], (0, Text(f"… and {left} more at work", "dim"))]
        shown = max(room - len(detail) - 1, 0)
        folded = len(finished) - shown if len(finished) > shown + 1 else 0
        rows: list[Row] = []
        if folded:
            rows.append((0, Text(f"✓ {folded} finished", "dim")))
        rows += [row for agent in finished[folded:] for row in self._agent_rows(agent, 0)]
        return [*rows, *detail]

    def _agent_rows(self, agent: AgentRow, shown: int) -> list[Row]:
        """The agent, and the last ``shown`` lines of what it does."""
        text = Text()
        mark, style = {"finished": ("✓", "green"), "waiting": ("?", "yellow")}.get(
            agent.state, ("·" if self._ended else self._spinner(), "cyan")
        )
        text.append(f"{mark} ", style)
        text.append(one_line(agent.path or agent.agent, 60), "" if agent.state == "finished" else "bold")
        if agent.agent and not agent.path.startswith(agent.agent):
            text.append(f"  {one_line(agent.agent, 40)}")
        facts = [one_line(agent.model, 40)] if agent.model else []
        facts += [f"turn {agent.turn}"] if agent.turn else []
        facts += [f"{agent.calls} call{'' if agent.calls == 1 else 's'}"] if agent.calls else []
        text.append("  " + " · ".join(facts), "dim")
        if not shown or agent.state == "finished":
            return [(0, text)]
        below = [self._tool_row(tool) for tool in list(agent.tools.values())[-DETAIL:]]
        if agent.text and not self._ended:
            lines = textwrap.wrap(one_line(agent.text), max(self._console.size.width - 8, 20))
            below += [Text(line, "italic dim") for line in lines[-TEXT_LINES:]]
        return [(0, text), *((1, row) for row in below[-shown:])]

    def _tool_row(self, tool: ToolRow) -> Text:
        mark, style = {"ok": ("✓", "green"), "failed": ("✗", "red"), "doubt": ("?", "yellow")}.get(
            tool.state, ("·" if self._ended else self._spinner(), "cyan")
        )
        text = Text.assemble((f"{mark} ", style), one_line(tool.name, 60))
        if tool.arguments:
            text.append(f"  {tool.arguments}", "dim")
        if tool.progress:
            text.append(f"  {tool.progress}", "dim")
        if tool.state in ("ok", "failed"):
            text.append(f"  {tool.seconds:.1f} s", "dim")
        return text

    def _spinner(self) -> str:
        return FRAMES[int(time.monotonic() / PERIOD) % len(FRAMES)]


def _with_guides(rows: list[Row]) -> Iterable[Text]:
    """The lines of a tree."""
    for number, (depth, text) in enumerate(rows):
        later = [d for d, _ in rows[number + 1 :]]
        if depth == 0:
            guide = "├─ " if 0 in later else "└─ "
        else:
            same = next((d for d in later if d <= depth), None) == depth
            guide = ("│  " if 0 in later else "   ") + ("├─ " if same else "└─ ")
        yield Text.assemble((guide, "dim"), text)
