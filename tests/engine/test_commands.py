"""The commands, where workers execute what they start."""

from __future__ import annotations

import signal

import pytest

from retinue.graphs import records

from .conftest import Crew

pytestmark = pytest.mark.anyio


async def test_run_follows_what_a_worker_does_and_answer_goes_on_following(crew: Crew) -> None:
    await crew.worker()
    asked = crew.retinue("run", "quick", "--set", "who=ann", "--json")
    assert asked.code == 10, asked
    assert [line["seq"] for line in asked.lines] == list(range(1, len(asked.lines) + 1))
    run = asked.lines[-1]["run"]
    answered = crew.retinue("answer", run, "--approve", "--json")
    assert answered.code == 0, answered
    assert answered.lines[0]["type"] == "question.answered"
    assert answered.lines[-1]["output"]["sent"] == "sent"
    assert crew.retinue("resume", run).code == 1


async def test_a_run_is_queued_watched_left_alone_and_cancelled(crew: Crew) -> None:
    run = crew.retinue("run", "errand", "--set", "who=ann", "--detach").out.strip()
    assert "queued" in crew.retinue("runs", "list").out
    pid = crew.begin("resume", run)
    worker = await crew.worker()
    assert await crew.held() == worker
    crew.tell(pid, signal.SIGINT)  # who watches may leave: the run is not theirs to stop
    assert crew.warm.wait(pid) == 130
    assert (await crew.host.find(run)).status == "running"
    assert crew.retinue("cancel", run).code == 0
    await crew.status(run, "cancelled")


async def test_a_schedule_makes_runs_until_it_is_removed(crew: Crew) -> None:
    await crew.worker()
    added = crew.retinue("schedule", "add", "daily", "plain", "--set", "who=ann", "--every", "1s")
    assert added.code == 0, added
    assert crew.retinue("schedule", "add", "daily", "plain", "--set", "who=x", "--every", "1s").code == 2
    listed = crew.retinue("schedule", "list", "--json").document["schedules"]
    assert [(s["schedule"], s["times"], s["input"]["who"]) for s in listed] == [("daily", "every 1", "ann")]
    await crew.happens(lambda: len(crew.effects("note")) >= 2)
    assert crew.retinue("schedule", "remove", "daily").code == 0
    assert crew.retinue("schedule", "remove", "daily").code == 2
    made = await records.recent(crew.host.db)
    assert {record.workflow for record in made} == {"plain"}
    for record in made:
        await crew.status(record.id, "done")
    assert len({line.split()[2] for line in crew.effects("note")}) == len(made)


async def test_a_schedules_times_are_checked(crew: Crew) -> None:
    for times in (("--cron", "61 * * * *"), ("--cron", "daily"), (), ("--every", "soon")):
        refused = crew.retinue("schedule", "add", "odd", "plain", "--set", "who=ann", *times)
        assert refused.code == 2, refused
    assert crew.retinue("schedule", "list").out == "There are no schedules.\n"
