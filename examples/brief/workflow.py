"""A question about a library, answered in a brief whose every citation was checked, written once a person has agreed.

plan → scout, scout, … → write → check ─ in order ─▶ save
                           ▲        │
                           └─ once ─┘
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from langgraph.graph import END, START, StateGraph

from retinue import Agent, Budget, MCPToolset, Workflow, each, step
from retinue.agents.models.base import Model
from retinue.errors import CheckFailed

from . import checks, functions
from .shapes import Answer, Ask, Brief, Draft, Finding, Plan, Saved, Verdict

HERE = Path(__file__).parent
MAX_READ = 400_000


def own_docs() -> list[str]:
    """This project's documentation: beside the code in a checkout, inside the package where it is installed."""
    for folder in (HERE.resolve().parents[1] / "docs", HERE / "docs"):
        if folder.is_dir():
            return [str(folder)]
    return []


def make_brief(*, planner: str | Model = "auto", scout: str | Model = "auto", writer: str | Model = "auto") -> Workflow:
    """The workflow, with models of your choice for the agents that use one."""
    library = MCPToolset("knowledge").only("search", "read")
    desk = MCPToolset("workspace", ask=["write_document"]).only("write_document")

    plans = Agent("planner", prompt=HERE / "planner.md", output=Plan, model=planner, function=functions.plan)
    scouts = Agent(
        "scout", prompt=HERE / "scout.md", output=Finding, tools=[library], model=scout, function=functions.scout,
        max_result=60_000,
    )  # fmt: skip
    writes = Agent("writer", prompt=HERE / "writer.md", output=Draft, model=writer, function=functions.write)
    checker = Agent(
        "checker", prompt="Holds every quote against the text it is from.", output=Verdict,
        tools=[library.only("read")], model="function", function=checks.check, max_result=MAX_READ,
    )  # fmt: skip
    clerk = Agent(
        "clerk", prompt="Writes the brief to the workspace.", output=Saved,
        tools=[desk], model="function", function=checks.save,
    )  # fmt: skip

    graph = StateGraph(Brief, input_schema=Ask, output_schema=Answer)
    graph.add_node("plan", step(plans, task=lambda s: s.question, into="plan"))
    graph.add_node("scout", step(scouts, task=lambda question: question, into="findings"))
    graph.add_node("write", step(writes, task=_writing, into=_written))
    graph.add_node("check", step(checker, task=lambda s: s.draft.model_dump_json(), into=_checked))
    graph.add_node("save", step(clerk, task=_saving, into="saved"))
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", each(lambda s: s.plan.questions, "scout"), ["scout"])
    graph.add_edge("scout", "write")
    graph.add_edge("write", "check")
    graph.add_conditional_edges("check", _in_order, ["save", "write"])
    graph.add_edge("save", END)
    return Workflow(
        "brief",
        graph,
        description="Answers a question from a library of documents, with citations that were checked.",
        budget=Budget(usd=0.50, seconds=900),
        options={"library": own_docs()},
        summary=_summary,
    )


def _writing(s: Brief) -> str:
    task: dict[str, Any] = {"question": s.question, "findings": [f.model_dump(mode="json") for f in s.findings]}
    if s.verdict is not None and s.verdict.problems and s.draft is not None:
        task |= {"problems": s.verdict.problems, "draft": s.draft.model_dump(mode="json")}
    return orjson.dumps(task).decode()


def _written(draft: Draft, s: Brief) -> dict[str, Any]:
    return {"draft": draft, "attempts": s.attempts + 1}


def _checked(verdict: Verdict, s: Brief) -> dict[str, Any]:
    if verdict.problems or s.draft is None:
        return {"verdict": verdict}
    text = checks.document(s.question, s.draft, verdict.citations)
    return {"verdict": verdict, "document": text, "citations": verdict.citations}


async def _in_order(s: Brief) -> str:
    if s.verdict is None or not s.verdict.problems:
        return "save"
    if s.attempts < 2:
        return "write"
    raise CheckFailed(
        f"the writer's citations are wrong, also when sent back: {'; '.join(s.verdict.problems[:3])}",
        hint="Ask again, or with another model.",
    )


def _saving(s: Brief) -> str:
    return orjson.dumps({"path": s.path or f"{checks.slug(s.question)}.md", "text": s.document}).decode()


def _summary(output: dict[str, Any]) -> str:
    saved = output["saved"]
    end = f"Written to {saved['path']} in the workspace." if saved["path"] else "Not written."
    end = f"{end} {saved['note']}".strip()
    return f"{output['document']}\n---\n{end}"


brief = make_brief()
