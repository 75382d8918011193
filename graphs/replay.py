"""A recording run again: in memory, with recorded models and tools, and compared with what was recorded.

Replies are given by path and turn, results by the call's idempotency key (which follows from run, path and place), so
branches that run side by side in another order get what is theirs.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from retinue import errors
from retinue.database.base import Transaction
from retinue.database.sqlite import SQLiteDatabase
from retinue.errors import ModelError, RetinueError, ToolFailed, Unreachable

from ..agents.agent import Agent
from ..agents.budget import Budget
from ..agents.equipment import Equipment
from ..agents.models.base import Price, Reply, Request
from ..agents.tools.base import Connections, ServerTool, ToolCall, ToolResult
from ..auth.principal import Principal
from . import questions, records
from .diff import MISSING, changes
from .drive import Outcome
from .fingerprint import differences, fingerprint
from .recording import PAUSES, RecordedModel, RecordedTool, Recording, question_places, record
from .redact import Redactor
from .runs import Runs
from .workflow import Workflow

SHOWN = 20
"""Differences that are told at most."""

_NOTE = re.compile(r"\n\[The first \d+ of \d+ characters\. The whole text is artifact ([0-9a-f]{12})\.\]$")
_PERSON = Principal(issuer="urn:retinue:replay", subject="user:replay", scopes=frozenset({"runs:approve"}))
_reply: TypeAdapter[Reply] = TypeAdapter(Reply)


class NotRecorded(ModelError):
    """The run does something that the recording does not know."""

    code = "not_recorded"
    default_hint = "Record the run again if the change is meant."


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a recording when it was run again."""

    recording: Recording
    """The recording of the new run."""
    differences: list[str]
    """Empty if it is the same."""


# What stands in for models and tools


