"""The runs of one process on Postgres."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from retinue.database.postgres import PostgresDatabase
from tests.support.desk import Desk


@pytest.fixture
async def database(postgres_url: str) -> AsyncGenerator[PostgresDatabase]:
    opened = await PostgresDatabase.open(postgres_url)
    yield opened
    await opened.close()


@pytest.fixture
async def desk(database: PostgresDatabase) -> AsyncGenerator[Desk]:
    """What holds of every database is checked at the end."""
    made = Desk(database)
    yield made
    await made.check()
    await made.runs.close()
