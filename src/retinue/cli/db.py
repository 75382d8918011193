"""``retinue db``: the schema of the database. A SQLite file is brought up to date whenever it is opened."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from .group import App, Group, app, json_option

if TYPE_CHECKING:
    from retinue.database.base import Health


@click.group("db", cls=Group)
def db_command() -> None:
    """Look at the database's schema, and bring it up to date."""


@db_command.command("status")
@json_option()
def status_command() -> int:
    """Tell which schema the database has. Exit code 1 if it is damaged or not up to date."""
    here = app()
    health = _status(here)
    if health is None:
        if here.json:
            here.out.document({"there": False})
        else:
            here.out.print("There is no database yet; the first run makes it.")
        return 0
    good = not health.problem and health.schema == health.newest
    if here.json:
        body = {"there": True, "server": health.server, "schema": health.schema, "newest": health.newest}
        here.out.document(body | {"problem": health.problem})
        return int(not good)
    here.out.print(f"{health.server}, schema {health.schema} of {health.newest}")
    if health.problem:
        here.out.note(f"error: {health.problem}")
    elif not good:
        here.out.note("hint: `retinue db upgrade` brings it up to date.")
    return int(not good)


def _status(here: App) -> Health | None:
    from retinue.database.choose import is_postgres, require_driver

    if is_postgres(here.settings.database):
        require_driver()
        from retinue.database.postgres_schema import status

        return status(here.settings.database)
    return asyncio.run(_checked(here))


async def _checked(here: App) -> Health | None:
    from .reading import reading

    async with reading(here) as db:
        return None if db is None else await db.check()


@db_command.command("upgrade")
@json_option()
def upgrade_command() -> None:
    """Make the tables that are missing, in one transaction. Safe to call again, also from several places at once."""
    from retinue.database.choose import is_postgres, open_database, require_driver

    here = app()
    if is_postgres(here.settings.database):
        require_driver()
        from retinue.database.postgres_schema import upgrade

        applied = upgrade(here.settings.database)
    else:

        async def opened() -> None:
            await (await open_database(here.settings.database)).close()

        asyncio.run(opened())
        applied = list[int]()
    if here.json:
        here.out.document({"applied": applied})
    elif applied:
        here.out.print(f"Applied: {', '.join(map(str, applied))}.")
    else:
        here.out.print("The database is up to date.")
