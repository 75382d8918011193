"""The compose file reads, and names only commands and variables that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from retinue.cli import COMMANDS
from retinue.config.sources import PREFIX, VARIABLES

COMPOSE = Path(__file__).parents[2] / "deploy/compose.yaml"


def test_the_compose_file_names_commands_and_variables_that_there_are() -> None:
    services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert set(services) == {"postgres", "temporal", "schema", "worker"}
    commands = {name for section in COMMANDS.values() for name in section}
    for name in ("schema", "worker"):
        assert services[name]["command"][1] in commands
        ours = {variable for variable in services[name]["environment"] if variable.startswith(PREFIX)}
        assert ours <= set(VARIABLES)
