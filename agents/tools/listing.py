"""What a server may say about its tools: a stranger's list, bounded before anything is built on it.

A list goes into every prompt, into the run's fingerprint and before people who approve, so what is too large for that,
or cannot be written down the same way twice, ends the connection with a typed error. Nothing is cut silently: a tool
that is described by half is another tool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import mcp_types as types

from retinue.errors import ToolFailed
from retinue.text import printable

from .base import canonical, digest

MAX_TOOLS: Final = 1_000
MAX_PAGES: Final = 100
MAX_NAME: Final = 128
MAX_DESCRIPTION: Final = 32_768
"""Characters."""
MAX_SCHEMA: Final = 256 * 1024
"""Bytes of one input schema."""
MAX_LISTING: Final = 4 * 1024 * 1024
"""Bytes of all names, descriptions and input schemas together."""
LIST_SECONDS: Final = 60.0
"""For all pages together."""


class Listing:
    """The pages of one listing as they come."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._bytes = 0
        self._pages = 0
        self._cursors: set[str] = set()
        self._names: set[str] = set()
        self.tools: list[types.Tool] = []

    def add(self, page: Sequence[types.Tool], cursor: str | None) -> None:
        """Take a page, and the cursor of the next. Raises `ToolFailed`."""
        self._pages += 1
        if self._pages > MAX_PAGES or len(self.tools) + len(page) > MAX_TOOLS:
            raise self._refusal(f"more than {MAX_PAGES} pages or {MAX_TOOLS} tools")
        if cursor is not None:
            if cursor in self._cursors or len(cursor) > 4096:
                raise self._refusal("pages in a circle")
            self._cursors.add(cursor)
        for tool in page:
            self._take(tool)

    def _take(self, tool: types.Tool) -> None:
        name = tool.name
        if not name or len(name) > MAX_NAME or not name.isprintable() or name != name.strip():
            raise self._refusal(f"a tool whose name is not one: {name[:40]!a}")
        if name in self._names:
            raise self._refusal(f"two tools named {name!r}")
        size = self._size(tool)
        self._bytes += size
        if self._bytes > MAX_LISTING:
            raise self._refusal(f"more than {MAX_LISTING // 1024**2} MB of descriptions")
        self._names.add(name)
        self.tools.append(tool)

    def _size(self, tool: types.Tool) -> int:
        text = described(tool)
        if len(text) > MAX_DESCRIPTION:
            raise self._refusal(f"a description of {len(text)} characters, for {tool.name!r}")
        try:
            schema = len(canonical(tool.input_schema))
            written = len(text.encode())
        except (TypeError, ValueError, RecursionError):
            raise self._refusal(f"an input schema that has no JSON form, for {tool.name!r}") from None
        if schema > MAX_SCHEMA:
            raise self._refusal(f"an input schema of {schema} bytes, for {tool.name!r}")
        return len(tool.name) + written + schema

    def _refusal(self, what: str) -> ToolFailed:
        return ToolFailed(
            f"the list of tools of {self._server} is not accepted: {what}",
            hint="Ask whoever runs the server, or leave it out.",
        )


def described(tool: types.Tool) -> str:
    """A tool's description for a model and for people: without control sequences and what else hides text."""
    return printable(tool.description or tool.title or tool.name)


def pins(tools: Sequence[types.Tool]) -> Mapping[str, str]:
    """Digest by name of all that a server says about each tool."""
    return {tool.name: digest(_said(tool)) for tool in tools}


def _said(tool: types.Tool) -> dict[str, Any]:
    hints = None if tool.annotations is None else tool.annotations.model_dump(mode="json", exclude_none=True)
    return {"name": tool.name, "description": described(tool), "schema": tool.input_schema, "hints": hints}
