"""One workflow, run by processes that are killed at a chosen point; `test_kill_sweep` judges what they leave.

Started as a program it is a warm process without threads, which forks one child for each job that it reads from stdin
(a line of JSON: ``number``, ``folder``, ``kill``, …) and answers with the number and how the child ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jsonschema.validators  # pyright: ignore[reportUnusedImport]  # noqa: F401
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from retinue.agents import loop  # pyright: ignore[reportUnusedImport]  # noqa: F401
from retinue.agents.agent import Agent
from retinue.agents.equipment import Equipment
from retinue.agents.models.base import Reply, Usage
from retinue.agents.models.function import Answer, FunctionCall, ToolUse, reply_with
from retinue.agents.tools.functions import FunctionToolset
from retinue.database.base import Transaction
from retinue.database.sqlite import SQLiteDatabase
from retinue.graphs import members as _members  # pyright: ignore[reportUnusedImport]  # noqa: F401
from retinue.graphs import questions, records
from retinue.graphs.nodes import each, step
from retinue.graphs.questions import Question
from retinue.graphs.runs import Runs
from retinue.graphs.workflow import Workflow
from tests.support.people import ME, NOBODY

T = TypeVar("T")

LABELS = {
    "Runs._make": "start",
    "Runs.resume": "resume",
    "Path._write": "journal",
    "Checkpoints.aput": "checkpoint",
    "Checkpoints._put_writes": "writes",
    "_pause": "pause",
    "_ask_again": "pause",
    "_close": "close",
    "answer": "answer",
}
"""What a transaction is for, by the function that made it."""


class Killer:
    """Counts the points that the process passes, and kills it at the chosen one, as if by ``kill -9``."""

    def __init__(self, at: tuple[str, int] | None) -> None:
        self.at = at
        self.passed: Counter[str] = Counter()

    def __call__(self, point: str) -> None:
        self.passed[point] += 1
        self.passed["any"] += 1
        if self.at in ((point, self.passed[point]), ("any", self.passed["any"])):
            os.kill(os.getpid(), signal.SIGKILL)


class Recorded(SQLiteDatabase):
    """Passes a point before and after each commit."""

    at: Killer
    _label = ""

    def _run_write(self, work: Callable[[Transaction], T], flush: bool) -> Any:
        self._label = LABELS[work.__qualname__.split(".<locals>")[0]]
        return super()._run_write(work, flush)

    def _commit(self, connection: Any) -> None:
        self.at(f"before {self._label}")
        super()._commit(connection)
        self.at(f"after {self._label}")


def log(folder: Path, name: str, line: str) -> None:
    """Append a line that is on the disk when this returns."""
    fd = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def lines(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


class Sent(BaseModel):
    sent: Annotated[list[str], add] = []


class Script:
    """The model: says what follows from the conversation, and logs each call that reaches it."""

    name = "script"
    price = None
    language_model = True

    def __init__(self, folder: Path, at: Killer) -> None:
        self.folder = folder
        self.at = at

    async def complete(self, request: Any, **_: Any) -> Reply:
        call = FunctionCall(request)
        self.at("before model")
        log(self.folder, "model.log", f"{request.agent} {call.task} {call.turn}")
        self.at("after model")
        reply = reply_with(self.answer(call), turn=call.turn, model=self.name)
        return Reply(content=reply.content, stop_reason=reply.stop_reason, usage=Usage(input=7, output=3), model="s")

    def answer(self, call: FunctionCall) -> Answer:
        if call.request.agent == "asker" and not call.turn:
            return ToolUse("sweep", {"question": "for the asker"})
        if call.turn:
            return " + ".join(result.text for result in call.results)
        if call.request.agent == "scout":
            return ToolUse("note", {"text": call.task})
        return [ToolUse("note", {"text": "before sending"}), ToolUse("send", {"to": call.task})]


class State(BaseModel):
    question: str
    findings: Annotated[list[str], add] = []
    sent: Annotated[list[str], add] = []

    def named(self, item: str) -> str:
        """The item, told apart from that of another run."""
        return item if self.question == "?" else f"{item} {self.question}"


def workflow(folder: Path, at: Killer, *, clerks: int = 1) -> Workflow:
    """Two scouts side by side, each with an idempotent tool; then clerks with both tools, one of which asks."""

    async def note(text: str, idempotency_key: str) -> str:
        """Note a text, once a key."""
        at("before note")
        log(folder, "note.log", f"{text}|{idempotency_key}")
        at("after note")
        return f"noted {text}"

    async def send(to: str) -> str:
        """Send it."""
        at("before send")
        log(folder, "send.log", to)
        at("after send")
        return f"sent {to}"

    noting = FunctionToolset(note, effect="keyed")
    scout = Agent("scout", prompt="Look.", tools=[noting])
    clerk = Agent("clerk", prompt="Send.", tools=[noting, FunctionToolset(send, effect="unsafe", name="outbox")])

    async def plan(state: State) -> dict[str, Any]:
        return {}

    async def write(state: State) -> dict[str, Any]:
        return {}

    graph = StateGraph(State)
    graph.add_node("plan", plan)
    graph.add_node("scout", step(scout, task=lambda item: item, into="findings"))
    graph.add_node("write", write)
    graph.add_node("send", step(clerk, task=lambda item: item, into="sent"))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", each(lambda s: [s.named("a"), s.named("b")], "scout"), ["scout"])
    graph.add_edge("scout", "write")
    graph.add_conditional_edges("write", each(lambda s: [s.named(f"to {n}") for n in range(clerks)], "send"), ["send"])
    graph.add_edge("send", END)
    return Workflow("sweep", graph)


def people(folder: Path, at: Killer) -> Workflow:
    """Nodes of the user's own that ask: two questions in one node, two nodes at once, one in a subgraph."""

    async def twice(state: State) -> dict[str, Any]:
        return {"findings": [interrupt("first?"), interrupt("second?")]}

    async def inside(state: State) -> dict[str, Any]:
        return {"sent": [interrupt("inside?")]}

    async def beside(state: State) -> dict[str, Any]:
        return {"sent": [interrupt("beside?")]}

    inner = StateGraph(State, output_schema=Sent)
    inner.add_node("inside", inside)
    inner.add_edge(START, "inside")
    graph = StateGraph(State)
    graph.add_node("twice", twice)
    graph.add_node("inner", inner.compile())
    graph.add_node("beside", beside)
    graph.add_edge(START, "twice")
    graph.add_edge("twice", "inner")
    graph.add_edge("twice", "beside")
    return Workflow("people", graph)


