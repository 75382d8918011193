"""Questions to people: asked once, answered once, kept until then.

An answer is accepted whenever its question is open, whoever executes the run. It says who answered and through what
channel; a model's channel does not exist, so a model cannot approve what a model asked for.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson

from retinue import audit
from retinue.database.base import Database, Row, Transaction
from retinue.errors import AlreadyAnswered, AnswerRejected, NotAllowed, NotSerializable, QuestionNotFound

from ..agents.scope import Ask, Note
from ..auth.principal import Principal
from .events import Line, dump

Channel = Literal["terminal", "command", "api", "console", "link", "elicitation"]
Status = Literal["open", "answered", "expired", "withdrawn"]

_COLUMNS = (
    "q.id, q.run, q.path, q.key, q.kind, q.body, q.schema, q.status, q.answer, q.answered_by, q.channel, "
    "q.interrupt_id, q.asked_at, q.expires_at, q.answered_at"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    id: str
    run: str
    path: str
    key: str
    kind: str
    body: dict[str, Any]
    schema: dict[str, Any]
    status: Status
    answer: Any
    answered_by: str | None
    channel: str | None
    interrupt_id: str | None
    asked_at: float
    expires_at: float | None
    answered_at: float | None
    root: str = ""
    """The run that is resumed when this is answered, where it is not ``run`` itself."""

    @property
    def resumes(self) -> str:
        """The run that goes on when this is answered."""
        return self.root or self.run

    @property
    def title(self) -> str:
        return str(self.body.get("title", self.kind))

    def to_json(self) -> dict[str, Any]:
        """What inboxes show: all of it but the inner names."""
        return {
            "question": self.id,
            "run": self.resumes,
            "kind": self.kind,
            "title": self.title,
            "status": self.status,
            "path": self.path,
            "asked_at": self.asked_at,
            "expires_at": self.expires_at,
            "body": self.body,
            "schema": self.schema,
        }


def _question(row: Row) -> Question:
    (id_, run, path, key, kind, body, schema, status, answer, by, channel, interrupt, asked, expires, answered) = row
    return Question(
        id=id_,
        run=run,
        path=path,
        key=key,
        kind=kind,
        body=orjson.loads(body),
        schema=orjson.loads(schema),
        status=status,
        answer=None if answer is None else orjson.loads(answer),
        answered_by=by,
        channel=channel,
        interrupt_id=interrupt,
        asked_at=asked,
        expires_at=expires,
        answered_at=answered,
    )


def insert(
    tx: Transaction, run: str, path: str, ask: Ask, *, interrupt: str | None = None, expires_in: float | None = None
) -> str:
    """Keep an open question; returns its id."""
    id_ = secrets.token_hex(6)
    body = dump({"title": ask.title, **ask.body}, "the question").decode()
    tx.execute(
        "INSERT INTO questions (id, run, path, key, kind, body, schema, status, interrupt_id, asked_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, 'open', ?, ?, ?)",
        (
            id_, run, path, ask.key, ask.kind, body, dump(ask.schema, "the schema").decode(),
            interrupt, tx.now, None if expires_in is None else tx.now + expires_in,
        ),
    )  # fmt: skip
    return id_


def of_path(tx: Transaction, run: str, path: str) -> list[Question]:
    rows = tx.all(f"SELECT {_COLUMNS} FROM questions q WHERE q.run = ? AND q.path = ?", (run, path))  # noqa: S608
    return [_question(row) for row in rows]


def of_run(tx: Transaction, run: str) -> list[Question]:
    rows = tx.all(f"SELECT {_COLUMNS} FROM questions q WHERE q.run = ? ORDER BY q.asked_at, q.id", (run,))  # noqa: S608
    return [_question(row) for row in rows]


def by_id(tx: Transaction, ids: Sequence[str]) -> list[Question]:
    rows = [tx.one(f"SELECT {_COLUMNS} FROM questions q WHERE q.id = ?", (id_,)) for id_ in ids]  # noqa: S608
    return [_question(row) for row in rows if row is not None]


async def inbox(db: Database, *, subject: str | None = None, run: str | None = None) -> list[Question]:
    """Open questions of runs that are not over, oldest first; those of ``run`` include its members' runs'."""
    sql = (
        f"SELECT {_COLUMNS}, r.root FROM questions q JOIN runs r ON r.id = q.run "  # noqa: S608
        "WHERE q.status = 'open' AND r.status IN ('running', 'waiting', 'stopped') "
        "AND (q.expires_at IS NULL OR q.expires_at > ?)"
    )
    params: list[Any] = []
    if subject is not None:
        sql += " AND r.subject = ?"
        params.append(subject)
    if run is not None:
        sql += " AND (r.id = ? OR r.root = ?)"
        params += [run, run]
    sql += " ORDER BY q.asked_at, q.id"
    rows = await db.read(lambda tx: tx.all(sql, [tx.now, *params]))
    return [replace(_question(row[:-1]), root=row[-1] or "") for row in rows]


def usable(schema: Mapping[str, Any]) -> bool:
    """Whether answers can be checked against this schema."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        dump(schema, "the schema")
        Draft202012Validator.check_schema(schema)
    except (NotSerializable, SchemaError):
        return False
    return True


