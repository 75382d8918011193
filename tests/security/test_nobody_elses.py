"""Nobody sees another's: what one principal's runs hold is for another as if it were not there, to the letter."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from retinue.auth.principal import Principal
from retinue.config import Settings, load_settings
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import AlreadyAnswered, NotAllowed, QuestionNotFound, RetinueError, RunExists, RunNotFound
from retinue.examples.brief.workflow import make_brief
from retinue.graphs import questions, records
from retinue.graphs.execution import Execution
from retinue.graphs.journal import Path as JournalPath
from retinue.graphs.questions import Question
from retinue.host import Host, RunOptions, open_host
from tests.support.people import DELEGATE, ME, OTHER, READER
from tests.support.terminal import Done, Warm

pytestmark = pytest.mark.anyio

APPROVE = {"decision": "approve"}
NO_QUESTION = "0123456789ab"
STRANGERS = {
    "another subject": OTHER,
    "the same subject of another issuer": Principal(
        issuer="elsewhere", subject="user:me", scopes=frozenset({"runs:approve"})
    ),
    "the same subject in a tenant": Principal(
        issuer="local", subject="user:me", tenant="acme", scopes=frozenset({"runs:approve"})
    ),
    "a subject that looks like ours": Principal(issuer="local", subject="user:me ", scopes=frozenset({"runs:approve"})),
    "parts that join to ours": Principal(issuer="local|", subject="user:me", scopes=frozenset({"runs:approve"})),
}


@dataclass
class Two:
    """Two principals' hosts on one database; the first has a run that waits."""

    mine: Host
    theirs: Host
    run: str
    question: Question


def settings(folder: Path) -> Settings:
    overrides = {"database": str(folder / "runs.db"), "workspace": str(folder / "out"), "state": str(folder / "state")}
    return load_settings(overrides=overrides, env={}, cwd=folder)


async def waiting(host: Host) -> tuple[str, Question]:
    options = RunOptions(target="retinue.examples.brief:brief")
    execution = await host.start(make_brief(), "Who may answer a question?", options=options)
    outcome = await host.execute(execution)
    assert outcome.status == "waiting", outcome.error
    (question,) = await questions.inbox(host.db, run=execution.run)
    return execution.run, question


@asynccontextmanager
async def two(folder: Path, stranger: Principal) -> AsyncGenerator[Two]:
    with anyio.fail_after(30):
        async with (
            open_host(settings(folder), principal=ME, env={}) as mine,
            open_host(settings(folder), principal=stranger, env={}) as theirs,
        ):
            yield Two(mine, theirs, *(await waiting(mine)))


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Two]:
    async with two(tmp_path, OTHER) as found:
        yield found


Attempt = Callable[[], Awaitable[Any]]


async def refusal(attempt: Attempt, *names: str) -> tuple[type[RetinueError], Any]:
    """How an attempt is refused, with the names that it used left out."""
    with pytest.raises(RetinueError) as raised:
        await attempt()
    said = str(raised.value.body()) + str(raised.value.details)
    for name in names:
        said = re.sub(rf"\b{re.escape(name)}\b", "…", said)
    return type(raised.value), said


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
async def test_a_strangers_view_is_that_of_an_empty_database(tmp_path: Path, stranger: Principal) -> None:
    async with two(tmp_path, stranger) as both:
        theirs, key = both.theirs, both.theirs.principal.key
        assert await records.recent(theirs.db, subject=key) == []
        assert await questions.inbox(theirs.db, subject=key) == []
        assert await questions.inbox(theirs.db, subject=key, run=both.run) == []
        assert await theirs.runs.abandoned(subject=key) == []
        assert await records.prune(theirs.db, older_than=-1, subject=key) == []
        missing = "".join("0" if digit != "0" else "1" for digit in both.run)

        def find(prefix: str) -> Attempt:
            return lambda: theirs.find(prefix)

        for length in (32, 6, 1):
            there = await refusal(find(both.run[:length]), both.run[:length])
            assert there == await refusal(find(missing[:length]), missing[:length])
            assert there[0] is RunNotFound
        found = await both.mine.find(both.run)
        assert found.id == both.run


async def test_another_answers_no_question_and_is_not_told_that_there_is_one(both: Two) -> None:
    runs, principal = both.theirs.runs, both.theirs.principal

    def answer(id_: str, value: Any) -> Attempt:
        return lambda: runs.answer(id_, value, principal=principal, channel="command")

    for value in (APPROVE, {"decision": "nonsense"}, None):  # whether it would fit tells as much as whether it is there
        there = await refusal(answer(both.question.id, value), both.question.id)
        assert there == await refusal(answer(NO_QUESTION, value), NO_QUESTION)
        assert there[0] is QuestionNotFound
    await both.mine.runs.answer(both.question.id, APPROVE, principal=ME, channel="command")
    closed = await refusal(answer(both.question.id, APPROVE), both.question.id)
    assert closed == there
    with pytest.raises(AlreadyAnswered):
        await both.mine.runs.answer(both.question.id, APPROVE, principal=ME, channel="command")


async def test_only_a_person_who_may_answers_even_their_own_question(both: Two) -> None:
    for principal in (READER, DELEGATE):
        assert principal.key == ME.key, "the same person, by another token"
        for id_ in (both.question.id, NO_QUESTION):
            with pytest.raises(NotAllowed) as raised:
                await both.mine.runs.answer(id_, APPROVE, principal=principal, channel="command")
            assert id_ not in str(raised.value.body())
    (still_open,) = await questions.inbox(both.mine.db, run=both.run)
    assert still_open == both.question
    rows = await both.mine.db.read(lambda tx: tx.all("SELECT action FROM audit WHERE action = 'question.answered'"))
    assert rows == []


