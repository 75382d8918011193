"""Asking at the terminal: a question is shown whole, and answered, edited, rejected or left for later."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import orjson

from retinue.errors import AlreadyAnswered, AnswerRejected
from retinue.text import one_line, visible

from .display import BAR, choices, document_of, question_lines, show_question, wrapped
from .group import App
from .terminal import NoEditor, Terminal

if TYPE_CHECKING:
    from retinue.graphs.questions import Question

DIFFERENCE = 60
"""Lines of a difference that are shown."""

Submit = Callable[["Question", Any], Awaitable[None]]
"""Hands an answer in. Raises `AnswerRejected` when it does not fit."""

Closed = Callable[["Question"], Awaitable[None]]
"""Returns once the question is open no longer."""

Ending = Literal["answered", "later", "elsewhere"]


@dataclass(frozen=True, slots=True)
class _Later:
    """The person does not answer now."""


LATER = _Later()


class Asker:
    """Asks one question after the other."""

    def __init__(self, app: App, terminal: Terminal, submit: Submit, closed: Closed) -> None:
        self._app = app
        self._terminal = terminal
        self._submit = submit
        self._closed = closed

    async def ask(self, question: Question) -> Ending:
        """Show the question and ask until there is an answer that fits, or the person leaves it."""
        out = self._app.out
        out.raw("")
        show_question(self._app, question, width=self._terminal.width)
        out.raw("")
        self._terminal.forget_typed()
        asking = asyncio.ensure_future(self._until_answered(question))
        watching = asyncio.ensure_future(self._until_closed(question))
        try:
            await asyncio.wait([asking, watching], return_when=asyncio.FIRST_COMPLETED)
            ending = asking.result() if asking.done() else "elsewhere"
        finally:
            for task in (asking, watching):
                task.cancel()
            await asyncio.gather(asking, watching, return_exceptions=True)
        if ending == "elsewhere":
            out.raw("  Somebody has answered it elsewhere.")
        return ending

    async def _until_closed(self, question: Question) -> None:
        await self._closed(question)
        await self._terminal.returned.wait()

    async def _until_answered(self, question: Question) -> Ending:
        conversation = _CONVERSATIONS.get(question.kind, _free)
        draft = _Draft()
        while True:
            try:
                value = await conversation(self, question, draft)
                if value is LATER:
                    return "later"
                await self._submit(question, value)
            except AlreadyAnswered:
                return "elsewhere"
            except (AnswerRejected, NoEditor) as error:
                self._app.out.raw(self._app.out.style(f"  {error.message}. {error.hint}".rstrip(), fg="red"))
                continue
            return "answered"

    # What the conversations are made of

    async def choose(self, options: Sequence[tuple[str, str]]) -> str:
        """One of these (letter and what it means). The end of input means later."""
        menu = "   ".join(
            f"[{word[0]}]{word[1:]}" if word.startswith(key) else f"[{key}] {word}" for key, word in options
        )
        words = {word.split()[0].strip(","): key for key, word in options} | {key: key for key, _ in options}
        while True:
            line = await self._terminal.read_line(f"  {menu}: ")
            if line is None:
                return "l"
            said = line.strip().lower()
            if said in words:
                return words[said]
            if said:
                self._app.out.raw(f"  Please type one of {', '.join(key for key, _ in options)}.")

    async def read(self, prompt: str) -> str | None:
        line = await self._terminal.read_line(f"  {prompt}: ")
        return None if line is None else line.strip()

    async def show_in_pager(self, question: Question) -> None:
        text = "\n".join(line for _, line in question_lines(question, width=self._terminal.width))
        if not await self._terminal.page(text):
            show_question(self._app, question, width=self._terminal.width)

    async def edit(self, text: str, suffix: str) -> str | None:
        """The edited text; None when nothing was changed."""
        edited = await self._terminal.edit(text, suffix=suffix)
        if edited is None:
            self._app.out.raw("  The editor failed; nothing was changed.")
            return None
        if edited == text:
            self._app.out.raw("  Nothing was changed.")
            return None
        return edited

    def show_difference(self, before: str, after: str) -> None:
        out = self._app.out
        lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm=""))[2:]
        for line in lines[:DIFFERENCE]:
            color = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            for piece in wrapped(visible(line).expandtabs(4), max(self._terminal.width - 5, 20)):
                out.raw("  " + out.style(BAR, dim=True) + out.style(piece, fg=color))
        if len(lines) > DIFFERENCE:
            out.raw(f"  {BAR}… and {len(lines) - DIFFERENCE} more lines")
        out.raw("")


@dataclass(slots=True)
class _Draft:
    """What the person has edited so far: an answer that was refused is not typed anew."""

    arguments: dict[str, Any] | None = None


async def _approval(asker: Asker, question: Question, draft: _Draft) -> Any:
    arguments: dict[str, Any] = question.body.get("arguments", {})
    document = document_of(arguments)
    options = [("a", "approve"), ("e", "edit")]
    options += [("j", "json, edit all arguments")] if document is not None and len(arguments) > 1 else []
    options += [("r", "reject"), ("v", "view"), ("l", "later")]
    while True:
        match await asker.choose(options):
            case "a":
                return {"decision": "approve"}
            case "e" | "j" as how:
                now = draft.arguments or arguments
                edited = await _edited(asker, now, document if how == "e" else None)
                if edited is not None:
                    draft.arguments = edited
                    return {"decision": "edit", "arguments": edited}
            case "r":
                reason = await asker.read("Why? (the agent is told)")
                if reason is not None:
                    return {"decision": "reject", **({"reason": reason} if reason else {})}
            case "v":
                await asker.show_in_pager(question)
            case _:
                return LATER


async def _edited(asker: Asker, arguments: dict[str, Any], document: str | None) -> dict[str, Any] | None:
    """The arguments as the person wants them; None when they changed nothing."""
    if document is not None:
        before: str = arguments[document]
        text = await asker.edit(before, ".md")
        if text is None:
            return None
        if not before.endswith("\n") and text.endswith("\n") and text.count("\n") > before.count("\n"):
            text = text[:-1]  # editors end the last line; the document did not
        asker.show_difference(before, text)
        return {**arguments, document: text}
    before = orjson.dumps(arguments, option=orjson.OPT_INDENT_2).decode() + "\n"
    text = await asker.edit(before, ".json")
    if text is None:
        return None
    asker.show_difference(before, text)
    return parse_arguments(text)


def parse_arguments(text: str) -> dict[str, Any]:
    """Edited arguments: a JSON object. Raises `AnswerRejected`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise AnswerRejected(f"this is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise AnswerRejected("the arguments must be a JSON object")
    return cast("dict[str, Any]", value)


async def _in_doubt(asker: Asker, question: Question, draft: _Draft) -> Any:
    options = [("y", "yes, it happened"), ("n", "no, make it now"), ("v", "view"), ("l", "later")]
    while True:
        match await asker.choose(options):
            case "y":
                said = await asker.read("What did it answer? (Enter if you do not know)")
                return LATER if said is None else {"happened": True, **({"result": said} if said else {})}
            case "n":
                return {"happened": False}
            case "v":
                await asker.show_in_pager(question)
            case _:
                return LATER


async def _free(asker: Asker, question: Question, draft: _Draft) -> Any:
    """A choice, a text, or any other JSON value."""
    options = choices(question.schema)
    if options:
        said = await asker.read(f"Your choice (1–{len(options)}; Enter for later)")
        return LATER if not said else chosen(options, said)
    said = await asker.read("Your answer (Enter for later, :e for the editor)")
    if said == ":e":
        said = ((await asker.edit("", ".txt")) or "").strip()
    return LATER if not said else value_of(question.schema, said)


def chosen(options: Sequence[Any], said: str) -> Any:
    """The option that was meant by its number or its text. Raises `AnswerRejected`."""
    if said.isascii() and said.isdigit() and 1 <= int(said) <= len(options) and int(said) not in options:
        return options[int(said) - 1]
    if options == [True, False] and said.lower() in ("y", "yes", "n", "no", "true", "false"):
        return said.lower() in ("y", "yes", "true")
    for option in options:
        if said == option or said.lower() == str(option).lower():
            return option
    raise AnswerRejected(f"{one_line(said, 60)!r} is not among the choices")


def value_of(schema: Any, said: str) -> Any:
    """Typed text as the value that the schema wants: text where it takes text, else JSON. Raises `AnswerRejected`."""
    kinds = schema.get("type")
    if kinds is None or "string" in ([kinds] if isinstance(kinds, str) else kinds):
        return said
    try:
        return orjson.loads(said)
    except orjson.JSONDecodeError:
        raise AnswerRejected(f"this is not JSON, and the answer should be of type {kinds}") from None


_CONVERSATIONS: dict[str, Callable[[Asker, Any, _Draft], Awaitable[Any]]] = {
    "approval": _approval,
    "in_doubt": _in_doubt,
}
