"""What the shell offers for names and ids. It reads, executes nothing, and keeps silent about errors."""

from __future__ import annotations

import asyncio
import logging

import click
from click.shell_completion import CompletionItem

from .group import App


def workflow(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Configured and installed workflows, without importing any."""
    from retinue.config import workflow_entries

    try:
        entries = workflow_entries((ctx.find_object(App) or App()).settings)
    except Exception:
        return _nothing()
    return [CompletionItem(name, help=entry.target) for name, entry in entries.items() if name.startswith(incomplete)]


def run(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The newest of one's own runs."""
    try:
        return asyncio.run(_runs(ctx.find_object(App) or App(), incomplete))
    except Exception:
        return _nothing()


async def _runs(here: App, incomplete: str) -> list[CompletionItem]:
    from retinue.graphs import records
    from retinue.local import local_principal

    from .reading import reading, short_id

    async with reading(here) as db:
        if db is None:
            return []
        found = await records.recent(db, subject=local_principal().key, limit=50)
        return [
            CompletionItem(await short_id(db, record.id), help=f"{record.workflow}, {record.status}")
            for record in found
            if record.id.startswith(incomplete)
        ]


def _nothing() -> list[CompletionItem]:
    logging.getLogger("retinue.cli").debug("completion failed", exc_info=True)
    return []
