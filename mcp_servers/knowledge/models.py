"""What a library answers with. Every offset counts Python characters (code points) of the document's canonical text."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SkipReason = Literal[
    "binary",  # NUL bytes, or a type that holds no text
    "unsupported",  # text of a type that no reader knows
    "encoding",  # not UTF-8 (HTML: nor what it declares), or a file name that is not
    "encrypted",  # a PDF that asks for a password
    "damaged",  # the file cannot be parsed
    "no_text",  # a PDF of images
    "empty",
    "too_large",
    "too_many",  # the library is at its limit of documents
    "timeout",  # parsing took longer than allowed
    "unreadable",  # no permission, or it went away
    "not_a_file",  # socket, device, named pipe
    "symlink_loop",
    "symlink_outside",  # leads out of the library
    "symlink_broken",
    "duplicate",  # a link to something that is in the library already
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Hit(_Frozen):
    """A passage that was found: ``read(document).text[start:end] == text``."""

    document: str = Field(description="Id of the document: its path inside the library.")
    title: str = Field(description="Title of the document.")
    heading: str = Field(description="Headings above the passage, outermost first, joined with ' > '. May be empty.")
    start: int = Field(description="Offset of the passage's first character in the document's text.")
    end: int = Field(description="Offset after the passage's last character.")
    text: str = Field(description="The passage, exactly as in the document.")
    score: float = Field(description="Higher is better. Comparable only within one answer.")
    coverage: float = Field(
        description="Share of the query's terms, rare ones weighing more, that occur in the passage or its headings: "
        "0 to 1. A best hit far below 0.5 hints that the library does not answer the query."
    )


class Passage(_Frozen):
    """A piece of a document, or all of it."""

    document: str = Field(description="Id of the document.")
    title: str = Field(description="Title of the document.")
    text: str = Field(description="The text from start to end.")
    start: int = Field(description="Offset of the text's first character in the document.")
    end: int = Field(description="Offset after the text's last character.")
    length: int = Field(description="Length of the whole document. If end is less, read on from there.")


class DocumentInfo(_Frozen):
    """A document of the library."""

    document: str = Field(description="Id of the document: its path inside the library.")
    title: str = Field(description="Title of the document.")
    media_type: str = Field(description="text/markdown, text/plain, text/html or application/pdf.")
    length: int = Field(description="Length of its text in characters.")
    sha256: str = Field(description="Hash of the file's bytes, hexadecimal.")


class Skipped(_Frozen):
    """A file that is not in the library, and why."""

    path: str = Field(description="Path inside the library.")
    reason: SkipReason = Field(description="Why it was skipped.")
    detail: str = Field(description="The same in words.")


class IndexReport(_Frozen):
    """What one refresh did."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: list[Skipped] = []
    notices: list[str] = []
    """What the reader of results should know: a rebuilt index, an embedder that did not answer."""


class Progress(_Frozen):
    """How far a refresh is. Sent at its start, a few times a second, and at its end (``done == total``)."""

    phase: Literal["reading", "embedding"]
    done: int
    total: int
    document: str = ""
    """The last one finished."""


class Found(_Frozen):
    """The answer to one query."""

    hits: list[Hit]
    retrieval: Literal["lexical", "hybrid"]
    notices: list[str] = []