def members(folder: Path, at: Killer) -> Workflow:
    """Two workflows as members, side by side, each a run of its own with the same work and question."""
    inner = workflow(folder, at)
    graph = StateGraph(State)

    async def begin(state: State) -> dict[str, Any]:
        return {}

    async def scouted(state: State) -> dict[str, Any]:
        return {}

    scout = Agent("asker", prompt="Ask.", delegates=[inner])
    graph.add_node("begin", begin)
    graph.add_node("asker", step(scout, task="delegate", into="findings"))
    graph.add_node("inner", step(inner, task="direct", into=lambda output, state: {"sent": output.sent}))
    graph.add_node("scouted", scouted)
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "asker")
    graph.add_edge("asker", "inner")
    graph.add_edge("inner", "scouted")
    return Workflow("members", graph)


FLOWS: dict[str, Callable[[Path, Killer], Workflow]] = {
    "sweep": workflow,
    "fan": lambda folder, at: workflow(folder, at, clerks=3),
    "people": people,
    "members": members,
}


def decide(question: Question, folder: Path, person: str) -> Any:
    """What an honest person says; a forgetful one denies that it happened."""
    if question.kind == "approval":
        return {"decision": "approve"}
    if question.kind in ("text", "choice"):
        return f"{question.title} yes"
    to = question.body["arguments"]["to"]
    if to in lines(folder, "send.log") and person != "forgetful":
        return {"happened": True, "result": f"sent {to}"}
    return {"happened": False}


async def play(folder: Path, at: Killer, *, person: str, flow: str, seed: int) -> dict[str, Any]:
    """Start the run or take it over; answer as ``person`` does; go on until it ends, or the person has left.

    ``some`` answers some questions and may leave, ``nobody`` answers none.
    """
    chance = random.Random(seed)
    db = await Recorded.open(folder / "runs.db")
    assert isinstance(db, Recorded)
    db.at = at
    runs = Runs(db)
    work = FLOWS[flow](folder, at)
    equipment = await Equipment.open(work.agents, NOBODY, lambda _: Script(folder, at))
    answered: list[str] = []

    async def answer_some() -> None:
        for question in await questions.inbox(db):
            if person in ("all", "forgetful") or (person == "some" and chance.random() < 0.5):
                value = decide(question, folder, person)
                await runs.answer(question.id, value, principal=ME, channel="terminal")
                answered.append(question.kind)

    found = await records.recent(db)
    if found and found[0].status == "waiting":
        await answer_some()
    if found:
        # A dead process's run is taken over at once, whatever is left of its lease.
        seen = [record.id for record in await runs.abandoned()]
        assert found[0].status in ("waiting", "done") or seen == [found[0].id], (found[0].status, seen)
        if found[0].status == "done":
            return {"status": "done", "output": found[0].output, "answered": answered, "passed": at.passed}
        execution = await runs.resume(found[0], work, equipment)
    else:
        execution = await runs.start(work, {"question": "?"}, principal=ME, equipment=equipment)
    outcome = await runs.execute(execution)
    while outcome.status == "waiting" and person != "nobody" and (person != "some" or chance.random() < 0.5):
        await answer_some()
        execution = await runs.resume(await records.find(db, execution.run), work, equipment)
        outcome = await runs.execute(execution)
    await runs.close()
    await db.close()
    return {
        "status": outcome.status,
        "error": outcome.error and str(outcome.error),
        "output": outcome.output,
        "answered": answered,
        "passed": at.passed,
    }


def child(job: dict[str, Any]) -> int:
    folder = Path(job["folder"])
    kill = job["kill"]
    try:
        at = Killer(None if kill is None else (kill[0], kill[1]))
        asked = {name: job[name] for name in ("person", "flow", "seed")}
        result = asyncio.run(play(folder, at, **asked))
        (folder / "result.json").write_text(json.dumps(result))
    except BaseException:
        (folder / "error.txt").write_text(traceback.format_exc())
        return 1
    return 0


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            job = json.loads(line)
            pid = os.fork()
            if pid == 0:
                os._exit(child(job))
            _, status = os.waitpid(pid, 0)
            os.write(1, f"{job['number']} {os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)


if __name__ == "__main__":
    main()
