"""``retinue inbox`` and ``retinue answer``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from retinue.errors import AnswerRejected, QuestionNotFound, RetinueError, UsageError
from retinue.text import one_line

from . import complete, loop
from .group import App, Command, app, json_option
from .inputs import read_text

if TYPE_CHECKING:
    from retinue.graphs.questions import Question


@click.command("inbox", cls=Command)
@json_option()
def inbox_command() -> None:
    """Show the questions that wait for an answer, oldest first."""
    asyncio.run(_inbox(app()))


async def _inbox(here: App) -> None:
    from retinue.graphs import questions
    from retinue.local import local_principal

    from .display import how_to_answer, when
    from .reading import reading, short_id

    async with reading(here) as db:
        found = [] if db is None else await questions.inbox(db, subject=local_principal().key)
        if here.json:
            here.out.document({"questions": [question.to_json() for question in found]})
            return
        if db is None or not found:
            here.out.print("No question waits for you.")
            return
        of_run = [question.resumes for question in found]
        for question in found:
            short = await short_id(db, question.resumes)
            title = here.out.style(one_line(question.title, 90), bold=True)
            here.out.raw(f"{here.out.style(short, fg='yellow')}  {title}  {here.out.style(when(question), dim=True)}")
            command = how_to_answer(here, short, question, alone=of_run.count(question.resumes) == 1)
            here.out.raw(f"        {here.out.style(command)}")


@click.command(
    "answer",
    cls=Command,
    epilog="""\b
Examples:
  retinue answer 7f3a12                         shows the question and asks (on a terminal)
  retinue answer 7f3a12 --approve
  retinue answer 7f3a12 --reject "the sum is wrong"
  retinue answer 7f3a12 --edit brief.md         the document as it should be
  retinue answer 7f3a12 --edit arguments.json   all arguments of the call
  retinue answer 7f3a12 --text "Tuesday"
  retinue answer 7f3a12 --happened --result "sent"
""",
)
@click.argument("run", shell_complete=complete.run)
@click.argument("question", required=False)
@click.option("--approve", is_flag=True, help="Approve the call as it is.")
@click.option("--reject", metavar="WHY", help="Refuse the call; the agent is told why.")
@click.option("--edit", metavar="FILE", help="Approve it with this document, or (.json) with these arguments.")
@click.option("--text", metavar="TEXT", help="Answer with a text or a choice.")
@click.option("--json-value", metavar="JSON", help="Answer with any JSON value.")
@click.option("--happened", is_flag=True, help="A call in doubt did happen: do not make it again.")
@click.option("--not-happened", is_flag=True, help="A call in doubt did not happen: make it now.")
@click.option("--result", metavar="TEXT", help="What a call that happened answered.")
@click.option("--no-resume", is_flag=True, help="Keep the answer, and let another command go on with the run.")
@json_option("Print the events from the answer on as JSON lines.")
def answer_command(run: str, question: str | None, no_resume: bool, **flags: Any) -> int:
    """Answer a question of RUN, and go on with the run here.

    RUN is an id or the beginning of one. QUESTION tells which, where the run has more than one open.
    """
    here = app()
    given = _given(flags)
    if given is None and not here.out.interactive:
        raise UsageError(
            "what is the answer?", hint="--approve, --reject WHY, --edit FILE, --text T, --happened; see --help."
        )

    async def main(signals: loop.Signals) -> int:
        return await _answer(here, signals, run, question, given, resume=not no_resume)

    return loop.run(main)


def _given(flags: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The one answer that the flags give; None if they give none. Raises `UsageError`."""
    given = {name: value for name, value in flags.items() if name != "result" and value not in (None, False)}
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names} are different answers", hint="Give one of them.")
    if flags["result"] is not None and "happened" not in given:
        raise UsageError("--result goes with --happened")
    for name, value in given.items():
        return name, flags["result"] if name == "happened" else value
    return None


