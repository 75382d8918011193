"""One tool call: policy, a person where one must decide, the intent, the call, the result.

asked for ──deny──▶ error result
    │ask                                     an intent without a result, found when the loop replays:
    ▼                                          repeatable ─▶ call again with the same key
question ──rejected, expired──▶ error result   otherwise  ─▶ question "did this happen?"
    │approved (or nothing to ask)
    ▼
intent row ─▶ call ─▶ result row
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from retinue import telemetry
from retinue.errors import (
    BudgetExceeded,
    ModelContextExceeded,
    ModelRefused,
    ModelTruncated,
    OutputInvalid,
    SignInNeeded,
    Timeout,
    ToolFailed,
    Unreachable,
)

from .member import Done, Member, Waiting
from .scope import Answer, Ask, Commit, Note, Scope
from .tools.base import Tool, ToolCall, ToolResult, canonical, digest

PREVIEW = 400
"""Characters of arguments and results that events carry."""

APPROVAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "decision": {"enum": ["approve", "reject", "edit"]},
        "reason": {"type": "string"},
        "arguments": {"type": "object"},
    },
    "required": ["decision"],
    "additionalProperties": False,
}

IN_DOUBT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "happened": {"type": "boolean", "description": "true: it happened, do not call again; false: call again"},
        "result": {"type": "string", "description": "what the tool answered, if known"},
    },
    "required": ["happened"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Open:
    """The call waits for people."""

    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call as the model asked for it. ``place`` is ``turn.index``."""

    place: str
    name: str
    arguments: Any
    tool: Tool | None