async def test_a_record_in_hand_opens_nothing(both: Two) -> None:
    """Whoever has got hold of a record may neither go on with the run nor end it."""
    record = await both.mine.find(both.run)
    theirs = both.theirs
    before = record.to_json()
    for attempt in (lambda: theirs.resume(record), lambda: theirs.runs.cancel(record, principal=OTHER)):
        kind, said = await refusal(attempt, both.run)
        assert kind is RunNotFound
        assert "no run …" in said
    assert (await both.mine.find(both.run)).to_json() == before
    assert await both.mine.runs.cancel(record, principal=ME)


async def test_an_id_that_is_taken_gives_nothing_away_but_that(both: Two) -> None:
    brief = make_brief()
    options = RunOptions(target="brief", library=(), workspace="")
    equipment = await both.theirs.equip(brief, both.theirs.complete(brief, options))
    with pytest.raises(RunExists) as raised:
        await both.theirs.runs.start(brief, "A question?", principal=OTHER, equipment=equipment, run=both.run)
    assert "question" not in str(raised.value.body())
    assert (await both.mine.find(both.run)).principal == ME


async def test_an_artifact_is_its_own_runs_alone(both: Two) -> None:
    digest = "ab" * 32
    await both.mine.db.write(
        lambda tx: tx.execute(
            "INSERT INTO artifacts (run, id, media_type, body) VALUES (?, ?, 'text/plain', ?)",
            (both.run, digest, b"secret"),
        )
    )
    execution = await both.theirs.start(make_brief(), "Who may answer a question?", options=RunOptions(target="brief"))
    assert await JournalPath(execution, "scout[0]@2").artifact(digest) is None
    mine = await both.mine.start(make_brief(), "Who may answer a question?", options=RunOptions(target="brief"))
    assert await JournalPath(mine, "scout[0]@2").artifact(digest) is None, "not even another run of one's own"
    for host, started in ((both.theirs, execution), (both.mine, mine)):
        started.end("cancel")
        await host.execute(started)


async def test_followers_hear_of_the_run_that_they_follow_alone(both: Two) -> None:
    async def whole(host: Host) -> tuple[Execution, list[dict[str, Any]]]:
        execution = await host.start(make_brief(), "Who may answer?", options=RunOptions(target="brief"))
        heard: list[dict[str, Any]] = []
        async with host.following(execution) as lines:
            await host.execute(execution)
            async for line in lines:
                heard.append(line)
        return execution, heard

    found: dict[str, list[dict[str, Any]]] = {}

    async def collect(host: Host) -> None:
        execution, heard = await whole(host)
        found[execution.run] = heard

    async with anyio.create_task_group() as group:
        group.start_soon(collect, both.theirs)
        group.start_soon(collect, both.mine)
    assert len(found) == 2
    for run, heard in found.items():
        assert {line["run"] for line in heard} == {run}
        assert heard[-1]["type"] == "run.waiting"


async def test_pruning_ones_own_leaves_anothers(both: Two) -> None:
    record = await both.mine.find(both.run)
    await both.mine.runs.cancel(record, principal=ME)
    assert await records.prune(both.theirs.db, older_than=-1, subject=OTHER.key) == []
    assert (await both.mine.find(both.run)).status == "cancelled"
    assert await records.prune(both.mine.db, older_than=-1, subject=ME.key) == [both.run]


async def test_what_happened_is_told_of_the_right_one_in_the_audit_trail(both: Two) -> None:
    await both.mine.runs.answer(both.question.id, APPROVE, principal=ME, channel="terminal")
    rows = await both.mine.db.read(lambda tx: tx.all("SELECT DISTINCT actor, run FROM audit WHERE run IS NOT NULL"))
    assert rows == [(ME.key, both.run)]


async def test_a_database_that_another_wrote_is_another_persons_still(tmp_path: Path) -> None:
    """The owner is in the row, not in who opens the file."""
    async with two(tmp_path, OTHER) as both:
        run = both.run
    db = await SQLiteDatabase.open(tmp_path / "runs.db")
    with pytest.raises(RunNotFound):
        await records.find(db, run, subject=OTHER.key)
    assert (await records.find(db, run, subject=ME.key)).id == run
    await db.close()


COMMANDS = ["runs show", "runs events", "answer", "resume", "cancel", "recover"]


async def test_the_command_line_treats_the_runs_of_others_as_if_they_were_not_there(both: Two, warm: Warm) -> None:
    """Both runs are of principals that are not the user of this machine."""
    folder = Path(both.mine.settings.database).parent
    missing = "".join("0" if digit != "0" else "1" for digit in both.run)

    def command(*args: str) -> Done:
        return warm.run(folder, "--database", str(folder / "runs.db"), "--state", str(folder / "state"), *args)

    def at_length(run: str, length: int, name: str) -> tuple[int, str, str]:
        approve = ["--approve"] if name == "answer" else []
        done = command(*name.split(), run[:length], *approve)
        return done.code, done.out.replace(run[:length], "…"), done.err.replace(run[:length], "…")

    for name in COMMANDS:
        for length in (32, 8):
            there = await anyio.to_thread.run_sync(at_length, both.run, length, name)
            assert there == await anyio.to_thread.run_sync(at_length, missing, length, name)
            assert there[0] == 2
    for name in ("inbox", "runs list", "runs prune --older-than 0s"):
        done = await anyio.to_thread.run_sync(lambda name=name: command(*name.split(), "--json"))
        assert done.code == 0, done
        assert both.run not in done.out + done.err
        assert both.question.id not in done.out + done.err
    assert (await both.mine.find(both.run)).status == "waiting"