class _Tape:
    """The recorded replies and results, and how far each path has come."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._given: dict[tuple[str, str], int] = {}
        self._results = dict(_results(recording))

    def reply(self, run: str, path: str) -> Reply:
        turn = self._given[run, path] = self._given.get((run, path), -1) + 1
        recorded = self._recording.runs.get(run)
        fact = None if recorded is None else recorded.journal.get(path, {}).get(f"reply:{turn}")
        if fact is None:
            raise self._ending() or NotRecorded(f"the recording has no reply for turn {turn} of {path}")
        return _reply.validate_python({name: copy.deepcopy(fact[name]) for name in fact if name != "request"})

    def result(self, call: ToolCall) -> ToolResult:
        if call.key not in self._results:
            raise NotRecorded("the recording does not have this tool call")
        result = self._results[call.key]
        if result is None:
            raise self._ending() or ToolFailed("the recording has no result of this call")
        if isinstance(result, RetinueError):
            raise result
        return result

    def _ending(self) -> RetinueError | None:
        """The error that ended the recorded run, where a call that never came back is what ended it."""
        body = self._recording.error
        if body is None or self._recording.status not in ("failed", "refused"):
            return None
        kinds = (k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, RetinueError))
        kind = next((kind for kind in kinds if kind.code == body["code"]), None)
        return None if kind is None else kind(body["message"], hint=body["hint"])


def _results(recording: Recording) -> Iterator[tuple[str, ToolResult | RetinueError | None]]:
    """Idempotency key to what came of the call; None: nothing."""
    for run in recording.runs.values():
        for path, facts in run.journal.items():
            for key, fact in facts.items():
                if not key.startswith("intent:"):
                    continue
                place = key.removeprefix("intent:")
                result = facts.get(f"result:{place.split('/')[0]}")
                if f"{path} doubt:{place}" in run.doubts:
                    yield fact["key"], Unreachable("the recorded call did not come back")
                else:
                    yield fact["key"], None if result is None else _whole(result, recording.artifacts)


def _whole(fact: dict[str, Any], artifacts: Mapping[str, str]) -> ToolResult:
    """A result as the tool gave it, with the texts that were too long for the model."""
    result = ToolResult.from_json(copy.deepcopy(fact))
    for block in result.content:
        if isinstance(text := block.get("text"), str) and (note := _NOTE.search(text)) is not None:
            block["text"] = next((whole for id_, whole in artifacts.items() if id_.startswith(note[1])), text)
    return result


@dataclass(slots=True)
class _Model:
    """`Model` of one agent, on one path."""

    recorded: RecordedModel
    say: Callable[[], Reply]

    @property
    def name(self) -> str:
        return self.recorded.name

    @property
    def price(self) -> Price | None:
        return self.recorded.price

    @property
    def language_model(self) -> bool:
        return self.recorded.language_model

    async def complete(
        self,
        request: Request,
        *,
        on_text: Callable[[str], None] | None = None,
        on_restart: Callable[[], None] | None = None,
        deadline: float | None = None,
    ) -> Reply:
        await asyncio.sleep(0)
        return self.say()


@dataclass(frozen=True, kw_only=True)
class _Equipment(Equipment):
    tape: _Tape
    recorded: Mapping[str, RecordedModel]

    def model_at(self, run: str, path: str, agent: str) -> _Model:
        return _Model(self.recorded[agent], lambda: self.tape.reply(run, path))


class Listings:
    """`Connections` to servers that are not there, by what they listed."""

    def __init__(self, servers: Mapping[str, Sequence[RecordedTool]]) -> None:
        self._servers = servers

    async def tools(self, server: str) -> Sequence[ServerTool]:
        if server not in self._servers:
            raise Unreachable(f"the recording does not know the server {server}")
        return [
            ServerTool(
                name=tool.name, description=tool.description, input_schema=tool.input_schema, effect=tool.effect,
                policy=tool.policy, call=_nothing, timeout=tool.timeout,
            )
            for tool in self._servers[server]
        ]  # fmt: skip


async def _nothing(call: ToolCall) -> ToolResult:
    raise ToolFailed("a recorded server is not called")


@dataclass(slots=True)
class Listener:
    """`Connections` that remember what servers listed."""

    inner: Connections
    heard: dict[str, list[RecordedTool]] = field(default_factory=dict[str, list[RecordedTool]])

    async def tools(self, server: str) -> Sequence[ServerTool]:
        found = await self.inner.tools(server)
        self.heard[server] = [
            RecordedTool(
                name=tool.name, description=tool.description, input_schema=tool.input_schema, effect=tool.effect,
                policy=tool.policy, timeout=tool.timeout,
            )
            for tool in found
        ]  # fmt: skip
        return found


async def _equip(recording: Recording, workflow: Workflow, connections: Connections) -> Equipment:
    tape = _Tape(recording)

    async def call(request: ToolCall) -> ToolResult:
        await asyncio.sleep(0)
        return tape.result(request)

    def choose(agent: Agent) -> _Model:
        known = recording.models.get(agent.name) or RecordedModel(name="", price=None, language_model=False)
        return _Model(known, lambda: tape.reply("", ""))

    opened = await Equipment.open(workflow.agents, connections, choose)
    tools = {
        agent: [tool if tool.member is not None else replace(tool, call=call) for tool in found]
        for agent, found in opened.tools.items()
    }
    return _Equipment(models=opened.models, tools=tools, tape=tape, recorded=recording.models)


# Running


async def replay(recording: Recording, workflow: Workflow, *, connections: Connections | None = None) -> Replayed:
    """Run a recording again, and compare. Without ``connections``, servers list what they had listed.

    Nothing is executed where the workflow is another one: then its differences are what is told.
    """
    equipment = await _equip(recording, workflow, connections or Listings(recording.servers))
    if changed := differences(recording.fingerprint, fingerprint(workflow, equipment)):
        return Replayed(recording=recording, differences=changed)
    db = await SQLiteDatabase.open(":memory:")
    runs = Runs(db)
    try:
        await _carry(recording, workflow, equipment, runs)
        row = await db.read(lambda tx: records.get(tx, recording.run))
        again = await record(db, row, target=recording.workflow, models=recording.models, servers=recording.servers)
    finally:
        await runs.close()
        await db.close()
    return Replayed(recording=again, differences=list(compare(recording, again))[:SHOWN])


async def _carry(recording: Recording, workflow: Workflow, equipment: Equipment, runs: Runs) -> Outcome:
    execution = await runs.start(
        workflow,
        recording.input,
        principal=_PERSON,
        equipment=equipment,
        settings={"approve": recording.approve},
        budget=Budget(**recording.budget),
        run=recording.run,
    )
    outcome = await runs.execute(execution)
    resumed = 0
    while outcome.status == "waiting" and await _answer(recording, runs, resumed):
        row = await runs.db.read(lambda tx: records.get(tx, recording.run))
        outcome = await runs.execute(await runs.resume(row, workflow, equipment))
        resumed += 1
    return outcome


async def _answer(recording: Recording, runs: Runs, resumed: int) -> bool:
    """Say what people had said by now, or else next; False when they said no more."""
    asked = [
        question
        for id_ in recording.runs
        for question in await runs.db.read(lambda tx, id_=id_: questions.of_run(tx, id_))
    ]
    places = question_places(asked)
    waiting = {places[question.id]: question for question in asked if question.status == "open"}
    known = [answer for answer in recording.answers if answer.place in waiting]
    if not known:
        return False
    until = max(resumed, min(answer.round for answer in known))
    for answer in known:
        if answer.round > until:
            continue
        question = waiting[answer.place]
        if answer.expired:
            await runs.db.write(partial(_run_out, question=question.id))
        else:
            await runs.answer(question.id, answer.value, principal=_PERSON, channel=answer.channel)
    return True


def _run_out(tx: Transaction, question: str) -> None:
    tx.execute("UPDATE questions SET expires_at = 0 WHERE id = ?", (question,))


# Comparing


def compare(then: Recording, now: Recording) -> Iterator[str]:
    """What differs, in words: the journal first, which tells why, then events and the end."""
    for run in sorted({*then.runs, *now.runs}):
        of = "" if run == then.run else f" of member run {run[:8]}"
        if run not in now.runs or run not in then.runs:
            yield f"the member run {run[:8]} is {'gone' if run in then.runs else 'new'}"
            continue
        before, after = then.runs[run], now.runs[run]
        for path in sorted({*before.journal, *after.journal}):
            if path not in after.journal or path not in before.journal:
                yield f"the path {path}{of} is {'gone' if path in before.journal else 'new'}"
                continue
            yield from _facts(f"{path}{of}", before.journal[path], after.journal[path])
        lanes = (_lanes(then, run, then.pauses), _lanes(now, run, then.pauses))
        for change in changes(*lanes):
            yield f"events{of}: {_told(change.where, change.before, change.after)}"
    for name in ("status", "output", "error"):
        for change in changes(getattr(then, name), getattr(now, name), name):
            yield _told(change.where, change.before, change.after)


def _facts(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*before, *after}):
        then, now = before.get(key, MISSING), after.get(key, MISSING)
        for change in changes(then, now, f"{path} {key}"):
            if change.where.endswith(".request"):
                yield f"{path}: the model is asked something else at {key}"
            else:
                yield _told(change.where, change.before, change.after)


def _lanes(recording: Recording, run: str, pauses: bool) -> dict[str, Any]:
    return {
        lane or "run": [event for event in events if pauses or event["type"] not in PAUSES]
        for lane, events in recording.runs[run].events.items()
    }


def _told(where: str, before: Any, after: Any) -> str:
    if before is MISSING:
        return f"{where} is new: {_short(after)}"
    if after is MISSING:
        return f"{where} is gone: {_short(before)}"
    return f"{where} was {_short(before)}, is {_short(after)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


async def without_secrets(recording: Recording, workflow: Workflow, redactor: Redactor) -> Recording:
    """The recording with its secrets redacted, and with what its own replay then tells.

    Raises `UsageError` where the run takes another course without them.
    """
    redacted = _redacted(recording, redactor)
    if redacted == recording:
        return recording
    again = (await replay(redacted, workflow)).recording.model_copy(update={"answers": redacted.answers})
    run = recording.run[:8]
    if _course(again) != _course(recording):
        raise errors.UsageError(f"run {run} cannot be recorded: without its secrets it takes another course")
    if _redacted(again, redactor) != again:
        raise errors.UsageError(f"run {run} cannot be recorded: the workflow's own code puts a secret into it")
    return again.model_copy(update={"pauses": recording.pauses})


def _redacted(recording: Recording, redactor: Redactor) -> Recording:
    data = recording.model_dump(mode="json")
    for name in ("input", "answers", "artifacts", "output", "error"):
        data[name] = redactor.value(data[name])
    for found in data["runs"].values():
        for name in ("journal", "events"):
            found[name] = redactor.value(found[name])
    return Recording.model_validate(data)


def _course(recording: Recording) -> Any:
    paths = {run: {path: set(facts) for path, facts in found.journal.items()} for run, found in recording.runs.items()}
    return recording.status, paths
