"""What the agents do where no language model is configured: rules, retrieval and quotes.

They compose nothing of their own: what a brief says without a model is what the library says, word for word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from retinue.agents.models.function import Answer, FunctionCall
from retinue.mcp_servers.knowledge.text import sentences, terms

from .shapes import Draft, Evidence, Finding, Plan

_WHOLE = re.compile(r"[.!?…。！？][\"'”’»)\]*_`」』）]*$")
"""A sentence has an end; a line of code that a passage begins in the middle of has none."""

MIN_QUOTE = 40
"""Characters. Shorter sentences say too little on their own."""
MAX_QUOTE = 600
ENOUGH = 0.5
"""Share of a question's terms, rare ones weighing more, that a passage must cover to be taken for an answer."""
QUOTES = 3
"""The most sentences that a scout brings home."""

_CLAUSES = re.compile(
    r"[?;]\s+|,?\s+and\s+(?=(?:how|what|when|where|which|who|why|is|are|does|do|can|may)\b)", re.IGNORECASE
)


def plan(call: FunctionCall) -> Answer:
    """A question for each clause that asks something of its own."""
    clauses = [clause.strip(" ?.;,") for clause in _CLAUSES.split(call.task)]
    questions = [clause[0].upper() + clause[1:] + "?" for clause in clauses if len(terms(clause)) > 0]
    return Plan(questions=questions[:5] or [call.task])


def scout(call: FunctionCall) -> Answer:
    """Search once, then quote the sentences that answer best, if the passages cover the question at all."""
    if not call.results:
        return call.use("search", query=call.task, limit=8)
    found = call.results_of("search")
    hits: list[dict[str, Any]] = found[0].data["hits"] if found else []
    return Finding(question=call.task, evidence=best_sentences(call.task, hits))


def best_sentences(question: str, hits: Sequence[dict[str, Any]]) -> list[Evidence]:
    """The sentences that share most with the question, none twice, each with the passage it stands in."""
    hits = [hit for hit in hits if hit["coverage"] >= ENOUGH]
    wanted = Counter(terms(question))
    if not hits or not wanted:
        return []
    weight = _weights(wanted, (hit["text"] for hit in hits))
    total = sum(weight.values())
    scored: list[tuple[float, int, Evidence]] = []
    for rank, hit in enumerate(hits):
        around = set(terms(f"{hit['title']} {hit['heading']}"))
        for span in sentences(hit["text"], lists=True):
            quote = hit["text"][span.start : span.end]
            if not MIN_QUOTE <= len(quote) <= MAX_QUOTE or not _WHOLE.search(quote):
                continue
            said = set(terms(quote))
            own = sum(weight[term] for term in wanted if term in said) / total
            context = sum(weight[term] for term in wanted if term in around and term not in said) / total
            score = own + 0.3 * context - 0.02 * rank
            evidence = Evidence(
                document=hit["document"],
                heading=hit["heading"],
                passage_start=hit["start"],
                passage_end=hit["end"],
                quote=quote,
            )
            scored.append((score, rank, evidence))
    scored.sort(key=lambda item: (-item[0], item[1]))
    if not scored or scored[0][0] < ENOUGH - 0.1:
        return []
    chosen: list[Evidence] = []
    for score, _, evidence in scored:
        if len(chosen) == QUOTES or score < 0.6 * scored[0][0]:
            break
        if all(evidence.quote != other.quote for other in chosen):
            chosen.append(evidence)
    return chosen


def _weights(wanted: Counter[str], passages: Iterable[str]) -> dict[str, float]:
    """A term that is in every passage tells them less apart than one that is in few."""
    seen = [set(terms(passage)) for passage in passages]
    return {term: 1.0 / (1 + sum(term in passage for passage in seen)) ** 0.5 for term in wanted}


def write(call: FunctionCall) -> Answer:
    """The scouts' quotes, each under its question, numbered."""
    task = orjson.loads(call.task)
    findings = [Finding.model_validate(f) for f in task["findings"]]
    citations: list[Evidence] = []
    parts: list[str] = []
    for finding in findings:
        quotes: list[str] = []
        for evidence in finding.evidence:
            if all(evidence.quote != other.quote for other in citations):
                citations.append(evidence)
                quotes.append(f"- “{' '.join(evidence.quote.split())}” [{len(citations)}]")
        if len(findings) > 1:
            parts.append(f"### {finding.question}")
        if quotes:
            parts.append("\n".join(quotes))
        elif not finding.evidence:
            parts.append("The library does not answer this.")
    if not citations:
        parts = ["The library does not answer this question. Nothing in it was close enough to quote."]
    note = (
        "*No language model was used: these are sentences of the library, chosen by search and quoted as they stand.*"
    )
    return Draft(title=task["question"], body="\n\n".join([*parts, note]), citations=citations)