class Calls:
    """The tool calls of one agent at work."""

    def __init__(self, agent: str, scope: Scope, *, prompt: str, max_result: int) -> None:
        self._agent = agent
        self._prompt = prompt
        self._scope = scope
        self._max_result = max_result

    async def settle(self, asked: Asked) -> ToolResult | Open:
        """The call's result, made or replayed, or the question that it waits for."""
        fact = self._scope.facts.get(f"result:{asked.place}")
        if fact is not None:
            return ToolResult.from_json(fact)
        tool = asked.tool
        if tool is None:
            return await self._refuse(asked, f"There is no tool named {asked.name!r}.")
        if tool.decision == "deny":
            return await self._refuse(asked, f"The policy does not allow {tool.server}/{tool.name}.", denied=True)
        if not isinstance(asked.arguments, dict):
            return await self._refuse(asked, "Invalid arguments: they must be a JSON object.")
        if problems := _problems(tool, asked.arguments):
            return await self._refuse(asked, "Invalid arguments: " + "; ".join(problems))
        arguments = cast("dict[str, Any]", asked.arguments)
        if tool.handoff:
            return await self._refuse(asked, "Hand over alone: call nothing else beside it.")
        if tool.member is not None:
            return await self._delegate(asked, tool, tool.member, tool.member.task(arguments))
        if tool.decision == "ask" and f"intent:{asked.place}" not in self._scope.facts:
            verdict = await self._approval(asked, tool)
            if not isinstance(verdict, dict):
                return verdict
            arguments = verdict
        return await self._attempts(asked, tool, arguments)

    async def _delegate(self, asked: Asked, tool: Tool, member: Member, task: str) -> ToolResult | Open:
        """Run a member in the place of a call. What it did is journaled on its own path, so nothing is done again."""
        started = time.monotonic()
        try:
            done = await self.run_member(asked, tool, member, task)
        except (OutputInvalid, ModelRefused, ModelTruncated, ModelContextExceeded) as error:
            return await self._record(asked, tool, ToolResult.error(f"{member.name} failed: {error}"), seconds=0.0)
        if isinstance(done, Waiting):
            return Open(done.questions)
        result = ToolResult(content=[{"type": "text", "text": done.text}])
        return await self._record(asked, tool, result, seconds=time.monotonic() - started)

    async def run_member(self, asked: Asked, tool: Tool, member: Member, task: str) -> Done | Waiting:
        """Run a member for a call, on a path below this one. Raises `BudgetExceeded` where it would be too deep."""
        scope = self._scope
        if scope.depth >= scope.max_depth:
            raise BudgetExceeded(
                f"{self._agent} may not ask {member.name}: members ask members {scope.depth} deep already",
                limit="depth",
            )
        key = f"asked:{asked.place}"
        if key not in scope.facts:
            body = self._body(asked, tool) | {"arguments": preview({"task": task})}
            await scope.commit(
                Commit(facts={key: {"member": member.name}}, notes=[Note(type="tool.called", body=body)])
            )
        return await member.run(task, await scope.child(f"{asked.place}~{member.name}"))

    async def _approval(self, asked: Asked, tool: Tool) -> dict[str, Any] | ToolResult | Open:
        """The arguments to call with, or why not to call."""
        key = f"approve:{asked.place}"
        shown = digest([tool.server, tool.name, asked.arguments])
        if self._scope.preapproved(tool.server, tool.name) is not None:
            return asked.arguments
        answer = self._scope.answers.get(key)
        if answer is None:
            return Open((await self._ask(key, asked, tool, shown),))
        refusal = _refusal(answer, shown)
        if refusal is not None:
            return await self._refuse(asked, refusal, denied=True)
        if answer.value["decision"] == "approve":
            return asked.arguments
        edited = answer.value.get("arguments", asked.arguments)
        if problems := _problems(tool, edited):
            return await self._refuse(asked, "A person edited the arguments, but: " + "; ".join(problems))
        return edited

    async def _ask(self, key: str, asked: Asked, tool: Tool, shown: str) -> str:
        if key not in self._scope.open_questions:
            ask = Ask(
                key=key,
                kind="approval",
                title=f"{self._agent} wants to call {tool.server}/{tool.name}",
                body={
                    "agent": self._agent,
                    "server": tool.server,
                    "tool": tool.name,
                    "description": tool.description,
                    "arguments": asked.arguments,
                    "input_schema": tool.input_schema,
                    "hash": shown,
                },
                schema=APPROVAL_SCHEMA,
            )
            await self._scope.commit(Commit(asks=[ask], audit=[("approval.asked", _about(tool, shown))]))
        return self._scope.open_questions[key]

    async def _attempts(self, asked: Asked, tool: Tool, arguments: dict[str, Any]) -> ToolResult | Open:
        """Go on after the last attempt that left a row. An intent without a result is a call that may have happened."""
        facts = self._scope.facts
        attempt = 0
        while (intent := f"intent:{asked.place}{_suffix(attempt)}") in facts:
            arguments = facts[intent]["arguments"]
            if tool.effect.repeatable:
                return await self._call(asked, tool, arguments, attempt)
            doubt = f"doubt:{asked.place}{_suffix(attempt)}"
            answer = self._scope.answers.get(doubt)
            if answer is None:
                return Open((await self._doubt(doubt, asked, tool, arguments),))
            if answer.status == "expired" or answer.value["happened"]:
                return await self._confirmed(asked, tool, answer)
            attempt += 1
        return await self._call(asked, tool, arguments, attempt)

    async def _doubt(self, key: str, asked: Asked, tool: Tool, arguments: Mapping[str, Any]) -> str:
        if key not in self._scope.open_questions:
            shown = digest([tool.server, tool.name, arguments])
            body = {
                "agent": self._agent,
                "server": tool.server,
                "tool": tool.name,
                "arguments": arguments,
                "hash": shown,
            }
            ask = Ask(
                key=key,
                kind="in_doubt",
                title=f"Did this call of {tool.server}/{tool.name} happen?",
                body=body,
                schema=IN_DOUBT_SCHEMA,
            )
            note = Note(type="tool.in_doubt", body=self._body(asked, tool))
            await self._scope.commit(Commit(asks=[ask], notes=[note], audit=[("tool.in_doubt", _about(tool, shown))]))
        return self._scope.open_questions[key]

    async def _confirmed(self, asked: Asked, tool: Tool, answer: Answer) -> ToolResult:
        if answer.status == "expired":
            return await self._refuse(asked, "It is not known whether this call happened. Do not repeat it.")
        said = answer.value.get("result") or "(A person confirmed that this call happened. Its answer was lost.)"
        return await self._record(asked, tool, ToolResult(content=[{"type": "text", "text": said}]), seconds=0.0)

    async def _call(self, asked: Asked, tool: Tool, arguments: dict[str, Any], attempt: int) -> ToolResult | Open:
        scope = self._scope
        intent = f"intent:{asked.place}{_suffix(attempt)}"
        if intent in scope.facts:
            key: str = scope.facts[intent]["key"]
        else:
            key = digest([scope.run, scope.path, asked.place, attempt])[:32]
            shown = digest([tool.server, tool.name, arguments])
            begun = Commit(
                facts={intent: {"server": tool.server, "tool": tool.name, "arguments": arguments, "key": key}},
                notes=[Note(type="tool.called", body=self._body(asked, tool) | {"arguments": preview(arguments)})],
            )
            rule = self._scope.preapproved(tool.server, tool.name) if tool.decision == "ask" and not attempt else None
            if rule is not None:
                begun.audit.append(("tool.preapproved", {**_about(tool, shown), "rule": rule}))
            if not tool.effect.read_only:
                begun.audit.append(("tool.called", _about(tool, shown)))
            # Against power loss too: a person is asked about this call if its result never comes.
            await scope.commit(begun, flush=not tool.effect.repeatable)

        async def out() -> ToolResult:
            started = time.monotonic()
            with telemetry.span(
                f"execute_tool {tool.name}",
                operation="execute_tool",
                agent=self._agent,
                tool=tool.name,
                server=tool.server,
            ):
                result = await tool.call(self._request(asked, tool, arguments, key))
            return await self._record(asked, tool, result, seconds=time.monotonic() - started)

        try:
            return await (out() if tool.effect.repeatable else scope.finish_in_flight(out()))
        except (SignInNeeded, Unreachable, ToolFailed, Timeout) as error:
            return await self._lost(asked, tool, arguments, attempt, error)

    async def _lost(
        self, asked: Asked, tool: Tool, arguments: dict[str, Any], attempt: int, error: Exception
    ) -> ToolResult | Open:
        """No result came back."""
        if not tool.effect.repeatable:
            return Open((await self._doubt(f"doubt:{asked.place}{_suffix(attempt)}", asked, tool, arguments),))
        if isinstance(error, (SignInNeeded, Unreachable)):
            raise error
        return await self._record(asked, tool, ToolResult.error(f"The tool did not answer: {error}"), seconds=0.0)

    def _request(self, asked: Asked, tool: Tool, arguments: dict[str, Any], key: str) -> ToolCall:
        def progress(done: float, total: float | None, message: str | None) -> None:
            body = {"done": done, "total": total, "message": message}
            self._scope.tell(Note(type="tool.progress", body=self._body(asked, tool) | body))

        # The run's own end of time is not the tool's: it breaks the call off.
        return ToolCall(arguments=arguments, key=key, timeout=tool.timeout, on_progress=progress)

    async def _record(self, asked: Asked, tool: Tool, result: ToolResult, *, seconds: float) -> ToolResult:
        kept, artifacts = keep(result, self._max_result)
        try:
            canonical(kept.to_json())
        except TypeError as error:  # the call was made: that it was is worth more than what it said
            kept, artifacts = ToolResult.error(f"The tool answered, but its answer cannot be kept: {error}"), {}
        body = self._body(asked, tool) | {
            "is_error": kept.is_error,
            "preview": kept.text[:PREVIEW],
            "seconds": round(seconds, 3),
            "artifacts": sorted(artifacts),
        }
        commit = Commit(
            facts={f"result:{asked.place}": kept.to_json()},
            notes=[Note(type="tool.finished", body=body)],
            artifacts=artifacts,
        )
        if not tool.effect.read_only:
            commit.audit.append(("tool.finished", _about(tool, digest(kept.to_json())) | {"is_error": kept.is_error}))
        await self._scope.commit(commit)
        return kept

    async def _refuse(self, asked: Asked, text: str, *, denied: bool = False) -> ToolResult:
        result = ToolResult.error(text)
        body = self._body(asked, asked.tool) | {"is_error": True, "preview": text[:PREVIEW], "seconds": 0.0}
        commit = Commit(
            facts={f"result:{asked.place}": result.to_json()},
            notes=[Note(type="tool.finished", body=body | {"artifacts": []})],
        )
        if denied and asked.tool is not None:
            commit.audit.append(("tool.denied", _about(asked.tool, digest(asked.arguments))))
        await self._scope.commit(commit)
        return result

    def _body(self, asked: Asked, tool: Tool | None) -> dict[str, Any]:
        return {
            "agent": self._agent,
            "prompt": self._prompt,
            "call": asked.place,
            "server": tool.server if tool else "",
            "tool": tool.name if tool else asked.name,
        }


