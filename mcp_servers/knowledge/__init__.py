"""A library of documents: Markdown, text, HTML and PDF in folders, found by their words and quoted by their offsets.

`Library` is the library itself, `knowledge_server` serves it over MCP, `text` has helpers for programs that quote.
Names are loaded when they are first used: a program that only needs `text` loads no database and no server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embed import Embedder, HttpEmbedder
    from .library import Library, default_index
    from .models import DocumentInfo, Found, Hit, IndexReport, Passage, Progress, Skipped
    from .scan import Limits
    from .server import knowledge_server

__all__ = [
    "DocumentInfo",
    "Embedder",
    "Found",
    "Hit",
    "HttpEmbedder",
    "IndexReport",
    "Library",
    "Limits",
    "Passage",
    "Progress",
    "Skipped",
    "default_index",
    "knowledge_server",
]

_HOME = {
    "Embedder": "embed",
    "HttpEmbedder": "embed",
    "Library": "library",
    "default_index": "library",
    "DocumentInfo": "models",
    "Found": "models",
    "Hit": "models",
    "IndexReport": "models",
    "Passage": "models",
    "Progress": "models",
    "Skipped": "models",
    "Limits": "scan",
    "knowledge_server": "server",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
