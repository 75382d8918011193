"""Time travel over the brief: a fork at each of its supersteps ends, and the run it came from stays as it was."""

from __future__ import annotations

import orjson
import pytest

from retinue.agents.tools.base import digest
from retinue.graphs import questions
from retinue.graphs.diff import diff
from retinue.graphs.drive import Outcome
from retinue.graphs.execution import Execution
from retinue.graphs.timeline import checkpoints
from retinue.host import Host, RunOptions

pytestmark = pytest.mark.anyio

QUESTION = "What does a lease have, and who may answer a question?"
TABLES = {
    "runs": "id", "events": "run", "journal": "run", "questions": "run", "artifacts": "run",
    "checkpoints": "thread", "checkpoint_values": "thread", "checkpoint_writes": "thread",
}  # fmt: skip


async def rows_of(host: Host, run: str) -> dict[str, str]:
    """A digest of every row of a run, by table."""
    found: dict[str, str] = {}
    for table, column in TABLES.items():
        rows = await host.db.read(lambda tx, t=table, c=column: tx.all(f"SELECT * FROM {t} WHERE {c} = ?", (run,)))
        plain = [[cell.hex() if isinstance(cell, bytes) else cell for cell in row] for row in rows]
        found[table] = digest(sorted(plain, key=repr))
    return found


async def to_the_end(host: Host, execution: Execution) -> Outcome:
    outcome = await host.execute(execution)
    while outcome.status == "waiting":
        for question in await questions.inbox(host.db, run=execution.run):
            value = {"decision": "approve"}
            await host.runs.answer(question.id, value, principal=host.principal, channel="terminal")
        outcome = await host.execute(await host.resume(await host.find(execution.run)))
    return outcome


async def finished(host: Host) -> tuple[str, Outcome]:
    options = RunOptions(target="retinue.examples.brief:brief")
    execution = await host.start(host.workflow(options.target), QUESTION, options=options)
    return execution.run, await to_the_end(host, execution)


async def test_a_fork_at_every_checkpoint_ends_with_the_same_output_and_its_parent_is_untouched(host: Host) -> None:
    parent, outcome = await finished(host)
    assert outcome.status == "done"
    before = await rows_of(host, parent)
    steps = await checkpoints(host.db, parent)
    assert [step.step for step in steps] == list(range(-1, 6))
    for step in steps:
        execution = await host.fork(await host.find(parent), step.step)
        done = await to_the_end(host, execution)
        assert (done.status, done.error) == ("done", None), step
        # The document was written by the parent: the clerk finds it there, unless its call is in the shared history.
        assert done.output["document"] == outcome.output["document"]
        assert done.output["citations"] == outcome.output["citations"]
        record = await host.find(execution.run)
        assert record.forked_from == {"run": parent, "step": step.step, "changed": []}
        fork = await checkpoints(host.db, execution.run)
        assert [(s.step, s.nodes, s.next) for s in fork] == [(s.step, s.nodes, s.next) for s in steps]
        shared = await diff(host.db, parent, step.step, step.step, other=execution.run)
        assert (shared.state, shared.facts) == ([], [])
        assert await rows_of(host, parent) == before


async def test_a_fork_makes_only_the_calls_after_its_superstep(host: Host) -> None:
    parent, _ = await finished(host)
    execution = await host.fork(await host.find(parent), 3)
    await to_the_end(host, execution)
    rows = await host.db.read(
        lambda tx: tx.all("SELECT body FROM events WHERE run = ? AND type = 'model.called'", (execution.run,))
    )
    assert {orjson.loads(body)["agent"] for (body,) in rows} == {"checker", "clerk"}


async def test_an_edited_fork_goes_where_the_edited_state_leads(host: Host) -> None:
    parent, _ = await finished(host)
    record = await host.find(parent)
    asked = ["What is a token bound to?"]
    execution = await host.fork(record, 1, changes={"plan.questions": asked})
    done = await to_the_end(host, execution)
    assert done.status == "done"
    scouts = await host.db.read(
        lambda tx: tx.all("SELECT DISTINCT path FROM journal WHERE run = ? AND path LIKE 'scout%'", (execution.run,))
    )
    assert scouts == [("scout[0]@3",)], "one scout, one superstep later: the edit is a superstep of its own"
    assert "auth.md" in {citation["document"] for citation in done.output["citations"]}
    edited = await diff(host.db, parent, 1, 2, other=execution.run)
    assert [change.where for change in edited.state] == ["plan.questions[0]", "plan.questions[1]"]
    assert edited.facts == []