def check(schema: Mapping[str, Any], value: Any) -> None:
    """Raise `AnswerRejected` with what does not fit."""
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry: by default jsonschema fetches what a schema refers to.
    found = Draft202012Validator(schema, registry=Registry[Any]()).iter_errors(value)
    try:
        problems = sorted(found, key=lambda e: list(map(str, e.absolute_path)))
    except Unresolvable:
        raise AnswerRejected("the question's schema refers to another one, which is not looked up") from None
    if problems:
        first = problems[0]
        where = "/".join(map(str, first.absolute_path)) or "the answer"
        raise AnswerRejected(
            f"{where}: {first.message}"[:500], hint="`retinue inbox --json` shows the question's schema."
        )


async def answer(
    db: Database, id_: str, value: Any, *, principal: Principal, channel: Channel
) -> tuple[Question, Line]:
    """Close an open question with a person's answer, once; returns it and the event of it.

    Raises `QuestionNotFound`, `AlreadyAnswered`, `AnswerRejected`, `NotAllowed`.
    """
    from .journal import append_events

    if not principal.may_approve:
        raise NotAllowed(f"{principal.key} may not answer questions", hint="It takes a person with runs:approve.")

    def work(tx: Transaction) -> tuple[Question, Line]:
        of = tx.one("SELECT run FROM questions WHERE id = ?", (id_,))
        owner = of and tx.one("SELECT subject, coalesce(root, id) FROM runs WHERE id = ?", of)
        if owner is not None:  # the run that waits for this one's questions is about to look, or has looked
            tx.one("SELECT 1 FROM runs WHERE id = ?", owner[1:], lock=True)
        row = owner and tx.one(f"SELECT {_COLUMNS} FROM questions q WHERE q.id = ?", (id_,))  # noqa: S608
        if not row or not owner or owner[0] != principal.key:
            raise QuestionNotFound(f"there is no question {id_}")
        question = _question(row)
        if question.status != "open":
            by = f" by {question.answered_by}" if question.answered_by else ""
            raise AlreadyAnswered(f"question {id_} is already {question.status}{by}")
        if question.expires_at is not None and question.expires_at <= tx.now:
            raise AlreadyAnswered(f"question {id_} has expired")
        try:
            said = dump(value, "the answer").decode()
        except NotSerializable as error:
            raise AnswerRejected(error.message) from None
        check(question.schema, value)
        if question.kind == "approval" and value["decision"] == "edit":
            _check_edit(question, value)
        tx.execute(
            "UPDATE questions SET status = 'answered', answer = ?, answered_by = ?, channel = ?, answered_at = ? "
            "WHERE id = ? AND status = 'open'",
            (said, principal.key, channel, tx.now, id_),
        )
        body = {"question": id_, "kind": question.kind, "by": principal.key, "channel": channel}
        seq = tx.one("UPDATE runs SET seq = seq + 1, updated_at = ? WHERE id = ? RETURNING seq", (tx.now, question.run))
        assert seq is not None
        (line,) = append_events(tx, question.run, seq[0], [Note(type="question.answered", body=body)])
        record = {
            "question": id_,
            "answer": audit.digest(value),
            "about": question.body.get("hash"),
            "channel": channel,
        }
        if question.kind == "approval":
            record["decision"] = value["decision"]
        audit.append(tx, actor=principal.key, action="question.answered", run=question.run, body=record)
        return question, line

    return await db.write(work)


def _check_edit(question: Question, value: Mapping[str, Any]) -> None:
    from ..agents.tools.schemas import Checker

    if "arguments" not in value:
        raise AnswerRejected("an edit needs the edited arguments")
    try:  # the schema is a server's: it may be broken, or made to keep us busy
        problems = Checker(question.body["input_schema"]).problems(value["arguments"])
    except Exception as error:
        raise AnswerRejected(f"the tool's input schema cannot be checked ({type(error).__name__})") from None
    if problems:
        raise AnswerRejected(problems[0], hint="`retinue inbox --json` shows the tool's input schema.")


def expire(tx: Transaction, run: str) -> list[tuple[str, str]]:
    """Close the questions of a run whose time is over; returns their ids and kinds."""
    rows = tx.all(
        "UPDATE questions SET status = 'expired', answered_at = ? "
        "WHERE run = ? AND status = 'open' AND expires_at <= ? RETURNING id, kind",
        (tx.now, run, tx.now),
    )
    return sorted((id_, kind) for id_, kind in rows)


def withdraw(tx: Transaction, question: Question, *, problem: str) -> None:
    """Take back an answer that the node which asked does not accept, and say why."""
    body = orjson.dumps({**question.body, "problem": problem}).decode()
    tx.execute("UPDATE questions SET status = 'withdrawn', body = ? WHERE id = ?", (body, question.id))


def withdraw_open(tx: Transaction, run: str) -> None:
    """Close what is still open in a run that is over."""
    tx.execute("UPDATE questions SET status = 'withdrawn' WHERE run = ? AND status = 'open'", (run,))
