from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.auth.world import World, new_world


@pytest.fixture
async def world() -> AsyncGenerator[World]:
    async with new_world() as made:
        yield made
