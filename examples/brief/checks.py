"""The checker and the clerk: work that is code with and without a language model."""

from __future__ import annotations

import hashlib
import re
from typing import Any, cast

import orjson

from retinue.agents.models.function import Answer, FunctionCall

from .functions import MIN_QUOTE
from .shapes import Citation, Draft, Evidence, Saved, Verdict

_MARK = re.compile(r"\[(\d{1,3})\]")


def check(call: FunctionCall) -> Answer:
    """Read every cited passage again and hold each quote against it."""
    draft = Draft.model_validate_json(call.task)
    if draft.citations and not call.results:
        return [
            call.use("read", document=c.document, start=c.passage_start, end=c.passage_end) for c in draft.citations
        ]
    problems = _marks(draft)
    citations: list[Citation] = []
    for number, (evidence, passage) in enumerate(zip(draft.citations, call.results, strict=True), start=1):
        data = _fields(passage.data)
        if passage.is_error or not data:
            problems.append(f"[{number}] names {evidence.document!r}, which cannot be read there: {passage.text[:200]}")
            continue
        text: str = data["text"]
        span = find(evidence.quote, text)
        if span is None:
            problems.append(f"[{number}] is not in {evidence.document}: {_short(evidence.quote)}")
            continue
        start: int = data["start"] + span[0]
        quote = text[span[0] : span[1]]
        if len(quote) < MIN_QUOTE:
            problems.append(f"[{number}] is shorter than {MIN_QUOTE} characters: {_short(quote)}")
        if any((c.document, c.start, c.end) == (evidence.document, start, start + len(quote)) for c in citations):
            problems.append(f"[{number}] quotes what is quoted already: {_short(quote)}")
        citations.append(_citation(number, evidence, start, quote))
    return Verdict(problems=problems, citations=[] if problems else citations)


def _fields(data: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def _citation(number: int, evidence: Evidence, start: int, quote: str) -> Citation:
    return Citation(
        number=number,
        document=evidence.document,
        heading=evidence.heading,
        start=start,
        end=start + len(quote),
        quote=quote,
    )


def _marks(draft: Draft) -> list[str]:
    """Numbers in the text and citations must be the same."""
    used = {int(number) for number in _MARK.findall(draft.body)}
    given = set(range(1, len(draft.citations) + 1))
    missing = [f"the text cites [{n}], and there is no citation {n}" for n in sorted(used - given)]
    return missing + [f"citation {n} is nowhere in the text" for n in sorted(given - used)]


def find(quote: str, text: str) -> tuple[int, int] | None:
    """Where the quote stands in the text; line ends and runs of spaces may differ, nothing else."""
    words = quote.split()
    if not words:
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), text)
    return None if match is None else match.span()


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return f"“{flat if len(flat) <= 80 else flat[:79] + '…'}”"


def document(question: str, draft: Draft, citations: list[Citation]) -> str:
    """The brief as it is written: the draft and its sources."""
    lines = [f"# {draft.title}", "", draft.body.strip(), ""]
    if citations:
        lines += ["## Sources", ""]
    for c in citations:
        where = f"{c.document} › {c.heading}" if c.heading else c.document
        lines += [f"[{c.number}] {where}, characters {c.start}–{c.end}:", f"> {' '.join(c.quote.split())}", ""]
    if draft.title != question:
        lines[2:2] = [f"*Question: {question}*", ""]
    return "\n".join(lines).rstrip() + "\n"


def save(call: FunctionCall) -> Answer:
    """Write the document, once; a person's refusal is an answer too."""
    if not call.results:
        task = orjson.loads(call.task)
        return call.use("write_document", path=task["path"], text=task["text"])
    result = call.results[-1]
    if result.is_error:
        return Saved(note=result.text)
    written, task = _fields(result.data), orjson.loads(call.task)
    as_offered = written.get("sha256") == hashlib.sha256(task["text"].encode()).hexdigest()
    return Saved(path=written.get("path"), note="" if as_offered else "A person edited it before it was written.")


def slug(question: str) -> str:
    """A file name made from the question."""
    words = re.findall(r"[^\W_]+", question.lower())
    return "-".join(words)[:60].strip("-") or "brief"
