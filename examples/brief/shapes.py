"""What travels between the agents of the brief."""

from __future__ import annotations

from operator import add
from typing import Annotated

from pydantic import BaseModel, Field


class Ask(BaseModel):
    """What the brief is asked."""

    question: str = Field(min_length=3, max_length=2000, description="The question that the library shall answer.")
    path: str = Field(default="", description="Where the brief is written in the workspace; made from the question.")


class Plan(BaseModel):
    """The question as parts that can be looked up on their own."""

    questions: list[str] = Field(min_length=1, max_length=5)


class Evidence(BaseModel):
    """A sentence or two that a scout found, and the passage of `search` that it is in."""

    document: str
    heading: str
    passage_start: int = Field(description="`start` of the passage, as search gave it")
    passage_end: int = Field(description="`end` of the passage, as search gave it")
    quote: str = Field(description="Copied from the passage word for word, at least 40 characters")


class Finding(BaseModel):
    """What one scout found. No evidence: the library does not say."""

    question: str
    evidence: list[Evidence] = Field(default=[], max_length=6)


class Draft(BaseModel):
    """A brief in Markdown, with ``[1]``, ``[2]`` … where it cites."""

    title: str
    body: str
    citations: list[Evidence] = Field(default=[], description="In the order of their numbers, beginning with [1]")


class Citation(BaseModel):
    """A quote and where it stands: ``read(document).text[start:end] == quote``."""

    number: int
    document: str
    heading: str
    start: int
    end: int
    quote: str


class Verdict(BaseModel):
    """What the checker says of a draft."""

    problems: list[str] = []
    citations: list[Citation] = []


class Saved(BaseModel):
    """Where the brief was written, or why it was not."""

    path: str | None = None
    note: str = ""


class Answer(BaseModel):
    """What the workflow gives back."""

    question: str
    document: str
    """The whole brief in Markdown, as it was offered for writing."""
    citations: list[Citation]
    saved: Saved


class Brief(BaseModel):
    """The state of the graph."""

    question: str
    path: str = ""
    plan: Plan | None = None
    findings: Annotated[list[Finding], add] = []
    draft: Draft | None = None
    verdict: Verdict | None = None
    attempts: int = 0
    document: str = ""
    citations: list[Citation] = []
    saved: Saved | None = None
