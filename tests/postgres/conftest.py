"""One Postgres server for the session, and tables of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from retinue.database.postgres import PostgresDatabase
from tests.support.desk import Desk
from tests.support.postgres import Server, running


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def url(server: Server) -> str:
    return server.new_schema()


@pytest.fixture
async def database(url: str) -> AsyncIterator[PostgresDatabase]:
    opened = await PostgresDatabase.open(url)
    yield opened
    await opened.close()


@pytest.fixture
async def desk(database: PostgresDatabase) -> AsyncIterator[Desk]:
    """The runs of this process; what holds of every database is checked at the end."""
    made = Desk(database)
    yield made
    await made.check()
    await made.runs.close()
