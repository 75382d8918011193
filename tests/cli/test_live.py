"""The live view: one tree, as wide and as high as the terminal, that obeys nobody's text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from retinue.cli.live import LiveView
from retinue.cli.progress import Progress
from tests.support.workflows import NASTY

RUN = "7f3a12" + "0" * 26


class Stage:
    """A view on a terminal of fixed size, fed with lines."""

    def __init__(self, width: int = 72, height: int = 24) -> None:
        self.progress = Progress(workflow="brief")
        self.file = io.StringIO()
        console = Console(
            file=self.file, width=width, height=height, force_terminal=True, color_system=None, markup=False
        )
        self.console = console
        self.view = LiveView(self.progress, workflow="brief", console=console)
        self.view.remember(RUN, seconds=0.0)
        self.line("run.started", workflow="brief", language_model=True, models={})

    def line(self, kind: str, /, **body: Any) -> None:
        self.progress.feed({"type": kind, "run": RUN, "ts": "2026-11-20T12:00:00.000Z", "seq": 1, **body})

    def agent(self, path: str, *, name: str = "scout", turn: int = 0) -> None:
        who = {"path": path, "agent": name, "prompt": ""}
        self.line("agent.started", **who, model="claude-sonnet-5-5", task="?")
        self.line("model.called", **who, model="claude-sonnet-5-5", turn=turn)

    def finish(self, path: str, *, name: str = "scout") -> None:
        self.line("agent.finished", path=path, agent=name, prompt="", output="")

    def call(self, path: str, tool: str, result: str | None = None, **arguments: Any) -> None:
        about = {"path": path, "agent": "scout", "call": f"0.{tool}", "server": "knowledge", "tool": tool}
        self.line("tool.called", **about, arguments=arguments)
        if result is not None:
            self.line("tool.finished", **about, is_error=result == "failed", preview="", seconds=0.25, artifacts=[])

    def drawn(self) -> list[str]:
        with self.console.capture() as captured:
            self.console.print(self.view.render())
        return [line.rstrip() for line in captured.get().splitlines()]


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]  # used by being autouse
    monkeypatch.setattr("retinue.cli.live.FRAMES", "*")


def test_agents_their_tools_and_their_words_are_one_tree() -> None:
    stage = Stage()
    stage.agent("plan@1", name="planner")
    stage.finish("plan@1", name="planner")
    stage.agent("scout[0]@2", turn=1)
    stage.call("scout[0]@2", "search", "ok", query="refund approval", limit=5)
    stage.call("scout[0]@2", "read", document="refunds.md")
    stage.agent("scout[1]@2")
    stage.call("scout[1]@2", "search", "failed", query="x")
    stage.line("text.delta", path="scout[1]@2", agent="scout", text="A refund is\napproved by ")
    usage = {"input": 3000, "output": 112, "cache_read": 0, "cache_write": 0}
    stage.line("model.replied", path="plan@1", agent="planner", turn=0, model="m", usage=usage, cost_usd=0.0123)
    assert stage.drawn()[:-1] == [
        "brief  7f3a12",
        "├─ ✓ plan@1  planner  m · turn 1",
        "├─ * scout[0]@2  claude-sonnet-5-5 · turn 2 · 2 calls",
        '│  ├─ ✓ knowledge/search  query="refund approval" limit=5  0.2 s',
        '│  └─ * knowledge/read  document="refunds.md"',
        "└─ * scout[1]@2  claude-sonnet-5-5 · turn 1 · 1 call",
        '   ├─ ✗ knowledge/search  query="x"  0.2 s',
        "   └─ A refund is approved by",
    ]
    assert stage.drawn()[-1].endswith(" s · 3,112 tokens · $0.0123 · 1 turn")


def test_the_first_line_says_when_no_language_model_is_used() -> None:
    stage = Stage()
    stage.progress.language_model = False
    assert stage.drawn()[0] == "No language model is configured; functions of the workflow do the work."


def test_open_questions_are_named_while_the_rest_goes_on() -> None:
    stage = Stage()
    stage.agent("send@3", name="clerk")
    stage.line("question.asked", path="send@3", question="q1", kind="approval", title="clerk wants to call mail/send")
    drawn = stage.drawn()
    assert "└─ ? send@3  clerk  claude-sonnet-5-5 · turn 1" in drawn
    assert "? clerk wants to call mail/send" in drawn
    stage.line("question.answered", question="q1", kind="approval", by="me", channel="command")
    assert "? clerk wants to call mail/send" not in stage.drawn()


@pytest.mark.parametrize("height", [8, 12, 24])
@pytest.mark.parametrize(("finished", "working"), [(0, 30), (500, 0), (500, 3), (500, 30), (3, 3)])
def test_it_never_outgrows_the_terminal(height: int, finished: int, working: int) -> None:
    stage = Stage(height=height)
    for number in range(finished + working):
        stage.agent(f"scout[{number}]@2")
        stage.call(f"scout[{number}]@2", "search", query="a long question " * 9)
        if number < finished:
            stage.finish(f"scout[{number}]@2")
    drawn = stage.drawn()
    assert len(drawn) < height
    assert max(map(len, drawn)) <= 72
    text = "\n".join(drawn)
    if finished == 500:
        assert " finished" in text
    if working:
        assert "* scout[" in text


def test_nobodys_text_moves_the_cursor_or_is_markup() -> None:
    stage = Stage(width=200)
    stage.agent(NASTY, name=NASTY)
    stage.call(NASTY, NASTY, query=NASTY)
    stage.line("text.delta", path=NASTY, agent="scout", text=NASTY)
    stage.line("question.asked", path="", question="q", kind="text", title=NASTY)
    text = "\n".join(stage.drawn())
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(text)
    assert "[bold]markup[/bold]" in text


def test_what_stays_has_no_spinner_and_no_question() -> None:
    stage = Stage()
    stage.agent("scout[0]@2")
    stage.call("scout[0]@2", "search", query="x")
    stage.line("question.asked", path="scout[0]@2", question="q", kind="text", title="Which?")
    stage.view.end()
    text = "\n".join(stage.drawn())
    assert "*" not in text
    assert "Which?" not in text


def test_a_second_execution_shows_only_what_is_not_over() -> None:
    stage = Stage()
    stage.agent("plan@1", name="planner")
    stage.finish("plan@1", name="planner")
    stage.agent("send@3", name="clerk")
    stage.progress.go_on()
    text = "\n".join(stage.drawn())
    assert "plan@1" not in text
    assert "send@3" in text
