"""What the core promises, test by test as on SQLite: the same functions, on Postgres."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import pytest

from retinue.database.base import Database, Transaction
from retinue.database.postgres import PostgresDatabase
from tests.support import desk as desks
from tests.support.desk import Desk, opened
from tests.support.postgres import Server

T = TypeVar("T")

MODULES = ("leases", "questions", "budgets", "events", "users_nodes", "breaking_off", "members", "runs", "forks")
ELSEWHERE = {
    "test_a_full_disk_leaves_the_run_as_it_was_and_it_goes_on_when_there_is_space",
    "test_a_fan_out_of_five_hundred_is_bounded_and_finishes",
    "test_a_run_that_took_all_its_supersteps_and_could_not_be_closed_is_done_when_it_is_resumed",
}
"""These make SQLite itself fail; and how many are at work at once depends on how fast it writes."""


class Clocked(PostgresDatabase):
    """With a clock of the test's."""

    clock: Callable[[], float] | None = None

    def _timed(self, work: Callable[[Transaction], T]) -> Callable[[Transaction], T]:
        clock = self.clock
        if clock is None:
            return work

        def timed(tx: Any) -> T:
            tx.now = clock()
            return work(tx)

        return timed

    async def write(self, work: Callable[[Transaction], T], *, flush: bool = False) -> T:
        return await super().write(self._timed(work), flush=flush)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await super().read(self._timed(work))


@pytest.fixture(autouse=True)
def _on_postgres(  # pyright: ignore[reportUnusedFunction]  # used by being autouse
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path stands for tables of its own."""
    places: dict[Path, str] = {}

    def where(path: Path) -> str:
        return places.get(path) or places.setdefault(path, postgres.new_schema())

    async def connect(place: str | Path, clock: Callable[[], float] | None) -> Database:
        database = await Clocked.open(postgres.new_schema() if place == ":memory:" else where(Path(place)))
        assert isinstance(database, Clocked)
        database.clock = clock
        return database

    monkeypatch.setattr(desks, "connect", connect)
    monkeypatch.setattr(desks, "where", where)
    monkeypatch.setattr("retinue.database.postgres_watch.YOUNG", 0.0)


@pytest.fixture
async def desk(anyio_backend: str) -> AsyncGenerator[Desk]:
    async with opened() as made:
        yield made


@pytest.fixture
async def on_disk(anyio_backend: str, tmp_path: Path) -> AsyncGenerator[Desk]:
    async with opened(tmp_path / "runs.db") as made:
        yield made


def taken_over() -> Iterator[tuple[str, Any]]:
    """The tests of those modules, and the fixtures that they made."""
    seen: set[str] = set()
    for name in MODULES:
        module = import_module(f"tests.graphs.test_{name}")
        for key, value in vars(module).items():
            is_test = key.startswith("test_") and getattr(value, "__module__", None) == module.__name__
            is_fixture = type(value).__name__ == "FixtureFunctionDefinition"
            if (is_test and key not in ELSEWHERE) or is_fixture:
                assert key not in seen or is_fixture, f"{key} is the name of two tests"
                seen.add(key)
                yield key, value


globals().update(taken_over())
pytestmark = pytest.mark.anyio