async def _answer(
    here: App, signals: loop.Signals, run: str, question: str | None, given: tuple[str, Any] | None, *, resume: bool
) -> int:
    from retinue.graphs import questions

    from .carry import Carrier, opened
    from .reading import find_whole, reading

    async with reading(here) as db:  # a wrong id is told at once, and makes no database
        record = await find_whole(db, run)
        assert db is not None
        open_ones = await questions.inbox(db, run=record.id)
    chosen = _chosen(open_ones, question, record.id, all_of_them=given is None)
    value = None if given is None else answer_to(chosen[0], *given)
    async with opened(here, create=False) as host:
        carrier = Carrier(here, host, signals, workflow=record.workflow)
        carrier.after = record.seq
        if given is None:
            going_on = await carrier.ask(record, chosen)
        else:
            await carrier.answer(chosen[0], value, channel="command")
            carrier.after = await _before_the_answer(host.db, record.id, chosen[0].id, record.seq)
            if not resume:
                return await _told(here, host.db, record.id, carrier.after)
            try:
                going_on = await carrier.resumed(record)
            except RetinueError as error:
                here.out.note("The answer is kept, but the run cannot go on here.")
                return carrier.failed(record.id, error)
        return going_on if isinstance(going_on, int) else await carrier.carry(going_on)


def _chosen(open_ones: Sequence[Question], wanted: str | None, run: str, *, all_of_them: bool) -> list[Question]:
    if wanted is not None:
        found = [question for question in open_ones if question.id.startswith(wanted)]
        if len(found) != 1:
            which = "no open question" if not found else "more than one open question"
            raise QuestionNotFound(f"run {run[:6]} has {which} {wanted}")
        return found
    if not open_ones:
        raise QuestionNotFound(
            f"run {run[:6]} has no open question", hint="`retinue runs show RUN` tells how it stands."
        )
    if len(open_ones) > 1 and not all_of_them:
        listed = "; ".join(f"{question.id} {one_line(question.title, 60)}" for question in open_ones)
        raise UsageError(f"run {run[:6]} has {len(open_ones)} open questions", hint=f"Name one: {listed}")
    return list(open_ones)


def answer_to(question: Question, how: str, value: Any) -> Any:
    """The answer as the question wants it. Raises `AnswerRejected`, `UsageError`."""
    from .ask import chosen, parse_arguments, value_of
    from .display import choices, document_of

    approves, doubts = how in ("approve", "reject", "edit"), how in ("happened", "not_happened")
    if approves != (question.kind == "approval") or doubts != (question.kind == "in_doubt"):
        fitting = {
            "approval": "--approve, --reject WHY or --edit FILE",
            "in_doubt": "--happened or --not-happened",
        }.get(question.kind, "--text TEXT or --json-value JSON")
        raise AnswerRejected(f"--{how.replace('_', '-')} does not answer {question.title!r}", hint=f"Use {fitting}.")
    match how:
        case "approve":
            return {"decision": "approve"}
        case "reject":
            return {"decision": "reject", **({"reason": value} if value else {})}
        case "edit":
            text = read_text(value)
            if value.endswith(".json") or value == "-":
                return {"decision": "edit", "arguments": parse_arguments(text)}
            arguments: dict[str, Any] = question.body["arguments"]
            name = document_of(arguments)
            if name is None:
                raise AnswerRejected(
                    "this call has no document to edit", hint="Give all its arguments in a .json file."
                )
            return {"decision": "edit", "arguments": {**arguments, name: text}}
        case "happened":
            return {"happened": True, **({"result": value} if value else {})}
        case "not_happened":
            return {"happened": False}
        case "json_value":
            return parse_json(value)
        case _:
            options = choices(question.schema)
            return chosen(options, value) if options else value_of(question.schema, value)


def parse_json(text: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise AnswerRejected(f"--json-value: this is not JSON: {error}") from None


async def _before_the_answer(db: Any, run: str, question: str, after: int) -> int:
    """The number of the event before the answer's."""
    from retinue.graphs.follow import all_events

    async for line in all_events(db, run, after=after):
        if line["type"] == "question.answered" and line["question"] == question:
            return line["seq"] - 1
    return after


async def _told(here: App, db: Any, run: str, after: int) -> int:
    """Show what the answer left behind, without going on."""
    from retinue.graphs.follow import all_events

    from .display import suggestion
    from .reading import short_id

    if here.json:
        async for line in all_events(db, run, after=after):
            here.out.line(line)
    else:
        command = suggestion(here, "resume", await short_id(db, run))
        here.out.print(f"The answer is kept. Go on with: {command}")
    return 0
