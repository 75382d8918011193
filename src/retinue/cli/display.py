"""What a person is shown of a question and of the end of a run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from retinue.text import one_line, printable, visible

from .group import App
from .reading import ago

if TYPE_CHECKING:
    from retinue.graphs.questions import Question

BAR = "│ "
_LONG = 100
"""A text argument with more characters, or with a line end, is shown as a block of its own."""
_DOCUMENT_NAMES = re.compile(r"text|content|body|document|markdown|message", re.IGNORECASE)


def document_of(arguments: Mapping[str, Any]) -> str | None:
    """The name of the argument that is a document: what a person would edit as text. None if there is none."""
    texts = {name: value for name, value in arguments.items() if isinstance(value, str)}
    long = [name for name, value in texts.items() if "\n" in value or len(value) > _LONG]
    named = [name for name in texts if _DOCUMENT_NAMES.fullmatch(name)]
    return max(long, key=lambda name: len(texts[name])) if long else named[0] if len(named) == 1 else None


def question_lines(question: Question, *, width: int | None = None) -> Iterator[tuple[str, str]]:
    """The whole of a question, as (style, line): nothing is left out, nothing acts on the terminal.

    ``width`` wraps long lines, so that every line of somebody else's text stands behind the bar.
    """
    yield "title", one_line(question.title, 200)
    match question.kind:
        case "approval" | "in_doubt":
            yield from _arguments(question.body.get("arguments", {}), width)
            if question.kind == "in_doubt":
                yield "", ""
                yield "warn", "The call was begun, and its result never came. It is not made again without your word."
        case _:
            value = question.body.get("value")
            if isinstance(value, Mapping):
                yield from _arguments(cast("Mapping[str, Any]", value), width)
            elif value is not None and str(value) != question.title:
                yield from _block(value if isinstance(value, str) else _json(value), width)
            yield from _expected(question.schema)


def _arguments(arguments: Mapping[str, Any], width: int | None) -> Iterator[tuple[str, str]]:
    for name, value in arguments.items():
        text = value if isinstance(value, str) else _json(value)
        if "\n" in text or len(text) > _LONG:
            yield "name", f"{one_line(name, 60)}:"
            yield from _block(text, width)
        else:
            yield "name", f"{one_line(name, 60)}: {visible(text)}"


def _block(text: str, width: int | None) -> Iterator[tuple[str, str]]:
    shown = visible(text)
    for line in shown.split("\n"):
        for piece in wrapped(line.expandtabs(4), None if width is None else max(width - len(BAR) - 3, 20)):
            yield "text", BAR + piece
    if shown != text.replace("\r\n", "\n"):
        yield "warn", "It holds characters that a terminal does not show; they are written out, as \\x1b or \\u202e."


def wrapped(line: str, width: int | None) -> Iterator[str]:
    """Pieces that fit, broken at spaces where there are any, without losing a character but these."""
    if width is None or len(line) <= width // 2:
        yield line
        return
    from rich.cells import cell_len, chop_cells

    while cell_len(line) > width:
        head = chop_cells(line, width)[0]
        space = head.rfind(" ")
        if len(head) < len(line) and line[len(head)] == " ":
            space = len(head)
        cut = space if space > width // 3 else len(head)
        yield line[:cut]
        line = line[cut:].removeprefix(" ") if cut == space else line[cut:]
    yield line


def _expected(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if options := choices(schema):
        for number, option in enumerate(options, 1):
            yield "name", f"  {number}  {one_line(str(option), 120)}"
    elif schema.get("type") not in (None, "string"):
        yield "dim", f"The answer is JSON: {one_line(_json(schema), 300)}"


def choices(schema: Mapping[str, Any]) -> Sequence[Any]:
    """What may be chosen, where the schema lists it."""
    if isinstance(schema.get("enum"), list):
        return schema["enum"]
    if schema.get("type") == "boolean":
        return [True, False]
    return []


def _json(value: Any) -> str:
    import orjson

    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode()


_STYLES: Mapping[str, Mapping[str, Any]] = {
    "title": {"bold": True},
    "name": {},
    "text": {},
    "warn": {"fg": "yellow"},
    "dim": {"dim": True},
}


def show_question(app: App, question: Question, *, width: int | None = None) -> None:
    """The whole question on stdout."""
    out = app.out
    for style, line in question_lines(question, width=width):
        mark = "? " if style == "title" else "  "
        if style == "title":
            out.raw(out.style(mark, fg="yellow", bold=True) + out.style(line, bold=True))
        elif style == "text":
            out.raw(mark + out.style(BAR, dim=True) + out.style(line.removeprefix(BAR)))
        else:
            out.raw(mark + out.style(line, **_STYLES.get(style, {})) if line else "")


def program() -> str:
    """What to type for `retinue` here: the name where the shell finds it, else the path it was called by."""
    called = sys.argv[0]
    if os.path.basename(called) != "retinue" or os.sep not in called or shutil.which("retinue") is not None:
        return "retinue"
    near = os.path.relpath(called)
    return near if len(near) < len(called) else called


def how_to_answer(app: App, run: str, question: Question, *, alone: bool) -> str:
    """The command that answers, as it can be pasted."""
    command = [program(), *app.arguments, "answer", run, *([] if alone else [question.id])]
    base = shlex.join(command)
    match question.kind:
        case "approval":
            return f"{base} --approve   (or --reject WHY, --edit FILE)"
        case "in_doubt":
            return f"{base} --happened   (or --not-happened)"
        case _ if choices(question.schema):
            return f"{base} --text CHOICE"
        case _ if question.schema.get("type") in (None, "string"):
            return f"{base} --text TEXT"
        case _:
            return f"{base} --json-value JSON"


def suggestion(app: App, *words: str) -> str:
    """A command line of ours that works with the global options of this one."""
    return shlex.join([program(), *app.arguments, *words])


def when(question: Question) -> str:
    """How long it has been open, and how long it will be."""
    text = ago(question.asked_at)
    if question.expires_at is not None:
        from .reading import span

        text += f", open for another {span(question.expires_at - max(question.asked_at, _now()))}"
    return text


def _now() -> float:
    import time

    return time.time()


def answer_text(question: Question) -> str:
    """What was answered, in words."""
    match question.kind, question.answer:
        case _, None:
            return ""
        case "approval", {"decision": "reject", **rest}:
            return f"rejected: {rest.get('reason', 'no reason given')}"
        case "approval", {"decision": decision}:
            return {"approve": "approved", "edit": "approved with changes"}.get(decision, str(decision))
        case "in_doubt", {"happened": happened, **rest}:
            said = f": {rest['result']}" if "result" in rest else ""
            return f"it happened{said}" if happened else "it did not happen"
        case _, str(text):
            return text
        case _, value:
            return _json(value)


def output_text(output: Any, summary: Any = None) -> str:
    """A run's output for people: the workflow's own summary, else JSON."""
    if output is None:
        return ""
    if summary is not None:
        return printable(str(summary(output)))
    if isinstance(output, str):
        return printable(output)
    if isinstance(output, Mapping):
        values = list(cast("Mapping[str, Any]", output).values())
        if len(values) == 1 and isinstance(values[0], str):
            return printable(values[0])
    return printable(_json(output))


def show_output(app: App, output: Any, summary: Any = None) -> None:
    """A run's output on stdout: Markdown on a terminal, text elsewhere."""
    try:
        text = output_text(output, summary)
    except Exception as error:  # a summary is the workflow's own code, and no reason to lose the output
        app.out.note(f"the workflow's summary failed: {type(error).__name__}: {error}")
        text, summary = output_text(output), None
    if not text:
        return
    if summary is None or not app.out.rich:
        app.out.print(text.rstrip("\n"))
        return
    import sys

    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    console.print(Markdown(text, hyperlinks=False))
