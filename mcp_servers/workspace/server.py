"""The built-in server ``workspace``: agents write and read text documents in one folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Final

import anyio.to_thread
from pydantic import Field

from ..kit import ToolContext, ToolServer
from .documents import MAX_BYTES, Document, Documents, Listing, Written

READ: Final = "workspace:read"
WRITE: Final = "workspace:write"

_PathArgument = Annotated[str, Field(description="Relative path with forward slashes, such as `notes/brief.md`.")]


def workspace_server(root: Path, *, max_bytes: int = MAX_BYTES) -> ToolServer:
    """A server for the folder ``root``, which is made if it is missing. ``max_bytes`` bounds one document."""
    documents = Documents(root, max_bytes=max_bytes)
    server = ToolServer(
        "workspace",
        instructions="Text documents in one folder. Paths are relative to it; hidden files and links are out of reach.",
    )

    @server.tool(scope=WRITE, effect="keyed", destructive=True, title="Write a document")
    async def write_document(
        path: _PathArgument,
        text: Annotated[str, Field(description="The whole text of the document.")],
        *,
        ctx: ToolContext,
    ) -> Written:
        """Create a text document, or replace the whole of an existing one."""
        return await anyio.to_thread.run_sync(partial(documents.write, path, text, key=ctx.idempotency_key))

    @server.tool(scope=READ, effect="read_only", title="Read a document")
    async def read_document(
        path: _PathArgument,
        offset: Annotated[int, Field(description="The character to begin at.", ge=0)] = 0,
        limit: Annotated[int, Field(description="How many characters to return at most.", ge=1, le=100_000)] = 50_000,
    ) -> Document:
        """Read a text document, or a part of it."""
        return await anyio.to_thread.run_sync(partial(documents.read, path, offset=offset, limit=limit))

    @server.tool(scope=READ, effect="read_only", title="List documents")
    async def list_documents(
        folder: Annotated[str, Field(description="Only what is below this folder; empty for everything.")] = "",
        limit: Annotated[int, Field(description="How many documents to name at most.", ge=1, le=1000)] = 200,
    ) -> Listing:
        """Name the text documents there are, in the order of their paths."""
        return await anyio.to_thread.run_sync(partial(documents.list, folder, limit=limit))

    _ = (write_document, read_document, list_documents)
    return server
