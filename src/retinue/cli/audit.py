"""``retinue audit``."""

from __future__ import annotations

import asyncio

import click

from .group import App, Group, app, json_option


@click.group("audit", cls=Group)
def audit_command() -> None:
    """The audit trail: who decided, called, approved and refused what."""


@audit_command.command("verify")
@click.option("--head", metavar="HEAD", help="What an earlier verify printed: that row must still be there.")
@json_option()
def verify_command(head: str | None) -> int:
    """Walk the whole chain of hashes; exit code 1 if a row was changed, removed or inserted.

    Keep the head that it prints somewhere else: rows that were cut off the end show only by comparing with it.
    """
    return asyncio.run(_verify(app(), head))


async def _verify(here: App, head: str | None) -> int:
    from retinue import audit

    from .reading import reading

    async with reading(here) as db:
        if db is None:
            report = audit.VerifyReport(rows=0, ok=head is None, problem="" if head is None else "there is no database")
        else:
            report = await audit.verify(db, head=head)
    if here.json:
        here.out.document(
            {
                "ok": report.ok,
                "rows": report.rows,
                "head": report.head,
                "first_bad": report.first_bad,
                "problem": report.problem,
            }
        )
    elif report.ok:
        here.out.print(f"The audit trail is whole: {report.rows} rows.")
        here.out.print(f"head {report.head}")
    else:
        here.out.note(f"error: the audit trail is broken: {report.problem}")
        here.out.note(f"hint: {report.rows} rows before it are good.")
    return 0 if report.ok else 1
