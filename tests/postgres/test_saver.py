"""LangGraph's conformance suite for checkpoint savers, test by test, on Postgres."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from retinue.database.postgres import PostgresDatabase
from retinue.graphs.checkpoints import Checkpoints
from tests.graphs.test_checkpoint_conformance import AT_LEAST, CAPABILITIES, SUITE, Conforms, conformance, name_of

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("conforms", SUITE, ids=name_of)
async def test_the_saver_conforms(conforms: Conforms, database: PostgresDatabase) -> None:
    await conforms(Checkpoints(database))


async def test_every_capability_is_detected_and_passes(database: PostgresDatabase) -> None:
    async def savers() -> AsyncGenerator[Checkpoints]:
        yield Checkpoints(database)

    report = await conformance.validate(conformance.checkpointer_test("retinue")(savers))
    assert sorted(report.results) == CAPABILITIES
    assert all(result.detected and result.passed for result in report.results.values()), report.to_dict()
    assert sum(result.tests_passed for result in report.results.values()) == len(SUITE) >= AT_LEAST
