"""LangGraph's own conformance suite for checkpoint savers, test by test, on a file and in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from retinue.database.sqlite import SQLiteDatabase
from retinue.graphs.checkpoints import Checkpoints

pytestmark = pytest.mark.anyio

Conforms = Callable[[Checkpoints], Awaitable[None]]

# The package ships no types.
conformance: Any = import_module("langgraph.checkpoint.conformance")
capabilities: Any = import_module("langgraph.checkpoint.conformance.capabilities")

CAPABILITIES: list[str] = sorted(capability.value for capability in capabilities.ALL_CAPABILITIES)
AT_LEAST = 81
"""Tests in version 0.0.2 of the suite: a version that drops some is noticed."""


def suite_of(capability: str) -> list[Conforms]:
    spec = import_module(f"langgraph.checkpoint.conformance.spec.test_{capability}")
    return getattr(spec, f"ALL_{capability.upper()}_TESTS")


SUITE = [test for capability in CAPABILITIES for test in suite_of(capability)]


def name_of(test: Callable[..., object]) -> str:
    return test.__name__.removeprefix("test_")


@pytest.fixture(params=["memory", "file"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[SQLiteDatabase]:
    opened = await SQLiteDatabase.open(":memory:" if request.param == "memory" else tmp_path / "runs.db")
    yield opened
    await opened.close()


@pytest.mark.parametrize("conforms", SUITE, ids=name_of)
async def test_the_saver_conforms(conforms: Conforms, database: SQLiteDatabase) -> None:
    await conforms(Checkpoints(database))


async def test_every_capability_is_detected_and_every_test_of_it_passes(database: SQLiteDatabase) -> None:
    async def savers() -> AsyncGenerator[Checkpoints]:
        yield Checkpoints(database)

    report = await conformance.validate(conformance.checkpointer_test("retinue")(savers))
    results = report.results
    assert sorted(results) == CAPABILITIES
    assert all(result.detected and result.passed for result in results.values()), report.to_dict()
    assert sum(result.tests_skipped + result.tests_failed for result in results.values()) == 0
    assert sum(result.tests_passed for result in results.values()) == len(SUITE) >= AT_LEAST
    assert report.conformance_level() == "FULL"
