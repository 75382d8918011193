"""What Claude Desktop is given works from any folder and with any PATH."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from retinue.errors import ConfigError
from retinue.mcp_servers.desktop import config_path, desktop_block, retinue_program


def test_the_block_names_the_program_by_an_absolute_path() -> None:
    program = retinue_program()
    assert os.path.isabs(program[0])
    assert Path(program[0]).is_file()
    block = desktop_block("knowledge", command=[*program, "mcp", "serve", "knowledge", "--stdio"])
    assert block == {
        "mcpServers": {
            "knowledge": {"command": program[0], "args": [*program[1:], "mcp", "serve", "knowledge", "--stdio"]}
        }
    }
    with_env = desktop_block("x", command=program, env={"RETINUE_PROFILE": "work"})
    assert with_env["mcpServers"]["x"].get("env") == {"RETINUE_PROFILE": "work"}


def test_a_program_that_would_be_looked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="absolute"):
        desktop_block("x", command=["retinue", "mcp"])
    with pytest.raises(ConfigError, match="no command"):
        desktop_block("x", command=[])


def test_without_a_script_python_itself_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert retinue_program() == [str(tmp_path / "python"), "-m", "retinue.cli"]


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("darwin", {}, "Library/Application Support/Claude"),
        ("win32", {}, "AppData/Roaming/Claude"),
        ("linux", {}, ".config/Claude"),
    ],
)
def test_the_file_is_where_each_system_keeps_it(platform: str, environ: dict[str, str], expected: str) -> None:
    assert config_path(platform, environ) == Path.home() / expected / "claude_desktop_config.json"


def test_the_systems_own_variables_are_followed() -> None:
    assert config_path("linux", {"XDG_CONFIG_HOME": "/x"}) == Path("/x/Claude/claude_desktop_config.json")
    assert config_path("win32", {"APPDATA": "/y"}) == Path("/y/Claude/claude_desktop_config.json")