def preview(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments short enough for an event; the journal has them whole."""
    return {
        name: value if not isinstance(value, (str, list, dict)) or len(canonical(value)) <= PREVIEW else _short(value)
        for name, value in arguments.items()
    }


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value).decode()
    return f"{text[:PREVIEW]}… ({len(text)} characters)"


def keep(result: ToolResult, limit: int) -> tuple[ToolResult, dict[str, bytes]]:
    """The result as a model may see it, and the texts that were too long for that, by sha256."""
    artifacts: dict[str, bytes] = {}
    content: list[dict[str, Any]] = []
    left = limit
    for block in result.content:
        text = block.get("text")
        if isinstance(text, str):
            data = text.encode(errors="replace")  # lone surrogates have no UTF-8, hence no JSON either
            text = data.decode()
            if len(text) > left:
                sha256 = hashlib.sha256(data).hexdigest()
                artifacts[sha256] = data
                note = f"[The first {left} of {len(text)} characters. The whole text is artifact {sha256[:12]}.]"
                block = {**block, "text": f"{text[:left]}\n{note}"}
            else:
                block = {**block, "text": text}
            left -= min(left, len(text))
        content.append(block)
    structured = None if artifacts else result.structured
    kept = ToolResult(content=content, structured=structured, is_error=result.is_error, cut=bool(artifacts))
    return kept, artifacts


def _problems(tool: Tool, arguments: Any) -> list[str]:
    """A schema that cannot be checked ends the call, not the run: it is the server's fault."""
    try:
        return tool.problems(arguments)
    except ToolFailed as error:
        return [error.message]


def _suffix(attempt: int) -> str:
    return f"/{attempt}" if attempt else ""


def _about(tool: Tool, shown: str) -> dict[str, Any]:
    return {"server": tool.server, "tool": tool.name, "hash": shown}


def _refusal(answer: Answer, shown: str) -> str | None:
    if answer.status == "expired":
        return "Nobody approved this call in time. Do not repeat it."
    if answer.about != shown:
        return "The approval was given for other arguments; it does not count."
    if answer.value["decision"] == "reject":
        reason = answer.value.get("reason") or "no reason given"
        return f"A person rejected this call: {reason}"
    return None
