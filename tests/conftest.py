"""What every test stands on: no settings of the developer's, a home of its own, and no way off this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

from tests.support import suites
from tests.support.site import sitecustomize as network

FOREIGN = ("ANTHROPIC_", "RETINUE_", "OTEL_", "LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_", "PG")
"""Prefixes of variables that would change what is tested, or hand a test a real key."""
FOREIGN_NAMES = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "EDITOR", "VISUAL"}

pytest_plugins = ["pytester"]

if TYPE_CHECKING:
    from tests.support.postgres import Server

SITE = str(Path(network.__file__).parent)

# Two busy cores make any deadline a lottery; a failing example is printed, so no database of them is needed.
hypothesis_settings.register_profile("house", deadline=None, database=None, print_blob=True)
hypothesis_settings.load_profile("house")


def foreign_variables() -> list[str]:
    return [
        name
        for name in os.environ
        if name.startswith(FOREIGN) or name in FOREIGN_NAMES or name.lower().endswith("_proxy")
    ]


for _name in foreign_variables():  # some libraries read theirs on import, before any fixture
    del os.environ[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    suites.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    suites.register(config)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server of this session's own."""
    from tests.support.postgres import running

    with running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Server) -> str:
    """A database on it, with tables that nobody has used."""
    return postgres.new_schema()


@pytest.fixture(autouse=True)
def _own_house(tmp_path: Path) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  # used by being autouse
    """A clean environment with its home under ``tmp_path``, and loopback as the only network, for children too."""
    home, log = tmp_path / "home", tmp_path / "network.log"
    with pytest.MonkeyPatch.context() as patch:
        for name in foreign_variables():
            patch.delenv(name)
        for name in ("HOME", "USERPROFILE"):
            patch.setenv(name, str(home))
        for name, folder in (
            ("XDG_CONFIG_HOME", ".config"),
            ("XDG_STATE_HOME", ".local/state"),
            ("XDG_DATA_HOME", ".local/share"),
            ("XDG_CACHE_HOME", ".cache"),
            ("APPDATA", "AppData/Roaming"),
            ("LOCALAPPDATA", "AppData/Local"),
        ):
            patch.setenv(name, str(home / folder))
        patch.setenv(network.LOG, str(log))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [SITE, os.environ.get("PYTHONPATH")])))
        yield
    if log.exists():
        pytest.fail(f"this test tried to leave the machine:\n{log.read_text()}")
