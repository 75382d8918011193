"""The code on the first screen does what the text below it says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from retinue.config import load_settings
from retinue.examples.refunds import refunds
from retinue.graphs import questions
from retinue.host import Host, RunOptions, open_host

pytestmark = pytest.mark.anyio

TARGET = "retinue.examples.refunds:refunds"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncGenerator[Host]:
    settings = load_settings(overrides={"database": "retinue.db", "state": "state"}, env={}, cwd=tmp_path)
    async with open_host(settings, env={}) as opened:
        yield opened


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        ({"decision": "approve"}, "paid back 1999 cents for A-7"),
        ({"decision": "reject", "reason": "too late"}, "too late"),
    ],
    ids=["approve", "reject"],
)
async def test_it_asks_before_it_pays_and_does_what_the_person_decides(
    decision: dict[str, str], reply: str, host: Host
) -> None:
    execution = await host.start(refunds, {"order": "A-7"}, options=RunOptions(target=TARGET))
    assert (await host.execute(execution)).status == "waiting"
    (question,) = await questions.inbox(host.db, run=execution.run)
    assert question.body["arguments"] == {"order": "A-7", "cents": 1999}
    await host.runs.answer(question.id, decision, principal=host.principal, channel="terminal")
    done = await host.execute(await host.resume(await host.find(execution.run)))
    assert done.status == "done"
    assert reply in done.output["reply"]
