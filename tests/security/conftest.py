"""One server for all attacks of a module; each attack begins with nothing having got through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.security.attacker import SERVED, Attacker
from tests.support.terminal import Warm


@pytest.fixture(scope="module", params=sorted(SERVED))
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Attacker]:
    """The knowledge server as a run serves it, and as a command does."""
    async with SERVED[request.param](tmp_path_factory.mktemp("served")) as attacker:
        metadata = f"{attacker.origin}/.well-known/oauth-protected-resource{attacker.path}"
        attacker.nonce = (await attacker.http.get(metadata)).headers["dpop-nonce"]
        yield attacker


@pytest.fixture
def attacker(served: Attacker) -> Iterator[Attacker]:
    served.reached.clear()
    yield served
    served.reached.clear()


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    """Runs commands in processes of their own."""
    started = Warm()
    yield started
    started.close()
