"""The brief over its real servers: what it cites is there, word for word, and what is not there it does not cite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retinue.agents.models.base import Request
from retinue.agents.models.scripted import ScriptedModel
from retinue.auth.principal import Principal
from retinue.examples.brief.shapes import Citation, Draft, Evidence
from retinue.examples.brief.workflow import make_brief
from retinue.graphs import questions
from retinue.graphs.drive import Outcome
from retinue.graphs.workflow import Workflow
from retinue.host import Host, RunOptions
from tests.examples.conftest import DOCS

pytestmark = pytest.mark.anyio

ANSWERED = {
    "How is a side effect kept from happening twice?": "effects.md",
    "Who may answer a question?": "questions.md",
    "What does a lease have?": "runs.md",
    "When is a model call refused because the budget does not cover it?": "budgets.md",
    "What is a task of A2A?": "a2a.md",
    "How are built-in MCP servers started for a run?": "mcp.md",
    "What happens when the workflow of a paused run has changed?": "runs.md",
    "What does seq mean in an event?": "runs.md",
    "What does an idempotency key consist of?": "effects.md",
    "What is a token bound to?": "auth.md",
    "What happens to an unsafe tool call that is in doubt?": "effects.md",
    "How is an approval answered from another terminal?": "questions.md",
}
"""Question to the page that answers it."""

NOT_ANSWERED = (
    "What is the capital of Mongolia?",
    "How do I deploy this on Kubernetes with Helm?",
    "What does an enterprise licence cost?",
)


async def ask(host: Host, workflow: Workflow, question: str) -> tuple[str, Outcome]:
    execution = await host.start(workflow, question, options=RunOptions(target="retinue.examples.brief:brief"))
    return execution.run, await host.execute(execution)


async def decide(host: Host, run: str, value: dict[str, Any]) -> Outcome:
    (question,) = await questions.inbox(host.db, run=run)
    await host.runs.answer(question.id, value, principal=host.principal, channel="terminal")
    return await host.execute(await host.resume(await host.find(run)))


def citations_of(outcome: Outcome) -> list[Citation]:
    return [Citation.model_validate(citation) for citation in outcome.output["citations"]]


async def test_at_least_ten_of_twelve_questions_are_answered_from_the_page_that_answers_them(host: Host) -> None:
    brief = make_brief()
    missed: list[str] = []
    for question, page in ANSWERED.items():
        run, outcome = await ask(host, brief, question)
        assert outcome.status == "waiting", outcome.error
        done = await decide(host, run, {"decision": "approve"})
        found = citations_of(done)
        if page not in {citation.document for citation in found}:
            missed.append(f"{question} -> {sorted({c.document for c in found})}")
        for citation in found:
            text = (DOCS / citation.document).read_text(encoding="utf-8")
            assert text[citation.start : citation.end] == citation.quote
            assert len(citation.quote) >= 40
            assert citation.heading
        places = [(c.document, c.start, c.end) for c in found]
        assert len(places) == len(set(places)), "a quote is used twice"
    assert len(ANSWERED) - len(missed) >= 10, missed


@pytest.mark.parametrize("question", NOT_ANSWERED)
async def test_a_question_that_the_library_does_not_answer_is_said_to_be_unanswered_and_cites_nothing(
    host: Host, question: str
) -> None:
    run, _ = await ask(host, make_brief(), question)
    done = await decide(host, run, {"decision": "approve"})
    assert done.output["citations"] == []
    assert "The library does not answer this question." in done.output["document"]


async def test_the_only_question_is_the_approval_and_it_shows_the_whole_document(host: Host, tmp_path: Path) -> None:
    run, outcome = await ask(host, make_brief(), "How is a side effect kept from happening twice?")
    assert outcome.status == "waiting"
    (question,) = await questions.inbox(host.db, run=run)
    shown = question.body["arguments"]["text"]
    done = await decide(host, run, {"decision": "approve"})
    assert done.status == "done"
    assert done.output["saved"]["note"] == ""
    written = tmp_path / "out" / done.output["saved"]["path"]
    assert written.read_text(encoding="utf-8") == shown == done.output["document"]


async def test_a_rejected_brief_is_not_written_and_the_run_says_why(host: Host, tmp_path: Path) -> None:
    run, _ = await ask(host, make_brief(), "Who may answer a question?")
    done = await decide(host, run, {"decision": "reject", "reason": "not today"})
    assert done.status == "done"
    assert done.output["saved"]["path"] is None
    assert "not today" in done.output["saved"]["note"]
    assert not list((tmp_path / "out").glob("*.md"))


async def test_an_edited_brief_is_written_as_edited(host: Host, tmp_path: Path) -> None:
    run, _ = await ask(host, make_brief(), "Who may answer a question?")
    edited = {"path": "mine.md", "text": "# Mine\n"}
    done = await decide(host, run, {"decision": "edit", "arguments": edited})
    assert done.output["saved"] == {"path": "mine.md", "note": "A person edited it before it was written."}
    assert (tmp_path / "out" / "mine.md").read_text(encoding="utf-8") == "# Mine\n"


async def test_a_question_with_two_parts_is_split_between_two_scouts(host: Host) -> None:
    run, _ = await ask(host, make_brief(), "What does a lease have, and who may answer a question?")
    events = await host.db.read(
        lambda tx: tx.all("SELECT DISTINCT path FROM journal WHERE run = ? AND path LIKE 'scout%'", (run,))
    )
    assert sorted(row[0] for row in events) == ["scout[0]@2", "scout[1]@2"]


def misquoting_writer() -> ScriptedModel:
    """Writes a draft whose quote is in no document, however often it is asked."""
    invented = Evidence(
        document="effects.md",
        heading="Effects",
        passage_start=0,
        passage_end=400,
        quote="Side effects are guaranteed to happen exactly once, everywhere and always.",
    )
    draft = Draft(title="Wrong", body="It is always so [1].", citations=[invented]).model_dump_json()
    return ScriptedModel([draft, draft, draft])


async def test_a_writer_that_misquotes_is_sent_back_once_and_then_the_run_fails(host: Host) -> None:
    writer = misquoting_writer()
    run, outcome = await ask(host, make_brief(writer=writer), "How is a side effect kept from happening twice?")
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "check_failed"
    asked: list[Request] = list(writer.requests)
    assert len(asked) == 2
    assert "problems" not in str(asked[0].messages[0]["content"])
    assert "is not in effects.md" in str(asked[1].messages[0]["content"])
    assert await questions.inbox(host.db, run=run) == []


async def test_a_writer_that_mends_its_citation_when_sent_back_succeeds(host: Host) -> None:
    text = (DOCS / "effects.md").read_text(encoding="utf-8")
    quote = "An agent that retries must not pay twice. This page tells how Retinue keeps"
    start = text.index("An agent that retries")
    good = Evidence(document="effects.md", heading="Effects", passage_start=0, passage_end=1000, quote=quote)
    mended = Draft(title="Right", body="It must not [1].", citations=[good]).model_dump_json()
    wrong = mended.replace("must not pay twice", "may well pay twice")
    writer = ScriptedModel([wrong, mended])
    run, outcome = await ask(host, make_brief(writer=writer), "How is a side effect kept from happening twice?")
    assert outcome.status == "waiting"
    done = await decide(host, run, {"decision": "approve"})
    (citation,) = citations_of(done)
    assert citation.start == start
    assert text[citation.start : citation.end] == citation.quote


async def test_another_person_does_not_see_the_run(host: Host) -> None:
    from retinue.errors import QuestionNotFound, RunNotFound
    from retinue.graphs import records

    run, _ = await ask(host, make_brief(), "Who may answer a question?")
    stranger = Principal(issuer="urn:elsewhere", subject="user:0", scopes=frozenset({"runs:approve"}))
    (question,) = await questions.inbox(host.db, run=run)
    with pytest.raises(QuestionNotFound):
        await host.runs.answer(question.id, {"decision": "approve"}, principal=stranger, channel="command")
    with pytest.raises(RunNotFound):
        await records.find(host.db, run, subject=stranger.key)
    assert await questions.inbox(host.db, subject=stranger.key) == []


async def test_a_library_of_ones_own_is_read_instead(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "bees.md").write_text(
        "# Bees\n\nA queen bee can lay up to two thousand eggs in a single day of spring.\n", encoding="utf-8"
    )
    options = RunOptions(target="retinue.examples.brief:brief", library=(str(folder),))
    execution = await host.start(make_brief(), "How many eggs can a queen bee lay in a day?", options=options)
    await host.execute(execution)
    done = await decide(host, execution.run, {"decision": "approve"})
    assert [c.document for c in citations_of(done)] == ["bees.md"]
