"""A server of your own: short notes in memory. `python -m retinue.examples.server.notes` serves them over stdio."""

from typing import Annotated

import anyio
from pydantic import BaseModel, Field

from retinue.mcp_servers.kit import ToolContext, ToolServer

server = ToolServer("notes", instructions="Short notes. Find one by a word in it.")
notes: list[str] = []
added: dict[str, str] = {}  # what each idempotency key has added


class Found(BaseModel):
    notes: list[str]


@server.tool(scope="notes:read", effect="read_only")
async def find_notes(word: Annotated[str, Field(description="A word in the note.")]) -> Found:
    """Find the notes that contain a word."""
    return Found(notes=[note for note in notes if word.casefold() in note.casefold()])


@server.tool(scope="notes:write", effect="keyed", destructive=False)
async def add_note(text: Annotated[str, Field(description="The note.", max_length=500)], *, ctx: ToolContext) -> str:
    """Add a note. The same idempotency key adds it once."""
    key = ctx.idempotency_key
    if key is None or key not in added:
        notes.append(text)
        if key is not None:
            added[key] = text
    return f"There are {len(notes)} notes."


if __name__ == "__main__":
    anyio.run(server.run_stdio)
