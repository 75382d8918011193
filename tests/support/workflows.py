"""Small workflows for the command line's tests. Files in the current folder show what was done, and let it go on."""

from __future__ import annotations

from operator import add
from pathlib import Path
from typing import Annotated, Any

import anyio
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from retinue import Agent, FunctionCall, FunctionToolset, ScriptedModel, Workflow, each, step
from retinue.agents.models.base import Price, Usage
from retinue.errors import SignInNeeded, Timeout, ToolFailed, Unreachable

SENT = "sent.log"
"""Each letter that was sent, a line."""


class Letter(BaseModel):
    subject: str
    lines: int = 3
    reply: str = ""


class Reply(BaseModel):
    reply: str


def send(to: str, text: str) -> str:
    """Send a letter."""
    with Path(SENT).open("a", encoding="utf-8") as file:
        file.write(f"{to}: {text!r}\n")
    return f"sent to {to}"


def body(subject: str, lines: int) -> str:
    return "\n".join([f"# {subject}", "", *(f"Line {n} of the letter." for n in range(1, lines + 1))]) + "\n"


def clerk(call: FunctionCall) -> Any:
    if call.results:
        return call.results[0].text
    subject, _, lines = call.task.rpartition("|")
    return call.use("send", to="ann@example.org", text=body(subject, int(lines)))


def _of_one_agent(name: str, agent: Agent, state: type[BaseModel] = Letter, **options: Any) -> Workflow:
    graph = StateGraph(state, output_schema=Reply)
    graph.add_node("work", step(agent, task=lambda s: f"{s.subject}|{s.lines}", into="reply"))
    graph.add_edge(START, "work")
    graph.add_edge("work", END)
    return Workflow(name, graph, **options)


def done(output: dict[str, str]) -> str:
    return f"**Done:** {output['reply']}"


mail = FunctionToolset(send, effect="unsafe", name="mail")
letter = _of_one_agent(
    "letter",
    Agent("clerk", prompt="Send the letter.", function=clerk, tools=[mail]),
    description="Writes a letter and asks before it is sent.",
    summary=done,
)


# Two questions at once


class Letters(BaseModel):
    subject: str
    replies: Annotated[list[str], add] = []


pair_graph = StateGraph(Letters)
pair_graph.add_node(
    "send", step(Agent("clerk", prompt="Send.", function=clerk, tools=[mail]), task=lambda s: f"{s}|1", into="replies")
)
pair_graph.add_conditional_edges(START, each(lambda s: [f"{s.subject} A", f"{s.subject} B"], "send"), ["send"])
pair_graph.add_edge("send", END)
pair = Workflow("pair", pair_graph)


# A question in one branch while another is at work


class Both(BaseModel):
    subject: str
    reply: str = ""
    seen: str = ""


both_graph = StateGraph(Both)
both_graph.add_node(
    "send",
    step(Agent("clerk", prompt="Send.", function=clerk, tools=[mail]), task=lambda s: f"{s.subject}|1", into="reply"),
)


# Questions of a user's own nodes


class Talk(BaseModel):
    day: str = ""
    hours: int = 0
    size: str = ""


def ask_day(state: Talk) -> dict[str, Any]:
    return {"day": interrupt("Which day suits you?")}


def ask_hours(state: Talk) -> dict[str, Any]:
    return {"hours": interrupt({"how": "many hours"}, response_schema={"type": "integer", "minimum": 1})}


def ask_size(state: Talk) -> dict[str, Any]:
    return {"size": interrupt("Which size?", response_schema={"enum": ["small", "large"]})}


talk_graph = StateGraph(Talk)
for _name, _node in (("day", ask_day), ("hours", ask_hours), ("size", ask_size)):
    talk_graph.add_node(f"ask_{_name}", _node)
talk_graph.add_edge(START, "ask_day")
talk_graph.add_edge("ask_day", "ask_hours")
talk_graph.add_edge("ask_hours", "ask_size")
talk_graph.add_edge("ask_size", END)
talk = Workflow("talk", talk_graph)


# One that takes as long as it is let


async def look() -> str:
    """Look until the file `go` is there."""
    while not await anyio.Path("go").exists():  # noqa: ASYNC110  another process makes it
        await anyio.sleep(0.01)
    return "seen"


def watch(call: FunctionCall) -> Any:
    return call.results[0].text if call.results else call.use("look")


watcher = Agent("watcher", prompt="Look.", function=watch, tools=[FunctionToolset(look, effect="read_only")])
both_graph.add_node("look", step(watcher, task="look", into="seen"))
for _name in ("send", "look"):
    both_graph.add_edge(START, _name)
    both_graph.add_edge(_name, END)
both = Workflow("both", both_graph)
slow = _of_one_agent("slow", watcher)


# One whose call is in doubt: its tool says that no result came back


def vanish(what: str) -> str:
    """Begin something whose result never comes."""
    Path("begun").touch()
    raise ToolFailed("the line went dead")


def doubtful(call: FunctionCall) -> Any:
    return call.results[0].text if call.results else call.use("vanish", what="the payment")


doubt = _of_one_agent(
    "doubt",
    Agent("payer", prompt="Pay.", function=doubtful, tools=[FunctionToolset(vanish, effect="unsafe", allow=["*"])]),
)


# One that fails as it is told


class Failing(BaseModel):
    how: str


ERRORS: dict[str, Exception] = {
    "tool": ToolFailed("the mail server said no"),
    "sign-in": SignInNeeded("the token has expired", hint="Sign in again."),
    "unreachable": Unreachable("nobody answers at mail.example"),
    "timeout": Timeout("it took too long"),
    "node": ValueError("a \x1b[31mred\x1b[0m mistake"),
}


def fail(state: Failing) -> dict[str, Any]:
    raise ERRORS[state.how]


failing_graph = StateGraph(Failing)
failing_graph.add_node("fail", fail)
failing_graph.add_edge(START, "fail")
failing_graph.add_edge("fail", END)
failing = Workflow("failing", failing_graph)


# One with a language model that costs money, and one whose words are not to be trusted


PRICE = Price(input=3, output=15)
paid = _of_one_agent(
    "paid",
    Agent(
        "writer",
        prompt="Write.",
        model=ScriptedModel(["A short answer."] * 9, price=PRICE, usage=Usage(input=1000, output=200)),
    ),
)

NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31mred \u202eevil [bold]markup[/bold] [link=https://evil.example]x[/link]"


def nasty_clerk(call: FunctionCall) -> Any:
    return NASTY if call.results else call.use("send", to=NASTY, text=f"{NASTY}\nsecond line")


nasty = _of_one_agent("nasty", Agent("clerk", prompt="Send.", function=nasty_clerk, tools=[mail]))


# One that does not let go when it is asked to stop


async def hold() -> str:
    """Hold on: nobody could repeat this, so a stopping run waits for it."""
    await anyio.sleep_forever()
    return ""


def holder(call: FunctionCall) -> Any:
    return call.results[0].text if call.results else call.use("hold")


stubborn = _of_one_agent(
    "stubborn",
    Agent("holder", prompt="Hold.", function=holder, tools=[FunctionToolset(hold, effect="unsafe", allow=["*"])]),
)
